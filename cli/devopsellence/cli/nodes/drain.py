"""``node drain``: the wish is written down, and followed until the node runs nothing any more.

Only the wish is ours: the controller takes the services away, in its order, and the agent stops them.
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
from devopsellence.cli.util.text import age, plural, safe
from devopsellence.store.etcd import Etcd


async def request_drain(etcd: Etcd, name: str, *, move_volumes: bool) -> Node:
    """Write down that the node is to be emptied. May be repeated; what was said last of volumes holds.

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
            after.drain.CopyFrom(
                Drain(requested_at=transaction.now(), requested_by=transaction.current_user(), volumes=move_volumes)
            )
        return after

    puts = await event_puts(etcd, await attached_environments(etcd, name), name, "node_draining", f"drains node {name}")
    return await transaction.change(etcd, etcd.keys.node(name), Node, edit, also=lambda _: puts)


async def follow_drain(
    etcd: Etcd, name: str, tell: Callable[[str, NodeWorkload], None], seconds: float
) -> NodeWorkload:
    """Tell, in a sentence each, what has left, until all has that is to leave.

    Raises:
        CliError: ``node_drain_timeout``: not within so many seconds; ``node_drain_cancelled``: it was uncordoned.
    """
    before: list[NodeService] | None = None

    def done(seen: NodeWorkload) -> bool:
        if seen.node is None and not seen.problems:
            raise errors.node_unknown(name)
        if seen.node is not None and not seen.node.HasField("drain"):
            again = NextAction("do it again", f"devopsellence node drain {name}")
            message = f"node {name} is not to be drained any more: somebody has uncordoned it"
            raise CliError("node_drain_cancelled", message, next_actions=[again])
        return seen.drained

    def told(seen: NodeWorkload) -> None:
        nonlocal before
        left = seen.leaving
        for gone in [each for each in before or () if each not in left]:
            tell(f"{gone} has left {name}; {plural(len(left), 'service')} to go", seen)
        before = left

    try:
        return await wait_until(etcd, name, done, told, seconds)
    except WaitTimeout as late:
        raise _unfinished(late.workload, seconds) from late


def drained_text(seen: NodeWorkload) -> str:
    """How the drained node is left, in a sentence or two."""
    name, stays = seen.name, seen.running
    if not stays:
        next_ = f"devopsellence node remove {name}, or devopsellence node uncordon {name}"
        return f"Node {name} runs nothing any more: {next_}"
    said = "; ".join(f"{stay} ({', '.join(map(safe, stay.volumes))})" for stay in stays)
    return (
        f"Node {name} runs nothing but what stays for its volumes: {said}.\n"
        f"devopsellence node drain {name} --move-volumes moves these as well, without their data."
    )


def stuck_reason(seen: NodeWorkload) -> str:
    """Why nothing will move for the moment; "" where something may."""
    if seen.problems:
        return f"{seen.problems[0].key} is {seen.problems[0].reason}"
    if not seen.controllers:
        return "no controller is running"
    if not seen.reachable:
        return f"the agent of node {seen.name} is not there, so nobody can stop what it runs"
    return ""


def _unfinished(seen: NodeWorkload, seconds: float) -> CliError:
    because = f": {stuck}" if (stuck := stuck_reason(seen)) else ""
    findings = [Finding("node_in_use", f"{each} is still there") for each in seen.leaving]
    actions = [
        NextAction("see why a service does not move", "devopsellence status"),
        NextAction("follow it again", f"devopsellence node drain {seen.name}"),
        NextAction("or take it back", f"devopsellence node uncordon {seen.name}"),
    ]
    message = f"node {seen.name} is not empty after {age(seconds)}{because}; it goes on being drained"
    return CliError("node_drain_timeout", message, findings=findings, next_actions=actions)
