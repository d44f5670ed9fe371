"""The checks of ``doctor``. None of them raises: what goes wrong is what they report."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from devopsellence.cli import context, errors
from devopsellence.cli.output import CliError, Finding, NextAction
from devopsellence.store.errors import StoreError

if TYPE_CHECKING:
    from devopsellence.store.etcd import Etcd
    from devopsellence.store.settings import Settings


@dataclass(frozen=True)
class Check:
    """What was looked at, and what was found; ``severity`` is "ok", "warning" or "error"."""

    name: str
    severity: str
    message: str
    code: str = ""
    next_actions: tuple[NextAction, ...] = ()

    def document(self) -> dict[str, Any]:
        """The shape that it has in JSON."""
        return {
            "name": self.name,
            "severity": self.severity,
            "code": self.code,
            "message": self.message,
            "next_actions": [action.document() for action in self.next_actions],
        }

    def finding(self) -> Finding:
        """The check as part of an error."""
        return Finding(self.code or self.name, f"{self.name}: {self.message}", self.severity, "", self.next_actions)


def all_checks(ctx: click.Context) -> list[Check]:
    """Every check, in the order in which one depends on the other."""
    found = [_configuration()]
    try:
        settings = context.connection(ctx)
    except CliError as error:
        return [*found, *asyncio.run(_docker(None)), _failed("etcd", error)]
    dev = context.dev_node(settings)
    found += asyncio.run(_docker(dev.docker_host if dev else None))
    return found + asyncio.run(_cluster(settings))


def _failed(name: str, error: CliError, severity: str = "error") -> Check:
    return Check(name, severity, error.message, error.code, error.next_actions)


def _configuration() -> Check:
    from devopsellence import config

    path = context.config_path()
    if path is None:
        action = NextAction("write one", "devopsellence init")
        return Check("configuration", "warning", "no devopsellence.yml here", "config_missing", (action,))
    try:
        loaded = config.load(path)
    except config.ConfigError as error:
        action = NextAction("see what is wrong", "devopsellence config validate")
        return Check("configuration", "error", errors.of_config(error).message, "config_invalid", (action,))
    return Check("configuration", "ok", f"{path} ({loaded.organization}/{loaded.project})")


async def _docker(host: str | None) -> list[Check]:
    from devopsellence.cli.release.engine import Docker

    docker = Docker(host)
    try:
        done = await docker.run("version", "--format", "client {{.Client.Version}}, engine {{.Server.Version}}")
        platform, buildx = await asyncio.gather(docker.platform(), docker.has_buildx())
    except CliError as error:
        return [_failed("docker", error)]
    builder = "BuildKit" if buildx else "the classic builder (docker buildx is not installed)"
    return [Check("docker", "ok", f"{done.output.strip()}, {platform}, builds with {builder}")]


async def _cluster(settings: Settings) -> list[Check]:
    from devopsellence.store.etcd import Etcd

    try:
        async with Etcd(settings, timeout=context.CALL_TIMEOUT) as etcd:
            found = await _etcd(etcd, settings)
            for name, check in (("controller", _controller), ("nodes", _nodes)):
                found += await _guarded(name, check, etcd, settings)
            return found
    except StoreError as error:
        return [_failed("etcd", _explained(error, settings))]


async def _guarded(
    name: str, check: Callable[[Etcd], Awaitable[list[Check]]], etcd: Etcd, settings: Settings
) -> list[Check]:
    try:
        return await check(etcd)
    except StoreError as error:
        return [_failed(name, _explained(error, settings))]


def _explained(error: StoreError, settings: Settings) -> CliError:
    return errors.of_store(error, where=", ".join(settings.endpoints), dev=context.is_dev(settings))


async def _etcd(etcd: Etcd, settings: Settings) -> list[Check]:
    member = await etcd.member()
    found = [Check("etcd", "ok", f"{member.version} at {', '.join(settings.endpoints)}")]
    for alarm in member.alarms:
        if alarm == "NOSPACE":
            message = "the NOSPACE alarm is raised: etcd refuses writes; what runs goes on"
            found.append(Check("etcd alarm", "error", message, "etcd_no_space", tuple(errors.no_space_actions())))
        else:
            action = NextAction("see it", "etcdctl alarm list")
            found.append(Check("etcd alarm", "error", f"the {alarm} alarm is raised", "etcd_alarm", (action,)))
    return found


async def _controller(etcd: Etcd) -> list[Check]:
    from devopsellence.api.v1.stored_pb2 import Candidate
    from devopsellence.store.records import decode

    candidates = sorted((await etcd.list(etcd.keys.election_prefix)).items, key=lambda item: item.create_revision)
    if not candidates:
        actions = (
            NextAction("on one machine", "devopsellence dev up"),
            NextAction("or on a server", "devopsellence-controller"),
        )
        return [Check("controller", "error", "none is running: releases are not rolled out", "no_controller", actions)]
    try:
        leader = decode(Candidate, candidates[0].key, candidates[0].value).identity
    except StoreError:
        leader = candidates[0].key
    others = f", {len(candidates) - 1} standing by" if len(candidates) > 1 else ""
    return [Check("controller", "ok", f"{leader} leads{others}")]


async def _nodes(etcd: Etcd) -> list[Check]:
    from devopsellence.cli import nodes

    overview, problems = await nodes.overview(etcd)
    found = [
        Check(f"node {each.name}", "error" if each.note else "ok", each.note or _well(each), *_mend(each))
        for each in overview
    ]
    for problem in problems:
        action = NextAction("see what it holds", f"etcdctl get {problem.key}")
        found.append(Check(problem.key, "error", problem.reason, "record_unreadable", (action,)))
    if not found:
        action = NextAction("register one", "devopsellence node register <name>")
        return [Check("nodes", "warning", "none is registered", "no_node", (action,))]
    return found


def _well(each: Any) -> str:
    labels = ",".join(each.node.labels) or "none"
    return f"agent {each.heartbeat.agent_version}, docker {each.heartbeat.docker_version}, labels {labels}"


def _mend(each: Any) -> tuple[str, tuple[NextAction, ...]]:
    if not each.note:
        return "", ()
    if each.heartbeat is None:
        return "node_unreachable", (NextAction("on that machine", "systemctl status devopsellence-agent"),)
    return "node_unwell", (NextAction("on that machine", "docker version"),)
