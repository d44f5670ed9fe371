"""Checks of this machine: configuration, Docker, certificates of the operator."""

from __future__ import annotations

import asyncio
import datetime
from typing import TYPE_CHECKING, Final

from devopsellence.agent_identity import OPERATOR_PREFIX
from devopsellence.cli import context, errors
from devopsellence.cli.access_token import TokenSettings, place_of
from devopsellence.cli.output import CheckResult, CliError, NextAction
from devopsellence.names import NAME

if TYPE_CHECKING:
    from devopsellence.store.settings import Settings

_DAY: Final = datetime.timedelta(days=1)
#: Certificates that renew themselves do so with 27 days left at the latest.
_WARNED_WHEN_LEFT: Final = 20 * _DAY


def configuration() -> CheckResult:
    """Check devopsellence.yml in this folder."""
    from devopsellence import config

    path = context.config_path()
    if path is None:
        action = NextAction("create the file", "devopsellence init")
        return CheckResult("configuration", "warning", "no devopsellence.yml here", "config_missing", (action,))
    try:
        loaded = config.load(path)
    except config.ConfigError as error:
        action = NextAction("list the problems", "devopsellence config validate")
        return CheckResult("configuration", "error", errors.of_config(error).message, "config_invalid", (action,))
    return CheckResult("configuration", "ok", f"{path} ({loaded.organization}/{loaded.project})")


async def docker(host: str | None) -> CheckResult:
    """Check the Docker Engine that builds images."""
    from devopsellence.cli.images.docker_cli import DockerCli

    engine = DockerCli(host)
    try:
        versions = await engine.run("version", "--format", "client {{.Client.Version}}, engine {{.Server.Version}}")
        platform, buildx = await asyncio.gather(engine.platform(), engine.has_buildx())
    except CliError as error:
        return CheckResult.from_error("docker", error)
    builder = "BuildKit" if buildx else "the classic builder (docker buildx is not installed)"
    return CheckResult("docker", "ok", f"{versions.output.strip()}, {platform}, builds with {builder}")


def certificates(settings: Settings, now: datetime.datetime) -> list[CheckResult]:
    """Check the expiry of the client certificate and the CA; no results in a cluster without certificates."""
    from devopsellence.certificates.pem import CertificateError, load_certificate

    if settings.ca_cert is None or settings.cert is None:
        return []
    fix = _renew_action(settings)
    results = []
    for name, path in (("certificate", settings.cert), ("authority", settings.ca_cert)):
        try:
            certificate = load_certificate(path)
        except CertificateError as error:
            results.append(CheckResult(name, "error", str(error), "certificate_missing", (fix,)))
            continue
        results.append(validity(name, place_of(settings, path, name), certificate.not_valid_after_utc - now, fix))
    return results


def validity(name: str, certificate: str, left: datetime.timedelta, fix: NextAction) -> CheckResult:
    """Return the result for a certificate, called so in the message, with ``left`` until its expiry."""
    if left <= datetime.timedelta(0):
        return CheckResult(name, "error", f"{certificate} has expired", "certificate_expired", (fix,))
    days = f"{certificate} expires in {left // _DAY} days"
    if left < _WARNED_WHEN_LEFT:
        return CheckResult(name, "warning", days, "certificate_expires", (fix,))
    return CheckResult(name, "ok", days)


def _renew_action(settings: Settings) -> NextAction:
    if isinstance(settings, TokenSettings):
        command = "devopsellence operator token create <name>"
        return NextAction("create another token, as an admin of all environments", command)
    if context.is_dev(settings):
        return NextAction("renew the certificate", "devopsellence dev up")
    operator = _operator_in(settings)
    command = f"devopsellence cluster issue operator {operator}" if operator else "devopsellence cluster init"
    return NextAction("renew, on the machine with the cluster's CA", command)


def _operator_in(settings: Settings) -> str:
    """Return the operator whose certificate these settings have; "" for root, or if it cannot be read."""
    from devopsellence.certificates.facts import common_name
    from devopsellence.certificates.pem import CertificateError, load_certificate

    try:
        name = common_name(load_certificate(settings.cert)) if settings.cert is not None else ""
    except CertificateError:
        return ""
    operator = name.removeprefix(OPERATOR_PREFIX)
    return operator if operator != name and NAME.match(operator) else ""
