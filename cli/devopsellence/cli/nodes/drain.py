"""``node drain``: request the drain of a node and follow it until the node is empty.

The CLI only writes the request; the controller moves the services, and the agent stops the containers.
"""

from __future__ import annotations

from collections.abc import Callable

from devopsellence.api.v1.stored_pb2 import Drain, Node
from devopsellence.cli import errors
from devopsellence.cli.nodes.registry import attached_environments, event_puts
from devopsellence.cli.nodes.wait import WaitTimeout, wait_until
from devopsellence.cli.nodes.workload import NodeService, NodeWorkload
from devopsellence.cli.output import CliError, Finding, NextAction
from devopsellence.cli.store import transaction
from devopsellence.cli.store.author import author
from devopsellence.cli.untrusted import safe
from devopsellence.cli.util.text import age, plural
from devopsellence.store.etcd import Etcd


async def request_drain(etcd: Etcd, name: str, *, move_volumes: bool) -> Node:
    """Mark the node as draining and return its record. May be repeated; the last ``move_volumes`` applies.

    Raises:
        CliError: ``node_unknown``.
    """

    def edit(before: Node | None) -> Node:
        if before is None:
            raise errors.node_unknown(name)
        after = Node()
        after.CopyFrom(before)
        after.cordoned = True
        if not (before.HasField("drain") and before.drain.volumes == move_volumes):
            after.drain.CopyFrom(Drain(requested_at=transaction.now(), requested_by=author(etcd), volumes=move_volumes))
        return after

    puts = await event_puts(etcd, await attached_environments(etcd, name), name, "node_draining", f"drains node {name}")
    return await transaction.change(etcd, etcd.keys.node(name), Node, edit, also=lambda _: puts)


async def follow_drain(
    etcd: Etcd, name: str, tell: Callable[[str, NodeWorkload], None], seconds: float
) -> NodeWorkload:
    """Report every service that has left the node, until the node is drained; return the workload then.

    Raises:
        CliError: ``node_drain_timeout``: not drained after ``seconds``; ``node_drain_cancelled``: the node was
            uncordoned.
    """
    before: list[NodeService] | None = None

    def done(workload: NodeWorkload) -> bool:
        if workload.node is None and not workload.problems:
            raise errors.node_unknown(name)
        if workload.node is not None and not workload.node.HasField("drain"):
            again = NextAction("drain it again", f"devopsellence node drain {name}")
            message = f"the drain of node {name} was cancelled: somebody uncordoned the node"
            raise CliError("node_drain_cancelled", message, next_actions=[again])
        return workload.drained

    def report(workload: NodeWorkload) -> None:
        nonlocal before
        left = workload.leaving
        for gone in [service for service in before or () if service not in left]:
            tell(f"{gone} has left {name}; {plural(len(left), 'service')} left", workload)
        before = left

    try:
        return await wait_until(etcd, name, done, report, seconds)
    except WaitTimeout as late:
        raise _unfinished(late.workload, seconds) from late


def drained_text(workload: NodeWorkload) -> str:
    """Return the text about a drained node."""
    name, stays = workload.name, workload.running
    if not stays:
        next_ = f"devopsellence node remove {name}, or devopsellence node uncordon {name}"
        return f"Node {name} is drained. Next: {next_}"
    services = "; ".join(f"{stay} ({', '.join(map(safe, stay.volumes))})" for stay in stays)
    return (
        f"Node {name} is drained, except for services with volumes: {services}.\n"
        f"To move them too, without their data: devopsellence node drain {name} --move-volumes"
    )


def stuck_reason(workload: NodeWorkload) -> str:
    """Return the reason why no service can move at the moment; "" if there is none."""
    if workload.problems:
        return f"{workload.problems[0].key} is {workload.problems[0].reason}"
    if not workload.controllers:
        return "no controller is running"
    if not workload.reachable:
        return f"node {workload.name} is unreachable, so its containers cannot be stopped"
    return ""


def _unfinished(workload: NodeWorkload, seconds: float) -> CliError:
    because = f": {stuck}" if (stuck := stuck_reason(workload)) else ""
    findings = [Finding("node_in_use", f"{service} still runs") for service in workload.leaving]
    actions = [
        NextAction("see why a service does not move", "devopsellence status"),
        NextAction("keep following the drain", f"devopsellence node drain {workload.name}"),
        NextAction("or cancel it", f"devopsellence node uncordon {workload.name}"),
    ]
    message = f"node {workload.name} is not drained after {age(seconds)}{because}; the drain continues"
    return CliError("node_drain_timeout", message, findings=findings, next_actions=actions)
