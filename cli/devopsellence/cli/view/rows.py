"""One row for each service on each node, with the reason for what is not settled."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

from devopsellence.api.v1.stored_pb2 import AssignmentStatus, NodeProgress, ServiceStatus
from devopsellence.api.v1.workload_pb2 import Service
from devopsellence.cli.view.snapshot import Snapshot
from devopsellence.cli.view.words import safe, seconds_between, word
from devopsellence.placement import places, why_not


@dataclass(frozen=True)
class Row:
    """What is known of one service on one node; ``service`` is "" for a node that runs none.

    ``age`` is seconds since the serving container was started, None when none serves. ``unhealthy`` is for how many
    seconds it has not been healthy, None while it is. ``exit_code`` is None when there was no end that was not asked
    for.
    """

    node: str
    service: str
    phase: str
    health: str = ""
    age: float | None = None
    unhealthy: float | None = None
    restarts: int = 0
    release: int = 0
    reused: bool = False
    address: str = ""
    reason: str = ""
    settled: bool = False
    failed: bool = False
    exit_code: int | None = None
    oom_killed: bool = False
    log_lines: tuple[str, ...] = ()


def rows(snapshot: Snapshot, now: datetime) -> list[Row]:
    """All rows, sorted by node and service. ``now`` is what ages are counted to."""
    return [row for node in node_names(snapshot) for row in _of_node(snapshot, node, now)]


def node_names(snapshot: Snapshot) -> list[str]:
    """The nodes that have to do with the environment: attached ones and those that still report about it."""
    attached = set(snapshot.environment.nodes) if snapshot.environment else set()
    in_rollout = {progress.node for progress in snapshot.rollout.nodes} if snapshot.rollout else set()
    return sorted(attached | in_rollout | set(snapshot.statuses))


def _of_node(snapshot: Snapshot, node: str, now: datetime) -> Iterator[Row]:
    status = snapshot.statuses.get(node)
    reported = {each.name: each for each in status.services} if status else {}
    expected = _expected(snapshot, node)
    trouble = _node_trouble(snapshot, node)
    for name in sorted({*expected, *reported}):
        if name in reported and status is not None:
            yield _reported(snapshot, status, reported[name], expected.get(name), trouble, now)
        else:
            yield Row(node, name, "pending", reason=trouble or "the agent has not reported it yet")
    if not expected and not reported:
        yield Row(node, "", "idle", reason=trouble or _idle_reason(snapshot, node), settled=not trouble)


def _expected(snapshot: Snapshot, node: str) -> dict[str, Service]:
    """The services of the newest release that the node should run."""
    record = snapshot.nodes.get(node)
    attached = snapshot.environment is not None and node in snapshot.environment.nodes
    if record is None or snapshot.release is None or not attached:
        return {}
    return {service.name: service for service in snapshot.release.services if places(service, record)}


def _reported(
    snapshot: Snapshot,
    status: AssignmentStatus,
    service: ServiceStatus,
    spec: Service | None,
    trouble: str,
    now: datetime,
) -> Row:
    current = status.release >= snapshot.number
    settled = current and not trouble and _as_assigned(service)
    reason = safe(service.reason)
    if not current:
        # What it says is about an earlier release.
        reason = f"not yet at release {snapshot.number}" + (f": {trouble}" if trouble else "")
    elif not settled:
        reason = reason or trouble
        if service.address and 0 < service.release < status.release:
            # The old version goes on until the new one has proved itself.
            reason += f"{'; ' if reason else ''}release {service.release} goes on serving"
    if settled and service.reused:
        reason = reason or "reused"
    end = service.last_exit if service.HasField("last_exit") else None
    return Row(
        node=status.node,
        service=service.name,
        phase=word(ServiceStatus.Phase, service.phase),
        health=word(ServiceStatus.Health, service.health),
        age=seconds_between(service.started_at, now) if service.started_at.seconds else None,
        unhealthy=seconds_between(service.unhealthy_since, now) if service.unhealthy_since.seconds else None,
        restarts=service.restarts,
        release=service.release,
        reused=service.reused,
        address=_address(service, spec),
        reason=reason,
        settled=settled,
        failed=service.failed and current,
        exit_code=end.code if end is not None and end.HasField("code") else None,
        oom_killed=end is not None and end.oom_killed,
        log_lines=tuple(safe(line) for line in end.log_lines) if end is not None else (),
    )


def _as_assigned(service: ServiceStatus) -> bool:
    if service.phase == ServiceStatus.RUNNING:
        return service.health in (ServiceStatus.NONE, ServiceStatus.HEALTHY)
    return service.phase == ServiceStatus.COMPLETED


def _address(service: ServiceStatus, spec: Service | None) -> str:
    if not service.address or spec is None:
        return service.address
    for port in spec.ports:
        if port.name == "http":
            return f"http://{service.address}:{port.port}"
    return f"{service.address}:{spec.ports[0].port}" if spec.ports else service.address


def _node_trouble(snapshot: Snapshot, node: str) -> str:
    """Why the node as a whole does not do what it should; "" when it does."""
    status = snapshot.statuses.get(node)
    if status is not None and status.phase == AssignmentStatus.ERROR:
        return safe(status.reason) or "its assignment cannot be read"
    if snapshot.heartbeats is not None:
        heartbeat = snapshot.heartbeats.get(node)
        if heartbeat is None:
            return "no heartbeat: the agent is not there"
        if heartbeat.problem:
            return safe(heartbeat.problem)
        record = snapshot.nodes.get(node)
        if record is not None and heartbeat.uid != record.uid:
            return "the agent was started for an earlier machine of this name"
    for progress in snapshot.rollout.nodes if snapshot.rollout else ():
        if progress.node == node and progress.phase in (NodeProgress.UNREACHABLE, NodeProgress.ERROR):
            return safe(progress.reason) or word(NodeProgress.Phase, progress.phase)
    return ""


def _idle_reason(snapshot: Snapshot, node: str) -> str:
    if snapshot.environment is None or node not in snapshot.environment.nodes:
        return "no longer attached"
    record = snapshot.nodes.get(node)
    if record is None:
        return "attached, but not registered"
    if snapshot.release is None:
        return "nothing is released yet"
    reasons = {why_not(service, record) for service in snapshot.release.services}
    return f"runs none of the services: {'; '.join(sorted(reasons))}"
