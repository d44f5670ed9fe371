"""What stands in etcd: who leads, who gives a sign of life."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from devopsellence.cli.output import CheckResult, NextAction
from devopsellence.store.errors import StoreError

if TYPE_CHECKING:
    from devopsellence.store.etcd import Etcd


async def controller(etcd: Etcd) -> list[CheckResult]:
    """Who leads."""
    from devopsellence.api.v1.stored_pb2 import Candidate
    from devopsellence.store.codec import decode

    candidates = sorted((await etcd.list(etcd.keys.election_prefix)).items, key=lambda item: item.create_revision)
    if not candidates:
        actions = (
            NextAction("on one machine", "devopsellence dev up"),
            NextAction("or on a server", "devopsellence-controller"),
        )
        return [
            CheckResult("controller", "error", "none is running: releases are not rolled out", "no_controller", actions)
        ]
    try:
        leader = decode(Candidate, candidates[0].key, candidates[0].value).identity
    except StoreError:
        leader = candidates[0].key
    others = f", {len(candidates) - 1} standing by" if len(candidates) > 1 else ""
    return [CheckResult("controller", "ok", f"{leader} leads{others}")]


async def nodes(etcd: Etcd) -> list[CheckResult]:
    """Each node's sign of life."""
    from devopsellence.cli.nodes.registry import overview

    seen, problems = await overview(etcd)
    found = [
        CheckResult(f"node {each.name}", "error" if each.note else "ok", each.note or _well(each), *_mend(each))
        for each in seen
    ]
    for problem in problems:
        action = NextAction("see what it holds", f"etcdctl get {problem.key}")
        found.append(CheckResult(problem.key, "error", problem.reason, "record_unreadable", (action,)))
    if not found:
        action = NextAction("register one", "devopsellence node register <name>")
        return [CheckResult("nodes", "warning", "none is registered", "no_node", (action,))]
    return found


async def ingress(etcd: Etcd) -> list[CheckResult]:
    """What is wrong with each environment's ingress, as far as etcd tells; ``ingress check`` looks from outside."""
    from datetime import UTC, datetime

    from devopsellence.cli.ingress.cluster_summary import standings
    from devopsellence.cli.util.text import plural

    found = []
    for standing in await standings(etcd, datetime.now(UTC)):
        name = f"ingress {standing.environment}"
        look = NextAction("look from outside", f"devopsellence ingress check --env {standing.environment}")
        found += [CheckResult(name, one.severity, one.text, one.code, (look,)) for one in standing.troubles]
        if not standing.troubles:
            found.append(
                CheckResult(name, "ok", f"{plural(standing.hosts, 'host')} on {plural(len(standing.nodes), 'node')}")
            )
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
