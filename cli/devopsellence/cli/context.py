"""Which etcd, which configuration, which environment a command is about; and running something against that etcd."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar

import click

from devopsellence.cli.options import global_flags
from devopsellence.cli.output import CliError, NextAction, Output

if TYPE_CHECKING:
    from devopsellence.store.etcd import Etcd
    from devopsellence.store.keys import EnvironmentRef
    from devopsellence.store.settings import Settings

T = TypeVar("T")
# Seconds that one call to etcd may take: with the start of the process, a dead etcd is reported within 5 s.
CALL_TIMEOUT: Final = 4.0


def connection(ctx: click.Context) -> Settings:
    """How to reach etcd: the flags, else the ``DEVOPSELLENCE_ETCD_*`` variables, else the cluster of this machine.

    Raises:
        CliError: ``settings_invalid`` (exit code 2), or ``etcd_unavailable`` when nothing says where etcd is.
    """
    from devopsellence.store.settings import PREFIX, Settings, SettingsError

    flags = connection_flags(ctx)
    prefix = flags.get(PREFIX) or os.environ.get(PREFIX)
    try:
        settings = Settings.from_environ({**os.environ, **flags})
        if settings is None and (dev := dev_settings()) is not None and not flags.keys() - {PREFIX}:
            settings = replace(dev, prefix=prefix) if prefix else dev
    except SettingsError as error:
        raise CliError("settings_invalid", str(error), exit_code=2) from error
    if settings is None and flags.keys() - {PREFIX}:
        message = "--etcd-endpoints (or DEVOPSELLENCE_ETCD_ENDPOINTS) is missing beside the other flags"
        raise CliError("settings_invalid", message, exit_code=2)
    if settings is None:
        mend = [
            NextAction("start a cluster on this machine", "devopsellence dev up"),
            NextAction("or say where etcd is", "export DEVOPSELLENCE_ETCD_ENDPOINTS=host:2379"),
        ]
        message = "no cluster: run devopsellence dev up, or set DEVOPSELLENCE_ETCD_ENDPOINTS"
        raise CliError("etcd_unavailable", message, next_actions=mend)
    return settings


def connection_flags(ctx: click.Context) -> dict[str, str]:
    """What the flags say of etcd, by the variable that says the same."""
    return {name: value for name, value in global_flags(ctx).items() if name.startswith("DEVOPSELLENCE_")}


def dev_settings() -> Settings | None:
    """How an operator reaches the cluster of this machine; None when none was ever set up."""
    from devopsellence.cli.dev import state

    return state.settings()


def is_dev(settings: Settings) -> bool:
    """Whether ``settings`` lead to the cluster of this machine."""
    dev = dev_settings()
    return dev is not None and (dev.endpoints, dev.prefix) == (settings.endpoints, settings.prefix)


@dataclass(frozen=True)
class DevNode:
    """The node of the cluster on this machine, and its Docker Engine as docker's ``DOCKER_HOST``."""

    node: str
    docker_host: str | None


def dev_node(settings: Settings) -> DevNode | None:
    """The node of this machine's cluster if ``settings`` lead there, else None."""
    if not is_dev(settings):
        return None
    from devopsellence.cli.dev import state

    return DevNode(state.node_name(), state.docker_host())


def run(ctx: click.Context, work: Callable[[Etcd], Awaitable[T]], *, settings: Settings | None = None) -> T:
    """Connect, ``await work(etcd)``, disconnect; the errors of the store become sentences that name the endpoints.

    ``settings`` lead elsewhere than :func:`connection`.
    """
    from devopsellence.cli import errors
    from devopsellence.store.errors import StoreError
    from devopsellence.store.etcd import Etcd

    settings = settings or connection(ctx)
    if not ctx.ensure_object(Output).debug:
        # What the store logs is also in what we show, and would be written across a live view.
        logging.getLogger("devopsellence").addHandler(logging.NullHandler())

    async def connected() -> T:
        async with Etcd(settings, timeout=CALL_TIMEOUT) as etcd:
            return await work(etcd)

    try:
        return asyncio.run(connected())
    except StoreError as error:
        raise errors.of_store(error, where=", ".join(settings.endpoints), dev=is_dev(settings)) from error


