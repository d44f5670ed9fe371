"""One row for each service on each node, with the reason for what is not settled."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

from devopsellence.api.v1.stored_pb2 import AssignmentStatus, NodeProgress, ServiceStatus
from devopsellence.api.v1.workload_pb2 import Service
from devopsellence.cli.render.node_state import NodeSummary, node_summaries
from devopsellence.cli.store.snapshot import Snapshot
from devopsellence.cli.util.text import anonymous, safe, seconds_between, word
from devopsellence.placement import places, why_not


@dataclass(frozen=True)
class ServiceRow:
    """What is known of one service on one node; ``service`` is "" for a node that runs none.

    ``age`` is seconds since the serving container was started, None when none serves. ``unhealthy`` is for how many
    seconds it has not been healthy, None while it is. ``exit_code`` is None when there was no end that was not asked
    for. ``current``: the node has reported about the release that it is to run. ``waiting``: it is left at another
    release for now, so that not being settled is as it should be.
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
    exit_code: int | None = None
    oom_killed: bool = False
    log_lines: tuple[str, ...] = ()


def rows(snapshot: Snapshot, now: datetime) -> list[ServiceRow]:
    """All rows, sorted by node and service. ``now`` is what ages are counted to."""
    return [row for standing in node_summaries(snapshot) for row in node_rows(snapshot, standing, now)]


def node_rows(snapshot: Snapshot, standing: NodeSummary, now: datetime) -> Iterator[ServiceRow]:
    """The rows of one node, sorted by service; at least one."""
    node, waits = standing.node, standing.phase == NodeProgress.WAITING
    status = snapshot.statuses.get(node)
    reported = {service.name: service for service in status.services} if status else {}
    expected = () if waits else _expected(snapshot, node)
    for name in sorted({*expected, *reported}):
        if name in reported and status is not None:
            yield _reported(snapshot, standing, status, reported[name], now)
        else:
            yield ServiceRow(node, name, "pending", reason=standing.problem or "the agent has not reported it yet")
    if not expected and not reported:
        reason = standing.problem or (anonymous(standing.reason, node) if waits else "")
        yield ServiceRow(
            node,
            "",
            "waiting" if waits else "idle",
            reason=reason or _idle_reason(snapshot, node),
            settled=not reason,
            waiting=waits,
        )


def _expected(snapshot: Snapshot, node: str) -> frozenset[str]:
    """The services that the node should run, as far as it can be known before the agent has reported them."""
    record, release = snapshot.nodes.get(node), snapshot.numbered(snapshot.target)
    attached = snapshot.environment is not None and node in snapshot.environment.nodes
    if record is None or release is None or not attached:
        return frozenset()
    # On which nodes the replicas of a service run is for the controller to decide.
    return frozenset(service.name for service in release.services if not service.replicas and places(service, record))


def _reported(
    snapshot: Snapshot, standing: NodeSummary, status: AssignmentStatus, service: ServiceStatus, now: datetime
) -> ServiceRow:
    # A status may be of a release so new that nothing else of it has been read yet.
    current = status.release == snapshot.target or status.release > snapshot.number
    waits = standing.phase == NodeProgress.WAITING and not current
    settled = current and not standing.problem and _as_assigned(service)
    # Also of a release that is taken back: that is why.
    failed = service.failed and (current or status.release == snapshot.number)
    reason = safe(service.reason)
    if failed and not current:
        reason += f"; goes back to release {snapshot.target}"
    elif waits:
        reason = _waits(standing, status.release)
    elif not current:
        # What it says is about another release.
        reason = f"not yet at release {snapshot.target}" + (f": {standing.problem}" if standing.problem else "")
    elif not settled:
        reason = reason or standing.problem
        if service.address and 0 < service.release < status.release:
            # The old version goes on until the new one has proved itself.
            reason += f"{'; ' if reason else ''}release {service.release} goes on serving"
    if settled and service.reused:
        reason = reason or "reused"
    end = service.last_exit if service.HasField("last_exit") else None
    return ServiceRow(
        node=status.node or standing.node,
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
        exit_code=end.code if end is not None and end.HasField("code") else None,
        oom_killed=end is not None and end.oom_killed,
        log_lines=tuple(safe(line) for line in end.log_lines) if end is not None else (),
    )


def _waits(standing: NodeSummary, release: int) -> str:
    """Why a node is left at ``release``: it is not late."""
    reason = anonymous(standing.reason or standing.problem, standing.node) or "waits its turn"
    return reason if not release or f"release {release}" in reason else f"{reason}; release {release} goes on"


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
        return "nothing is released yet"
    reasons = {why_not(service, record) or "its replicas run on other nodes" for service in release.services}
    return f"runs none of the services: {'; '.join(sorted(reasons))}"
