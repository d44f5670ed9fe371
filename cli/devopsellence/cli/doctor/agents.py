"""Whether the agents of attached nodes answer us, what they say of their machines, and whether we can open secrets."""

from __future__ import annotations

import asyncio
import stat
from typing import TYPE_CHECKING, Final

import grpc.aio

from devopsellence.api.v1 import agent_pb2
from devopsellence.cli.agent import client
from devopsellence.cli.nodes.registry import overview
from devopsellence.cli.output import CheckResult, CliError, NextAction
from devopsellence.cli.store.reader import together

if TYPE_CHECKING:
    from pathlib import Path

    from devopsellence.store.etcd import Etcd
    from devopsellence.store.settings import Settings

# Enough for a handshake across an ocean; whoever takes longer does not answer.
_SECONDS: Final = 5.0
_AT_A_TIME: Final = 32


async def api_results(etcd: Etcd, settings: Settings) -> list[CheckResult]:
    """A check for each node that is attached to an environment and gives a sign of life.

    One that gives none is for ``cluster.nodes`` to tell. Nothing where certificates are not used: there no agent has
    an API.
    """
    if settings.cert is None:
        return []
    found = [
        client.locate(each.name, each.node, each.heartbeat)
        for each in (await overview(etcd))[0]
        if each.environments and each.node and each.heartbeat and each.heartbeat.uid == each.node.uid
    ]
    slots = asyncio.Semaphore(_AT_A_TIME)
    return [check for checks in await together(_ask(settings, agent, slots) for agent in found) for check in checks]


async def _ask(settings: Settings, agent: client.Agent, slots: asyncio.Semaphore) -> list[CheckResult]:
    name = f"agent {agent.node}"
    try:
        async with slots, client.connect(settings, agent) as stub:
            answer = await stub.Diagnose(agent_pb2.DiagnoseRequest(), timeout=_SECONDS)
    except grpc.aio.AioRpcError as error:
        return [CheckResult.from_error(name, client.refused(agent, error))]
    except CliError as error:
        return [CheckResult.from_error(name, error)]
    return diagnose_results(name, agent.address, answer)


def diagnose_results(name: str, address: str, answer: agent_pb2.DiagnoseAnswer) -> list[CheckResult]:
    """What the agent called ``name`` says of its machine: each thing that is wrong there, or that all is well."""
    wrong = [
        CheckResult(
            f"{check.name} of node {answer.node}",
            "error",
            check.message,
            "node_unwell",
            (NextAction(f"on {answer.node}", check.mend),) if check.mend else (),
        )
        for check in answer.checks
        if not check.ok
    ]
    room = f"{answer.disk_free_mib // 1024} GiB of disk and {answer.memory_available_mib} MiB of memory free"
    return [CheckResult(name, "ok", f"answers at {address}; {room}"), *wrong]


async def identity_results(etcd: Etcd) -> list[CheckResult]:
    """Whether this operator has the identity that secrets are sealed for."""
    from devopsellence.cli.secrets.identity import identity_path, load_or_create

    path = identity_path()
    try:
        mode = path.stat().st_mode
        load_or_create(path)  # it is there, so that none is made
    except (FileNotFoundError, NotADirectoryError):
        return await _no_identity(etcd, path)
    except OSError as error:
        return [CheckResult("identity", "error", f"{path}: {error.strerror}", "identity_unusable")]
    except CliError as error:
        return [CheckResult.from_error("identity", error)]
    if stat.S_IMODE(mode) & 0o077:
        action = NextAction("keep it to yourself", f"chmod 600 {path}")
        return [CheckResult("identity", "warning", f"others can read {path}", "identity_open", (action,))]
    return [CheckResult("identity", "ok", str(path))]


async def _no_identity(etcd: Etcd, path: Path) -> list[CheckResult]:
    if (await etcd.list(etcd.keys.all_secrets_prefix, keys_only=True)).items:
        message = f"there are secrets, and no identity at {path} that could open them"
        actions = (
            NextAction("bring yours", "export DEVOPSELLENCE_IDENTITY=<file>"),
            NextAction("or make one, then have another operator", "devopsellence secret reencrypt"),
        )
        return [CheckResult("identity", "warning", message, "identity_missing", actions)]
    return [CheckResult("identity", "ok", "none yet; the first secret makes one")]