def config_path() -> Path | None:
    """The devopsellence.yml of this folder or the nearest one above it."""
    from devopsellence import config

    return config.find(Path.cwd())


def require_config() -> Path:
    """As :func:`config_path`; CliError ``config_missing`` (exit code 2) when there is none."""
    path = config_path()
    if path is None:
        mend = NextAction("write one", "devopsellence init")
        message = f"no devopsellence.yml in {Path.cwd()} or above it; run devopsellence init"
        raise CliError("config_missing", message, exit_code=2, next_actions=[mend])
    return path


def environment_flag(ctx: click.Context) -> str | None:
    """What ``--env`` or ``DEVOPSELLENCE_ENVIRONMENT`` says: a name or a full path; None when neither does."""
    return global_flags(ctx).get("environment") or os.environ.get("DEVOPSELLENCE_ENVIRONMENT") or None


def environment_from_config(ctx: click.Context, organization: str, project: str, default: str) -> EnvironmentRef:
    """The environment that is meant where there is a configuration.

    Raises:
        CliError: ``environment_elsewhere``: ``--env`` names another organization or project than the configuration.
    """
    from devopsellence.store.keys import EnvironmentRef

    name = environment_flag(ctx) or default
    ref = _parse(name) if "/" in name else EnvironmentRef(organization, project, name)
    if (ref.organization, ref.project) != (organization, project):
        message = f"{ref} is not an environment of {organization}/{project}, which this devopsellence.yml is about"
        raise CliError("environment_elsewhere", message, exit_code=2)
    return ref


async def environment(ctx: click.Context, etcd: Etcd) -> EnvironmentRef:
    """The environment that is meant, also in a folder without a configuration.

    A full path counts as it is. Else a configuration says organization and project, and the environment unless that is
    said. Without one the cluster is asked: the only environment (of that name) it has.

    Raises:
        CliError: ``environment_unknown``: there is none or more than one; names them.
    """
    from devopsellence import config

    name = environment_flag(ctx)
    if name is not None and "/" in name:
        return _parse(name)
    path = config_path()
    if path is not None:
        identity = config.identity(path)
        return environment_from_config(ctx, identity.organization, identity.project, identity.default_environment)
    known = await known_environments(etcd)
    found = [ref for ref in known if name in (None, ref.environment)]
    if len(found) == 1:
        return found[0]
    raise _which(name, found or known)


async def known_environments(etcd: Etcd) -> list[EnvironmentRef]:
    """Every environment of the cluster, sorted; keys that are none are left out."""
    listing = await etcd.list(etcd.keys.environments_prefix, keys_only=True)
    found = []
    for item in listing.items:
        try:
            found.append(etcd.keys.parse_environment(item.key))
        except ValueError:
            continue
    return sorted(found)


def _parse(path: str) -> EnvironmentRef:
    from devopsellence.store.keys import EnvironmentRef

    try:
        return EnvironmentRef.parse(path)
    except ValueError as error:
        raise CliError("invalid_name", str(error), exit_code=2) from error


def _which(name: str | None, candidates: list[EnvironmentRef]) -> CliError:
    wanted = f"environment {name!r}" if name else "an environment"
    if not candidates:
        message = "no devopsellence.yml here, and the cluster has no environment yet; run devopsellence init"
        return CliError("environment_unknown", message, exit_code=2)
    actions = [NextAction("choose one", f"--env {ref}") for ref in candidates]
    message = f"no devopsellence.yml here says which of the cluster's environments is meant by {wanted}"
    return CliError("environment_unknown", message, exit_code=2, next_actions=actions)
