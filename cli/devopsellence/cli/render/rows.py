"""Table rows: a service on a node with its state and the reason why it is not settled."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from devopsellence.api.v1.stored_pb2 import AssignmentStatus, NodeProgress, ServiceStatus
from devopsellence.api.v1.workload_pb2 import Service
from devopsellence.cli.render.node_state import NodeSummary, node_summaries
from devopsellence.cli.store.snapshot import Snapshot
from devopsellence.cli.untrusted import safe
from devopsellence.cli.util.text import anonymous, seconds_between, word
from devopsellence.exits import is_last_failure_an_exit, last_output
from devopsellence.placement import may_run, why_not

#: Limit of the pending defaults shown for a container; no agent has as many, but a node can report anything.
_MAX_PENDING: Final = 20


@dataclass(frozen=True)
class ServiceRow:
    """State of a service on a node; ``service`` is "" for a node without services.

    ``log_lines`` are the last output of the last container that failed; ``last_unhealthy``: why it was found unhealthy,
    "" if it ended by itself. ``age`` is the seconds since the start of the serving container, None without such a
    container. ``unhealthy`` is the seconds since the last healthy probe, None while healthy. ``exit_code`` is None
    unless the container exited by itself. ``current``: the status of the node is about the rollout target. ``waiting``:
    the node stays at another release for now, so not being settled is expected. ``reported`` is False for a service
    that is expected, and that the agent has not reported yet. ``stopping``: id of a container that has had SIGTERM, or
    "". ``pending``: defaults that count from the container's next replacement on.
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
    current: bool = True
    waiting: bool = False
    reported: bool = True
    exit_code: int | None = None
    oom_killed: bool = False
    log_lines: tuple[str, ...] = ()
    stopping: str = ""
    last_unhealthy: str = ""
    pending: tuple[str, ...] = ()


def rows(snapshot: Snapshot, now: datetime) -> list[ServiceRow]:
    """Return all rows, sorted by node and service; ``now`` is the end of ages."""
    return [row for summary in node_summaries(snapshot) for row in node_rows(snapshot, summary, now)]


def node_rows(snapshot: Snapshot, summary: NodeSummary, now: datetime) -> Iterator[ServiceRow]:
    """Yield the rows of a node, sorted by service; at least one row."""
    node, waits = summary.node, summary.phase == NodeProgress.WAITING
    status = snapshot.statuses.get(node)
    reported = {service.name: service for service in status.services} if status else {}
    expected = () if waits else _expected(snapshot, node)
    for name in sorted({*expected, *reported}):
        if name in reported and status is not None:
            yield _reported(snapshot, summary, status, reported[name], now)
        else:
            reason = summary.problem or "not yet reported by the agent"
            yield ServiceRow(node, name, "pending", reason=reason, reported=False)
    if not expected and not reported:
        reason = summary.problem or (anonymous(summary.reason, node) if waits else "")
        yield ServiceRow(
            node,
            "",
            "waiting" if waits else "idle",
            reason=reason or _idle_reason(snapshot, node),
            settled=not reason,
            waiting=waits,
        )


def _expected(snapshot: Snapshot, node: str) -> frozenset[str]:
    """Return the services expected on the node before the first status of its agent."""
    record, release = snapshot.nodes.get(node), snapshot.numbered(snapshot.target)
    attached = snapshot.environment is not None and node in snapshot.environment.nodes
    if record is None or release is None or not attached:
        return frozenset()
    # The controller chooses the nodes of a service with replicas.
    return frozenset(service.name for service in release.services if not service.replicas and may_run(service, record))


def _reported(
    snapshot: Snapshot, summary: NodeSummary, status: AssignmentStatus, service: ServiceStatus, now: datetime
) -> ServiceRow:
    # A status may be about a release newer than the records read.
    current = status.release == snapshot.target or status.release > snapshot.number
    waits = summary.phase == NodeProgress.WAITING and not current
    settled = current and not summary.problem and _as_assigned(service)
    # A failure of a release being rolled back is the reason for the rollback.
    failed = service.failed and (current or status.release == snapshot.number)
    reason = safe(service.reason)
    if failed and not current:
        reason += f"; rolling back to release {snapshot.target}"
    elif waits:
        reason = _waiting_reason(summary, status.release)
    elif not current:
        # The status is about another release.
        reason = f"not yet at release {snapshot.target}" + (f": {summary.problem}" if summary.problem else "")
    elif not settled:
        reason = reason or summary.problem or safe(service.last_unhealthy.reason)
        stopping = service.phase == ServiceStatus.STOPPING
        if service.address and 0 < service.release < status.release and not stopping:
            # The old version serves requests until the new version is ready.
            reason += f"{'; ' if reason else ''}release {service.release} keeps serving"
    if settled and service.reused:
        reason = reason or "reused"
    last_exit = service.last_exit if service.HasField("last_exit") else None
    return ServiceRow(
        node=status.node or summary.node,
        service=service.name,
        phase=word(ServiceStatus.Phase, service.phase),
        health=word(ServiceStatus.Health, service.health),
        age=seconds_between(service.started_at, now) if service.started_at.seconds else None,
        unhealthy=seconds_between(service.unhealthy_since, now) if service.unhealthy_since.seconds else None,
        restarts=service.restarts,
        release=service.release,
        reused=service.reused,
        address=_address(service, _spec(snapshot, status.release, service.name)),
        reason=reason,
        settled=settled,
        failed=failed,
        current=current,
        waiting=waits,
        exit_code=last_exit.code if last_exit is not None and last_exit.HasField("code") else None,
        oom_killed=last_exit is not None and last_exit.oom_killed,
        log_lines=tuple(safe(line) for line in last_output(service)),
        stopping=safe(service.stopping),
        pending=pending_of(service),
        last_unhealthy="" if is_last_failure_an_exit(service) else safe(service.last_unhealthy.reason) or "not healthy",
    )


def pending_of(service: ServiceStatus) -> tuple[str, ...]:
    """Return the defaults that count from the next replacement of the service's container on."""
    return tuple(safe(setting) for setting in service.pending[:_MAX_PENDING])


def _waiting_reason(summary: NodeSummary, release: int) -> str:
    """Return the reason why a waiting node stays at ``release``."""
    reason = anonymous(summary.reason or summary.problem, summary.node) or "waiting for its batch"
    return reason if not release or f"release {release}" in reason else f"{reason}; release {release} keeps running"


def _spec(snapshot: Snapshot, number: int, name: str) -> Service | None:
    release = snapshot.numbered(number)
    return (
        next((service for service in release.services if service.name == name), None) if release is not None else None
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


def _idle_reason(snapshot: Snapshot, node: str) -> str:
    if snapshot.environment is None or node not in snapshot.environment.nodes:
        return "no longer attached"
    record = snapshot.nodes.get(node)
    if record is None:
        return "attached, but not registered"
    release = snapshot.numbered(snapshot.target)
    if release is None:
        return "no release yet"
    reasons = {why_not(service, record) or "its replicas run on other nodes" for service in release.services}
    return f"runs none of the services: {'; '.join(sorted(reasons))}"
