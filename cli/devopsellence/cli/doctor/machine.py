"""What can be looked at without the cluster: the configuration, Docker, our own certificate."""

from __future__ import annotations

import asyncio
import datetime
from typing import TYPE_CHECKING, Final

from devopsellence.cli import context, errors
from devopsellence.cli.output import CheckResult, CliError, NextAction

if TYPE_CHECKING:
    from pathlib import Path

    from devopsellence.store.settings import Settings

_DAY: Final = datetime.timedelta(days=1)


def configuration() -> CheckResult:
    """The devopsellence.yml of this folder."""
    from devopsellence import config

    path = context.config_path()
    if path is None:
        action = NextAction("write one", "devopsellence init")
        return CheckResult("configuration", "warning", "no devopsellence.yml here", "config_missing", (action,))
    try:
        loaded = config.load(path)
    except config.ConfigError as error:
        action = NextAction("see what is wrong", "devopsellence config validate")
        return CheckResult("configuration", "error", errors.of_config(error).message, "config_invalid", (action,))
    return CheckResult("configuration", "ok", f"{path} ({loaded.organization}/{loaded.project})")


async def docker(host: str | None) -> CheckResult:
    """The engine that builds images."""
    from devopsellence.cli.images.docker_cli import Docker

    engine = Docker(host)
    try:
        done = await engine.run("version", "--format", "client {{.Client.Version}}, engine {{.Server.Version}}")
        platform, buildx = await asyncio.gather(engine.platform(), engine.has_buildx())
    except CliError as error:
        return CheckResult.from_error("docker", error)
    builder = "BuildKit" if buildx else "the classic builder (docker buildx is not installed)"
    return CheckResult("docker", "ok", f"{done.output.strip()}, {platform}, builds with {builder}")


def certificates(settings: Settings, now: datetime.datetime) -> list[CheckResult]:
    """How long our certificate and the cluster's authority are valid; nothing where certificates are not used."""
    from devopsellence.cli.certificates.pki import CertificateError, load_certificate

    if settings.ca_cert is None or settings.cert is None:
        return []
    mend = _mend_certificate(settings)
    found = []
    for name, path in (("certificate", settings.cert), ("authority", settings.ca_cert)):
        try:
            certificate = load_certificate(path)
        except CertificateError as error:
            found.append(CheckResult(name, "error", str(error), "certificate_missing", (mend,)))
            continue
        found.append(validity(name, path, certificate.not_valid_after_utc - now, mend))
    return found


def validity(name: str, path: Path, left: datetime.timedelta, mend: NextAction) -> CheckResult:
    """What to say of a certificate that is valid for ``left``."""
    from devopsellence.cli.certificates.pki import RENEW_WHEN_LEFT

    if left <= datetime.timedelta(0):
        return CheckResult(name, "error", f"{path} is no longer valid", "certificate_expired", (mend,))
    days = f"{path} is valid for {left // _DAY} more days"
    if left < RENEW_WHEN_LEFT:
        return CheckResult(name, "warning", days, "certificate_expires", (mend,))
    return CheckResult(name, "ok", days)


def _mend_certificate(settings: Settings) -> NextAction:
    if context.is_dev(settings):
        return NextAction("renew it", "devopsellence dev up")
    return NextAction("renew it, where the cluster's authority is", "devopsellence cluster init")
