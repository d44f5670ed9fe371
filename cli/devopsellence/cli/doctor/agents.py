"""Checks of the agents of attached nodes, and of the operator's identity for secrets."""

from __future__ import annotations

import asyncio
import stat
from typing import TYPE_CHECKING, Final

import grpc.aio

from devopsellence.api.v1 import agent_pb2
from devopsellence.cli.agent import client
from devopsellence.cli.nodes.registry import overview
from devopsellence.cli.output import CheckResult, CliError, NextAction
from devopsellence.cli.store.reader import concurrently

if TYPE_CHECKING:
    from pathlib import Path

    from devopsellence.store.etcd import Etcd
    from devopsellence.store.settings import Settings

# Timeout in seconds, enough for a TLS handshake across an ocean.
_SECONDS: Final = 5.0
_AT_A_TIME: Final = 32


async def api_results(etcd: Etcd, settings: Settings) -> list[CheckResult]:
    """Call the agent of each node attached to an environment.

    ``cluster.nodes`` reports unreachable nodes; the agent of one may be cut off from etcd, and says since when. No
    results in a cluster without certificates, because agents have no API there.
    """
    if settings.cert is None:
        return []
    endpoints = [
        client.direct_endpoint(node.name, node.node, node.heartbeat)
        for node in (await overview(etcd))[0]
        if node.environments
        and node.node
        and (node.heartbeat.uid == node.node.uid if node.heartbeat else node.node.address)
    ]
    slots = asyncio.Semaphore(_AT_A_TIME)
    return [
        check for checks in await concurrently(_ask(settings, agent, slots) for agent in endpoints) for check in checks
    ]


async def _ask(settings: Settings, agent: client.AgentEndpoint, slots: asyncio.Semaphore) -> list[CheckResult]:
    name = f"agent {agent.node}"
    try:
        async with slots, client.connect(settings, agent) as stub:
            answer = await stub.Diagnose(agent_pb2.DiagnoseRequest(), timeout=_SECONDS)
    except (grpc.aio.AioRpcError, CliError) as error:
        if agent.address and agent.problem:
            # Without a heartbeat; most likely the agent does not run.
            return []
        found = error if isinstance(error, CliError) else client.call_error(agent, error)
        return [CheckResult.from_error(name, found)]
    return diagnose_results(name, agent.address, answer)


def diagnose_results(name: str, address: str, answer: agent_pb2.DiagnoseAnswer) -> list[CheckResult]:
    """Return the results of an agent: the response, then node failed check of its machine."""
    failed_checks = [
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
    free = f"{answer.disk_free_mib // 1024} GiB of disk and {answer.memory_available_mib} MiB of memory free"
    return [CheckResult(name, "ok", f"responds at {address}; {free}"), *failed_checks]


async def identity_results(etcd: Etcd) -> list[CheckResult]:
    """Check the identity that decrypts secrets for this operator."""
    from devopsellence.cli.secrets.identity import load_or_create, path_for

    path = path_for(etcd.settings)
    if path is None:
        return [CheckResult("identity", "ok", "none in this token: its roles neither set nor read secrets")]
    try:
        mode = path.stat().st_mode
        load_or_create(path)  # the file exists, so nothing is created
    except (FileNotFoundError, NotADirectoryError):
        return await _no_identity(etcd, path)
    except OSError as error:
        return [CheckResult("identity", "error", f"{path}: {error.strerror}", "identity_unusable")]
    except CliError as error:
        return [CheckResult.from_error("identity", error)]
    if stat.S_IMODE(mode) & 0o077:
        action = NextAction("restrict access", f"chmod 600 {path}")
        return [CheckResult("identity", "warning", f"other users can read {path}", "identity_open", (action,))]
    return [CheckResult("identity", "ok", str(path))]


async def _no_identity(etcd: Etcd, path: Path) -> list[CheckResult]:
    if (await etcd.list(etcd.keys.all_secrets_prefix, keys_only=True)).items:
        message = f"cannot decrypt secrets: there is no identity at {path}"
        actions = (
            NextAction("use an existing identity", "export DEVOPSELLENCE_IDENTITY=<file>"),
            NextAction("or create one, then let another operator run", "devopsellence secret reencrypt"),
        )
        return [CheckResult("identity", "warning", message, "identity_missing", actions)]
    return [CheckResult("identity", "ok", "none yet; setting the first secret creates it")]
