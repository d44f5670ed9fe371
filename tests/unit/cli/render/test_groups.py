"""Groups of nodes as text, on a terminal and as changes."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from rich.console import Console

from devopsellence.api.v1.stored_pb2 import (
    AssignmentStatus,
    Environment,
    Exit,
    Heartbeat,
    Node,
    NodeCounts,
    NodeProgress,
    Release,
    Rollout,
    ServiceStatus,
)
from devopsellence.api.v1.workload_pb2 import Service
from devopsellence.cli.render import groups, screen, text
from devopsellence.cli.render.groups import GroupLine, NodeGroup, NodeGroupKind
from devopsellence.cli.store.snapshot import Snapshot
from devopsellence.cli.util.text import anonymous
from devopsellence.store.keys import EnvironmentRef

NOW = datetime(2026, 5, 1, 12, 0, 0, tzinfo=UTC)
SERVICES = [Service(name="redis", kind=Service.WORKER), Service(name="web", kind=Service.WEB)]
DASH = "\N{EN DASH}"
P = NodeProgress


def ago(seconds: float) -> Timestamp:
    stamp = Timestamp()
    stamp.FromDatetime(NOW - timedelta(seconds=seconds))
    return stamp


def status(node: str, release: int, **web: Any) -> AssignmentStatus:
    redis = ServiceStatus(name="redis", phase=ServiceStatus.RUNNING, health=ServiceStatus.NONE, release=release)
    fields: dict[str, Any] = {"phase": ServiceStatus.RUNNING, "health": ServiceStatus.HEALTHY, "release": release}
    phase = AssignmentStatus.CONVERGING if web else AssignmentStatus.SETTLED
    services = [redis, ServiceStatus(name="web", **{**fields, **web})]
    return AssignmentStatus(node=node, release=release, phase=phase, services=services)


FAILED = {
    "phase": ServiceStatus.BACKOFF,
    "failed": True,
    "reason": "ended with exit code 3",
    "last_exit": Exit(code=3, log_lines=["cannot bind"]),
}


def cluster(total: int = 300, **more: Any) -> Snapshot:
    """Release 6 on its way to many nodes: two have failed, one is silent, three are in flight, some are done."""
    names = [f"n{number:03}" for number in range(1, total + 1)]
    done, moving, failed, silent = names[2:40], names[40:43], names[:2], names[-1]
    statuses = {name: status(name, 5) for name in names}
    statuses |= {name: status(name, 6) for name in done}
    statuses |= {name: status(name, 6, phase=ServiceStatus.STARTING, reason="waits for /up") for name in moving[:2]}
    statuses |= {name: status(name, 6, **FAILED) for name in failed}
    node_progress = [
        P(node=name, phase=P.FAILED, release=6, reason=f'service "web" on {name}: ended') for name in failed
    ]
    node_progress += [P(node=name, phase=P.CONVERGING, release=6) for name in moving]
    node_progress.append(
        P(node=silent, phase=P.UNREACHABLE, release=5, reason=f"{silent} has no heartbeat", since=ago(185))
    )
    node_progress += [
        P(node=name, phase=P.WAITING, release=5, reason=f"{name} waits its turn: 3 nodes move at a time")
        for name in names[43:103]
    ]
    waiting = max(0, total - len(done) - len(moving) - len(failed) - 1)
    counts = NodeCounts(
        total=total,
        settled=len(done),
        converging=len(moving),
        failed=len(failed),
        unreachable=1,
        waiting=waiting,
        services_settled=80,
        services_total=86,
    )
    fields: dict[str, Any] = {
        "ref": EnvironmentRef("acme", "shop", "production"),
        "environment": Environment(nodes=names, latest_release=6),
        "release": Release(number=6, services=SERVICES, revision="a1b2c3d"),
        "older_releases": {5: Release(number=5, services=SERVICES)},
        "rollout": Rollout(
            release=6,
            target=6,
            last_settled=5,
            phase=Rollout.PROGRESSING,
            started_at=ago(76),
            nodes=node_progress,
            counts=counts,
        ),
        "nodes": {name: Node(name=name, uid="u", labels=["web", "worker"]) for name in names},
        "heartbeats": {name: Heartbeat(node=name, uid="u") for name in names if name != silent},
        "statuses": statuses,
        "controllers": 1,
    }
    return Snapshot(**{**fields, **more})


def by_kind(snapshot: Snapshot) -> Mapping[NodeGroupKind, NodeGroup]:
    return {group.kind: group for group in groups.groups(snapshot, NOW)}


def test_text_shows_problems_first() -> None:
    assert text.status(cluster(), NOW).splitlines()[2:] == [
        "Rollout      progressing for 1m16s, 38/300 nodes, 80/86 services, about 9 min left",
        "",
        "failed         2  n001, n002: web failed (ended with exit code 3)",
        "unreachable    1  n300: for 3m5s: has no heartbeat",
        "in flight      3  n043: not yet at release 6",
        "                  n041, n042: web starting (waits for /up)",
        f"waiting      256  n044{DASH}n299: waits its turn: 3 nodes move at a time",
        f"settled       38  n003{DASH}n040",
        "",
        "n001/web: exit code 3; last lines:",
        "    cannot bind",
    ]


def test_few_nodes_have_a_row_per_service() -> None:
    few = text.status(cluster(12, rollout=None), NOW)
    assert "n012  redis" in few
    assert "NODE" in few
    every = text.status(cluster(), NOW, everything=True)
    assert len([line for line in every.splitlines() if " web " in line]) == 300


def test_node_missing_from_rollout_is_judged_by_its_status() -> None:
    groups_by_kind = by_kind(cluster())
    # Listed are only failed, moving, silent and some of those that wait.
    assert groups_by_kind[NodeGroupKind.SETTLED].nodes == tuple(f"n{number:03}" for number in range(3, 41))
    assert len(groups_by_kind[NodeGroupKind.WAITING].nodes) == 256
    gone = cluster()
    heartbeats = {
        name: heartbeat for name, heartbeat in (gone.heartbeats or {}).items() if name not in ("n150", "n003")
    }
    groups_by_kind = by_kind(cluster(heartbeats=heartbeats))
    assert groups_by_kind[NodeGroupKind.UNREACHABLE].nodes == ("n003", "n150", "n300")


def test_newly_failed_node_is_not_grouped_as_settled() -> None:
    state = cluster()
    crashed = status("n010", 6, phase=ServiceStatus.BACKOFF, reason="ended with exit code 1")
    groups_by_kind = by_kind(cluster(statuses={**state.statuses, "n010": crashed}))
    assert "n010" in groups_by_kind[NodeGroupKind.MOVING].nodes
    assert GroupLine(("n010",), "web backoff (ended with exit code 1)") in groups_by_kind[NodeGroupKind.MOVING].lines


def test_nodes_are_pending_before_the_rollout() -> None:
    groups_by_kind = by_kind(cluster(rollout=None))
    assert set(groups_by_kind) == {NodeGroupKind.PENDING, NodeGroupKind.UNREACHABLE, NodeGroupKind.FAILED}


def test_every_group_keeps_a_line_in_little_space() -> None:
    lines = tuple(GroupLine((f"n{number}",), f"reason {number}") for number in range(5))
    group = NodeGroup(NodeGroupKind.FAILED, ("n0", "n1", "n2", "n3", "n4"), lines)
    assert groups.line_limits([group, group], None) == [5, 5]
    assert groups.line_limits([group, group], 7) == [5, 2]
    assert groups.line_limits([group, group], 1) == [1, 1]
    assert group.within(5) == lines
    assert group.within(2) == [lines[0], GroupLine(("n1", "n2", "n3", "n4"), "reason 1; and 3 other states")]
    assert group.within(1) == [GroupLine(("n0", "n1", "n2", "n3", "n4"), "reason 0; and 4 other states")]


@pytest.mark.parametrize(
    ("width", "height", "total"), [(80, 24, 300), (80, 10, 300), (200, 50, 300), (80, 24, 3), (40, 12, 12), (80, 8, 12)]
)
def test_frame_fits_the_terminal(width: int, height: int, total: int) -> None:
    console = Console(width=width, height=height, force_terminal=True, color_system=None)
    state = cluster(total) if total > 50 else cluster(total, rollout=None)
    lines = screen.frame(console, state, NOW)
    assert 3 <= len(lines) < height
    assert max(map(len, lines)) < width


def test_cut_frame_counts_hidden_lines() -> None:
    console = Console(width=120, height=24, force_terminal=True, color_system=None)
    lines = screen.frame(console, cluster(), NOW, everything=True)
    assert len(lines) == 23
    assert lines[-1].endswith("more lines: devopsellence status --all")


def test_frame_shows_bar_and_time_left() -> None:
    console = Console(width=100, height=30, force_terminal=True, color_system=None)
    lines = screen.frame(console, cluster(), NOW)
    assert lines[2].split() == ["Rollout", "progressing", "for", "1m16s,", "about", "9", "min", "left"]
    assert "━" in lines[3]
    assert lines[3].rstrip().endswith("38/300 nodes, 80/86 services")


def test_equal_changes_of_nodes_share_a_line() -> None:
    before = groups.groups(cluster(), NOW, ages=False)
    state = cluster()
    done = {name: status(name, 6) for name in ("n041", "n042")}
    after = groups.groups(cluster(statuses={**state.statuses, **done}), NOW + timedelta(hours=1), ages=False)
    assert groups.changes(before, before) == []
    assert groups.changes(before, after) == [(NodeGroupKind.MOVING, GroupLine(("n041", "n042"), "has just settled"))]
    assert sum(len(line.nodes) for _, line in groups.changes([], before)) == 300


@pytest.mark.parametrize(
    ("reason", "without"),
    [
        ("n1 waits its turn", "waits its turn"),
        ('service "web" on n1: ended', 'service "web": ended'),
        ("n1: web ended", "web ended"),
        ("the agent of n1 cannot work", "the agent cannot work"),
        ("n10 waits for n1", "n10 waits for n1"),
        ("on n10: x", "on n10: x"),
    ],
)
def test_reason_loses_the_name_of_its_node(reason: str, without: str) -> None:
    assert anonymous(reason, "n1") == without
