"""``node remove``: a node leaves the cluster for good, and its machine can do nothing in it any more.

In an order that can be broken off anywhere and done again: detached, emptied, shut out, and the record last, because it
says who it was.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from devopsellence.cli.nodes import etcd_access, registry
from devopsellence.cli.nodes.drain import stuck_reason
from devopsellence.cli.nodes.wait import WaitTimeout, wait_until
from devopsellence.cli.nodes.workload import NodeWorkload, read_workload
from devopsellence.cli.output import CliError, Finding, NextAction
from devopsellence.cli.secrets import access
from devopsellence.cli.secrets.access import Exposure
from devopsellence.cli.util.text import age
from devopsellence.store.etcd import Compare, Delete, Etcd
from devopsellence.store.keys import EnvironmentRef


@dataclass(frozen=True)
class Removal:
    """What is to go. ``revision`` is the node record's, 0 where there is none; ``knew``: what it could open."""

    workload: NodeWorkload
    revision: int
    attached: tuple[EnvironmentRef, ...]
    exposed: Mapping[EnvironmentRef, Exposure]

    @property
    def nothing(self) -> bool:
        """There is no such node, and nothing is left of one."""
        return not (self.revision or self.attached or self.workload.heartbeat or not self.workload.empty)


async def plan(etcd: Etcd, name: str) -> Removal:
    """What removing the node would take away. Writes nothing."""
    seen, record = await read_workload(etcd, name), await etcd.get(etcd.keys.node(name))
    attached = await registry.attached_environments(etcd, name)
    knew = await access.exposures_of(etcd, name) if record is not None and seen.node is not None else {}
    return Removal(seen, record.mod_revision if record else 0, tuple(attached), knew)


def refusal(planned: Removal) -> CliError | None:
    """Why the node is not removed without ``--force``; None when nothing speaks against it."""
    seen, name = planned.workload, planned.workload.name
    force = NextAction("or, if the machine is gone for good", f"devopsellence node remove {name} --force")
    if seen.problems:
        problem = seen.problems[0]
        show = NextAction("see what it holds", f"etcdctl get {problem.key}")
        return CliError("record_unreadable", f"{problem.key} is {problem.reason}", next_actions=[show, force])
    if seen.node is None:
        # What is left of one goes by itself.
        return None
    drain = NextAction("empty it first", f"devopsellence node drain {name}")
    if seen.running:
        if seen.drained:
            drain = NextAction(
                "move these as well, without their data", f"devopsellence node drain {name} --move-volumes"
            )
        findings = [Finding("node_in_use", str(each)) for each in seen.running]
        return CliError(
            "node_in_use", f"node {name} still runs something", findings=findings, next_actions=[drain, force]
        )
    if planned.attached and not seen.drained:
        where = ", ".join(map(str, planned.attached))
        return CliError("node_in_use", f"node {name} is attached to {where}", next_actions=[drain, force])
    if not seen.empty and not seen.reachable:
        message = f"the agent of node {name} is not there, so nobody can clear away what it had"
        look_at = NextAction("on that machine", "systemctl status devopsellence-agent")
        return CliError("node_unreachable", message, next_actions=[look_at, force])
    return None


async def remove(
    etcd: Etcd, planned: Removal, tell: Callable[[str], None], *, force: bool, grant: bool, seconds: float
) -> None:
    """Take the node away; ``force``: at once, without its machine having cleared anything. May be repeated.

    Raises:
        CliError: ``etcd_permission_denied``: only root may (nothing was changed); ``node_remove_timeout``; ``busy``.
    """
    name, node = planned.workload.name, planned.workload.node
    uid, again = node.uid if node is not None else "", f"devopsellence node remove {name}"
    if grant and force:
        await etcd_access.revoke_access(etcd, name, uid, f"{again} --force")
    elif grant and node is not None:
        await etcd_access.check_root(etcd, node, again)
    for ref in planned.attached:
        await registry.detach(etcd, ref, name)
        tell(f"{name} is detached from {ref}")
    if not force and not planned.workload.empty and node is not None:
        await _cleared(etcd, name, seconds)
        tell(f"{name} has cleared away what it had; its volumes stay on its machine")
    if grant and not force:
        await etcd_access.revoke_access(etcd, name, uid, again)
    await etcd_access.end_heartbeat(etcd, name)
    await _delete(etcd, planned)


async def _cleared(etcd: Etcd, name: str, seconds: float) -> None:
    """Wait until the agent has carried out its tombstones and the controller has put them away."""
    try:
        await wait_until(etcd, name, lambda seen: seen.empty, lambda _: None, seconds)
    except WaitTimeout as late:
        because = f": {stuck}" if (stuck := stuck_reason(late.workload)) else ""
        left = [
            Finding("node_in_use", str(ref)) for ref in sorted({*late.workload.assignments, *late.workload.statuses})
        ]
        actions = [
            NextAction("go on later", f"devopsellence node remove {name}"),
            NextAction("or, if the machine is gone for good", f"devopsellence node remove {name} --force"),
        ]
        message = f"node {name} is detached, but has not cleared everything away after {age(seconds)}{because}"
        raise CliError("node_remove_timeout", message, findings=left, next_actions=actions) from late


async def _delete(etcd: Etcd, planned: Removal) -> None:
    if not planned.revision:
        return
    key = etcd.keys.node(planned.workload.name)
    found = await etcd.get(key)
    if found is None:
        return
    done = await etcd.txn([Compare.unmodified(key, planned.revision)], [Delete(key)])
    if not done.succeeded:
        again = NextAction("look again", f"devopsellence node remove {planned.workload.name} --dry-run")
        raise CliError(
            "busy", f"node {planned.workload.name} was changed by somebody else meanwhile", next_actions=[again]
        )
