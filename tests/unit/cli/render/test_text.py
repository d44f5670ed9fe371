"""Plain text of a snapshot."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from devopsellence.api.v1.stored_pb2 import (
    Environment,
    Exit,
    Node,
    NodeProgress,
    Release,
    Rollout,
    ServiceStatus,
)
from devopsellence.cli.render import text
from devopsellence.cli.render.rows import rows
from devopsellence.cli.store.snapshot import Snapshot, UnreadableKey
from tests.unit.cli.render.snapshots import (
    NOW,
    REF,
    WEB,
    ago,
    back_at_one,
    rollout,
    row,
    running,
    snapshot,
    status,
)


def test_failed_service_shows_exit_code_and_last_lines() -> None:
    end = Exit(code=137, oom_killed=True, log_lines=["one", "\x1b[31mtwo"])
    failing = running(
        "web", phase=ServiceStatus.BACKOFF, failed=True, restarts=3, last_exit=end, reason="killed", address=""
    )
    state = snapshot(statuses={"n1": status(running("redis"), failing)})
    web = row(state, "web")
    assert (web.failed, web.settled, web.exit_code, web.oom_killed, web.restarts) == (True, False, 137, True, 3)
    assert text.failure_lines(web) == [
        "",
        "n1/web: exit code 137, out of memory; last lines:",
        "    one",
        "    \\x1b[31mtwo",
    ]
    assert "\x1b" not in text.status(state, NOW)


def test_rolled_back_release_keeps_its_reason() -> None:
    failing = running("web", phase=ServiceStatus.BACKOFF, failed=True, reason="exit code 3", last_exit=Exit(code=3))
    state = back_at_one(
        rollout=rollout(Rollout.ROLLING_BACK, target=1, last_settled=1, halted="exit code 3"),
        statuses={"n1": status(running("redis"), failing)},
    )
    web = row(state, "web")
    assert (web.failed, web.settled, web.reason) == (True, False, "exit code 3; rolling back to release 1")
    assert text.rollout_line(state, NOW) == "failed, rolling back to release 1 for 1m, 2/2 services: exit code 3"


def test_status_text_has_heading_and_table() -> None:
    assert text.status(snapshot(), NOW) == (
        "Environment  acme/Shop/production\n"
        "Release      2 (a1b2c3d, by ann@laptop, 2m ago): new search\n"
        "Rollout      settled in 2.5s, 2/2 services\n"
        "\n"
        "NODE  SERVICE  PHASE    HEALTH   AGE  RESTARTS  ADDRESS                 REASON\n"
        "n1    redis    running  none     30s  0         172.18.0.2\n"
        "n1    web      running  healthy  30s  0         http://172.18.0.3:3000"
    )


def test_pending_defaults_are_listed_below_the_table() -> None:
    pending = ["security.new_privileges: false", "security.cap_add: []\x1b"]
    nodes = {name: Node(name=name, uid=name, labels=["web", "worker"]) for name in ("n1", "n2")}
    state = snapshot(
        nodes=nodes,
        environment=Environment(organization="acme", nodes=["n1", "n2"], latest_release=2),
        statuses={
            "n1": status(running("redis"), running("web", pending=pending)),
            "n2": status(running("redis", pending=["x"] * 1000), running("web", pending=pending), node="n2"),
        },
    )
    assert text.pending_lines(state) == [
        "n1, n2: web gets security.new_privileges: false, security.cap_add: []\\x1b when its container is replaced",
        f"n2: redis gets {', '.join(['x'] * 20)} when its container is replaced",
    ]
    assert text.pending_lines(state)[0] in text.status(state, NOW).splitlines()


def test_status_text_before_first_release() -> None:
    assert text.status(Snapshot(REF), NOW) == (
        "Environment  acme/Shop/production\nRelease      none yet; run devopsellence deploy\n\nNo node is attached."
    )


def test_unreadable_record_is_named() -> None:
    state = snapshot(release=None, problems=(UnreadableKey("/p/releases/x", "not a readable Release: line 1\x1b[2J"),))
    shown = text.status(state, NOW)
    assert "Release      2 (cannot be read)" in shown
    assert "Cannot read /p/releases/x: not a readable Release: line 1\\x1b[2J" in shown
    assert "n1    web" in shown


@pytest.mark.parametrize(
    ("more", "line"),
    [
        ({"rollout": None}, "waiting for the controller"),
        ({"rollout": None, "controllers": 0}, "waiting for the controller; none is running"),
        ({"rollout": rollout(Rollout.PROGRESSING, settled=1)}, "progressing for 1m, 1/2 services"),
        (
            {"rollout": rollout(Rollout.FAILED, settled=1, finished_at=ago(48), reason="n1: web: exit code 1")},
            "failed after 12s, 1/2 services: n1: web: exit code 1",
        ),
    ],
)
def test_rollout_line(more: dict[str, Any], line: str) -> None:
    assert text.rollout_line(snapshot(**more), NOW) == line


def test_age_is_no_change() -> None:
    before = rows(snapshot(), NOW)
    assert text.changes(before, rows(snapshot(), NOW + timedelta(hours=1))) == []
    stopped = rows(snapshot(statuses={"n1": status(running("web", phase=ServiceStatus.STOPPING))}), NOW)
    assert [line for _, line in text.changes(before, stopped)] == [
        "n1 redis: pending (not yet reported by the agent)",
        "n1 web: stopping, healthy",
    ]
    assert [line for _, line in text.changes(before, before[:1])] == ["n1 web: removed"]
    assert [line for _, line in text.changes([], before)] == [
        "n1 redis: running, 172.18.0.2",
        "n1 web: running, healthy, http://172.18.0.3:3000",
    ]


def test_first_deploy_removes_nothing_from_nodes_that_wait() -> None:
    # Before the rollout begins every service is expected at once; then the node waits for its batch.
    expected = rows(snapshot(rollout=None, statuses={}), NOW)
    waits = NodeProgress(node="n1", phase=NodeProgress.WAITING, reason="n1 waits for its batch")
    waiting = rows(snapshot(rollout=rollout(Rollout.PROGRESSING, nodes=[waits]), statuses={}), NOW)
    assert [row.service for row in expected] == ["redis", "web"]
    assert [line for _, line in text.changes(expected, waiting)] == ["n1: waiting (waits for its batch)"]


def test_unhealthy_service_has_a_duration() -> None:
    sick = running("web", health=ServiceStatus.UNHEALTHY, unhealthy_since=ago(130), reason="not healthy: answered 500")
    (row,) = rows(snapshot(statuses={"n1": status(sick)}, release=Release(number=2, services=[WEB])), NOW)
    assert text.cells(row)[3] == "unhealthy 2m10s"
    assert "2m" not in text.row_line(row), "a line that tells of a change must not change with time alone"
