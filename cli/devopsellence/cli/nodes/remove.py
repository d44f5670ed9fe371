"""``node remove``: remove a node from the cluster, and with its record the access of its machine.

Order of the steps: detach, wait until the node is empty, delete the record, delete the heartbeat, which the machine
can then no longer write; with ``--force`` the record comes first. The command can be interrupted and repeated at any
step.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from devopsellence.cli.nodes import registry
from devopsellence.cli.nodes.drain import stuck_reason
from devopsellence.cli.nodes.heartbeat import end_heartbeat
from devopsellence.cli.nodes.wait import WaitTimeout, wait_until
from devopsellence.cli.nodes.workload import NodeWorkload, read_workload
from devopsellence.cli.output import CliError, Finding, NextAction
from devopsellence.cli.secrets import access
from devopsellence.cli.secrets.access import Exposure
from devopsellence.cli.store.rights import check_whole_node
from devopsellence.cli.util.text import age
from devopsellence.store.etcd import Compare, Delete, Etcd
from devopsellence.store.keys import EnvironmentRef


@dataclass(frozen=True)
class Removal:
    """Planned removal of a node.

    ``revision`` is that of the node record, 0 if absent; ``exposed`` are the secrets that the node could decrypt.
    """

    workload: NodeWorkload
    revision: int
    attached: tuple[EnvironmentRef, ...]
    exposed: Mapping[EnvironmentRef, Exposure]

    @property
    def nothing(self) -> bool:
        """True if there is no such node and no leftover of such a node."""
        return not (self.revision or self.attached or self.workload.heartbeat or not self.workload.empty)


async def plan(etcd: Etcd, name: str) -> Removal:
    """Return the planned removal of a node. Writes nothing.

    Raises:
        CliError: ``etcd_permission_denied``.
    """
    await check_whole_node(etcd, name)
    workload, record = await read_workload(etcd, name), await etcd.get(etcd.keys.node(name))
    attached = await registry.attached_environments(etcd, name)
    exposed = await access.exposures_of(etcd, name) if record is not None and workload.node is not None else {}
    return Removal(workload, record.mod_revision if record else 0, tuple(attached), exposed)


def refusal(planned: Removal) -> CliError | None:
    """Return the error if the node cannot be removed without ``--force``, else None."""
    workload, name = planned.workload, planned.workload.name
    force = NextAction("or, if the machine is lost for good", f"devopsellence node remove {name} --force")
    if workload.problems:
        problem = workload.problems[0]
        show = NextAction("see the stored record", f"etcdctl get {problem.key}")
        return CliError("record_unreadable", f"{problem.key} is {problem.reason}", next_actions=[show, force])
    if workload.node is None:
        # Leftovers of an unregistered node are removed by the controller.
        return None
    drain = NextAction("drain the node first", f"devopsellence node drain {name}")
    if workload.running:
        if workload.drained:
            drain = NextAction(
                "move the remaining services too, without their data", f"devopsellence node drain {name} --move-volumes"
            )
        findings = [Finding("node_in_use", str(service)) for service in workload.running]
        return CliError(
            "node_in_use", f"node {name} still runs services", findings=findings, next_actions=[drain, force]
        )
    if planned.attached and not workload.drained:
        where = ", ".join(map(str, planned.attached))
        return CliError("node_in_use", f"node {name} is attached to {where}", next_actions=[drain, force])
    if not workload.empty and not workload.reachable:
        message = f"node {name} is unreachable, so its containers cannot be removed"
        look_at = NextAction(f"on {name}", "systemctl status devopsellence-agent")
        return CliError("node_unreachable", message, next_actions=[look_at, force])
    return None


async def remove(etcd: Etcd, planned: Removal, tell: Callable[[str], None], *, force: bool, seconds: float) -> None:
    """Remove the node; ``force``: at once, without waiting for its agent to remove containers. May be repeated.

    Raises:
        CliError: ``node_remove_timeout``; ``busy``.
    """
    name, node = planned.workload.name, planned.workload.node
    if force:
        # The machine may be in somebody else's hands.
        await _delete(etcd, planned)
    for ref in planned.attached:
        await registry.detach(etcd, ref, name)
        tell(f"{name} detached from {ref}")
    if not force and not planned.workload.empty and node is not None:
        await _cleared(etcd, name, seconds)
        tell(f"{name} has removed its containers; its volumes stay on the machine")
    if not force:
        await _delete(etcd, planned)
    await end_heartbeat(etcd, name)


async def _cleared(etcd: Etcd, name: str, seconds: float) -> None:
    """Wait until the agent has carried out its tombstones and the controller has deleted the tombstones."""
    try:
        await wait_until(etcd, name, lambda workload: workload.empty, lambda _: None, seconds)
    except WaitTimeout as late:
        because = f": {stuck}" if (stuck := stuck_reason(late.workload)) else ""
        left = [
            Finding("node_in_use", str(ref)) for ref in sorted({*late.workload.assignments, *late.workload.statuses})
        ]
        actions = [
            NextAction("continue later", f"devopsellence node remove {name}"),
            NextAction("or, if the machine is lost for good", f"devopsellence node remove {name} --force"),
        ]
        message = f"node {name} is detached, but has not removed everything after {age(seconds)}{because}"
        raise CliError("node_remove_timeout", message, findings=left, next_actions=actions) from late


async def _delete(etcd: Etcd, planned: Removal) -> None:
    if not planned.revision:
        return
    key = etcd.keys.node(planned.workload.name)
    stored = await etcd.get(key)
    if stored is None:
        return
    done = await etcd.txn([Compare.unmodified(key, planned.revision)], [Delete(key)])
    if not done.succeeded:
        again = NextAction("check again", f"devopsellence node remove {planned.workload.name} --dry-run")
        raise CliError(
            "busy", f"node {planned.workload.name} was changed by somebody else meanwhile", next_actions=[again]
        )
