"""Context of a command: etcd connection, configuration file, environment."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar

import click

from devopsellence.access.roles import Action
from devopsellence.cli.choice import choose, token_settings
from devopsellence.cli.confirm import AnswerNeeded
from devopsellence.cli.options import global_flags
from devopsellence.cli.output import CliError, NextAction, Output

if TYPE_CHECKING:
    from devopsellence.store.etcd import Etcd
    from devopsellence.store.keys import EnvironmentRef
    from devopsellence.store.settings import Settings

T = TypeVar("T")
# Timeout of a call to etcd in seconds: including the start of the process, a dead etcd is reported within 5 s.
CALL_TIMEOUT: Final = 4.0


def connection(ctx: click.Context) -> Settings:
    """Return the connection of a command, see :func:`devopsellence.cli.choice.choose`.

    Raises:
        CliError: as ``choose``.
    """
    return choose(ctx).settings


def dev_settings() -> Settings | None:
    """Return the operator settings of the local cluster; None without a local cluster."""
    from devopsellence.cli.dev import state

    return state.settings()


def is_dev(settings: Settings) -> bool:
    """Return True for settings of the local cluster."""
    from devopsellence.cli import reach

    dev = dev_settings()
    # Through ssh, an address of this form is on another machine.
    if dev is None or reach.ssh_host(settings) is not None:
        return False
    return (dev.endpoints, dev.prefix) == (settings.endpoints, settings.prefix)


@dataclass(frozen=True)
class DevNode:
    """Node of the local cluster, and the address of its Docker Engine in the form of ``DOCKER_HOST``."""

    node: str
    docker_host: str | None


def dev_node(settings: Settings) -> DevNode | None:
    """Return the node of the local cluster; None for settings of another cluster."""
    if not is_dev(settings):
        return None
    from devopsellence.cli.dev import state

    return DevNode(state.node_name(), state.docker_host())


def run(ctx: click.Context, work: Callable[[Etcd], Awaitable[T]], *, settings: Settings | None = None) -> T:
    """Connect to etcd, await ``work(etcd)``, disconnect; again after the answer to a question that ``work`` raises.

    ``settings`` replace the settings of :func:`connection`.

    Raises:
        CliError: for errors of the store, with a message about the endpoints.
        Interrupted: a signal ended the process; ``work`` has cleaned up.
    """
    from devopsellence.cli import errors, reach, signals
    from devopsellence.cli.store import renewal
    from devopsellence.store.errors import StoreError
    from devopsellence.store.etcd import Etcd

    settings = settings or connection(ctx)
    if not ctx.ensure_object(Output).debug:
        # Log lines of the store repeat our messages and would be written across a live view.
        logging.getLogger("devopsellence").addHandler(logging.NullHandler())

    renewal.finish_renewal(settings)
    since = time.time()
    reach.prepare(settings)

    async def connected() -> T:
        async with Etcd(settings, timeout=CALL_TIMEOUT) as etcd:
            result = await work(etcd)
            await renewal.renew_if_due(etcd)
            return result

    while True:
        try:
            return signals.run(connected())
        except AnswerNeeded as needed:
            # Outside of the event loop, which a prompt would hold back. ``work`` has written nothing, and starts anew.
            needed.answer(ctx.ensure_object(Output))
        except StoreError as error:
            failure = errors.of_store(error, where=reach.described(settings), dev=is_dev(settings))
            raise reach.explained(failure, settings, since) from error


def config_path() -> Path | None:
    """Return the path of devopsellence.yml in this folder or the nearest parent folder; None for none."""
    from devopsellence import config

    return config.find(Path.cwd())


def require_config() -> Path:
    """Return the path of devopsellence.yml.

    Raises:
        CliError: ``config_missing`` (exit code 2).
    """
    path = config_path()
    if path is None:
        action = NextAction("create the file", "devopsellence init")
        message = f"no devopsellence.yml in {Path.cwd()} or its parent folders"
        raise CliError("config_missing", message, exit_code=2, next_actions=[action])
    return path


def environment_flag(ctx: click.Context) -> str | None:
    """Return ``--env`` or ``DEVOPSELLENCE_ENVIRONMENT``, a name or a full path, or the token's environment; or None.

    Raises:
        CliError: ``environment_elsewhere`` (exit code 2): the token is for another environment.
    """
    chosen = global_flags(ctx).get("environment") or os.environ.get("DEVOPSELLENCE_ENVIRONMENT") or None
    token = token_settings(ctx)
    if token is None or not token.environment:
        return chosen
    if chosen not in (None, token.environment, token.environment.rpartition("/")[2]):
        message = f"the token is for the environment {token.environment}, not for {chosen}"
        raise CliError("environment_elsewhere", message, exit_code=2)
    return token.environment


def environment_from_config(ctx: click.Context, organization: str, project: str, default: str) -> EnvironmentRef:
    """Return the environment of a command in a project with a configuration.

    Raises:
        CliError: ``environment_elsewhere``: ``--env`` names an organization or project unlike the configuration's.
    """
    from devopsellence.store.keys import EnvironmentRef

    name = environment_flag(ctx) or default
    ref = _parse(name) if "/" in name else EnvironmentRef(organization, project, name)
    if (ref.organization, ref.project) != (organization, project):
        message = f"{ref} is not an environment of {organization}/{project}, the project of this devopsellence.yml"
        raise CliError("environment_elsewhere", message, exit_code=2)
    return ref


async def environment(ctx: click.Context, etcd: Etcd, action: Action = Action.VIEW) -> EnvironmentRef:
    """Return the environment of a command, in which the operator may do ``action``; also without a configuration.

    A full path is taken literally. A configuration supplies organization, project and the default environment.
    Without a configuration, the cluster must have exactly one environment (of the name in ``--env``).

    Raises:
        CliError: ``environment_unknown``: no environment, or several; lists the candidates. ``etcd_permission_denied``.
    """
    from devopsellence.cli.store.rights import check_environment

    ref = await _chosen_environment(ctx, etcd)
    await check_environment(etcd, ref, action)
    return ref


async def _chosen_environment(ctx: click.Context, etcd: Etcd) -> EnvironmentRef:
    from devopsellence import config

    name = environment_flag(ctx)
    if name is not None and "/" in name:
        return _parse(name)
    path = config_path()
    if path is not None:
        identity = config.identity(path)
        return environment_from_config(ctx, identity.organization, identity.project, identity.default_environment)
    known = await known_environments(etcd)
    matching = [ref for ref in known if name in (None, ref.environment)]
    if len(matching) == 1:
        return matching[0]
    raise _environment_unknown(name, matching or known)


async def known_environments(etcd: Etcd) -> list[EnvironmentRef]:
    """Return all environments of the cluster, sorted; ignores keys of another form."""
    listing = await etcd.list(etcd.keys.environments_prefix, keys_only=True)
    refs = []
    for item in listing.items:
        try:
            refs.append(etcd.keys.parse_environment(item.key))
        except ValueError:
            continue
    return sorted(refs)


def _parse(path: str) -> EnvironmentRef:
    from devopsellence.store.keys import EnvironmentRef

    try:
        return EnvironmentRef.parse(path)
    except ValueError as error:
        raise CliError("invalid_name", str(error), exit_code=2) from error


def _environment_unknown(name: str | None, candidates: list[EnvironmentRef]) -> CliError:
    if not candidates:
        message = "no devopsellence.yml here, and the cluster has no environments yet; run devopsellence init"
        return CliError("environment_unknown", message, exit_code=2)
    actions = [NextAction("choose an environment", f"--env {ref}") for ref in candidates]
    subject = f"environment {name!r} is not unique or does not exist" if name else "no environment selected"
    message = f"{subject}: there is no devopsellence.yml here, so give the full path with --env"
    return CliError("environment_unknown", message, exit_code=2, next_actions=actions)
