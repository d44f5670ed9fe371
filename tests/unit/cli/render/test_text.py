"""From messages to rows, text and JSON."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from devopsellence.api.v1.stored_pb2 import (
    AssignmentStatus,
    Environment,
    Exit,
    Heartbeat,
    Node,
    NodeProgress,
    Release,
    Rollout,
    RolloutOutcome,
    ServiceStatus,
    TaskStatus,
)
from devopsellence.api.v1.workload_pb2 import Port, Service
from devopsellence.cli.render import json as document
from devopsellence.cli.render import text
from devopsellence.cli.render.rows import ServiceRow, rows
from devopsellence.cli.store.snapshot import RolloutState, Snapshot, UnreadableKey, release_verdict
from devopsellence.store.keys import EnvironmentRef

REF = EnvironmentRef("acme", "Shop", "production")
NOW = datetime(2026, 5, 1, 12, 0, 0, tzinfo=UTC)


def ago(seconds: float) -> Timestamp:
    stamp = Timestamp()
    stamp.FromDatetime(NOW - timedelta(seconds=seconds))
    return stamp


WEB = Service(name="web", kind=Service.WEB, ports=[Port(name="metrics", port=9000), Port(name="http", port=3000)])
REDIS = Service(name="redis", kind=Service.WORKER)
RELEASE = Release(
    number=2,
    services=[REDIS, WEB],
    revision="a1b2c3d",
    created_by="ann@laptop",
    message="new search",
    created_at=ago(120),
)


def running(name: str, **more: Any) -> ServiceStatus:
    fields: dict[str, Any] = {
        "name": name,
        "phase": ServiceStatus.RUNNING,
        "health": ServiceStatus.HEALTHY if name == "web" else ServiceStatus.NONE,
        "address": "172.18.0.3" if name == "web" else "172.18.0.2",
        "release": 2,
        "started_at": ago(30),
    }
    return ServiceStatus(**{**fields, **more})


def status(*services: ServiceStatus, release: int = 2, **more: Any) -> AssignmentStatus:
    fields: dict[str, Any] = {"node": "n1", "phase": AssignmentStatus.SETTLED}
    return AssignmentStatus(release=release, services=services, **{**fields, **more})


def rollout(phase: Rollout.Phase.ValueType, settled: int = 2, **more: Any) -> Rollout:
    fields: dict[str, Any] = {
        "release": 2,
        "phase": phase,
        "started_at": ago(60),
        "nodes": [NodeProgress(node="n1", services_settled=settled, services_total=2)],
    }
    return Rollout(**{**fields, **more})


def snapshot(**more: Any) -> Snapshot:
    """One node, two services, all settled at release 2."""
    fields: dict[str, Any] = {
        "ref": REF,
        "environment": Environment(organization="acme", nodes=["n1"], latest_release=2),
        "release": RELEASE,
        "rollout": rollout(Rollout.SETTLED, finished_at=ago(57.5)),
        "nodes": {"n1": Node(name="n1", uid="u1", labels=["web", "worker"])},
        "heartbeats": {"n1": Heartbeat(node="n1", uid="u1")},
        "statuses": {"n1": status(running("redis"), running("web"))},
        "controllers": 1,
    }
    return Snapshot(**{**fields, **more})


def row(state: Snapshot, service: str) -> ServiceRow:
    return next(each for each in rows(state, NOW) if each.service == service)


def test_service_running_as_assigned_is_settled_with_its_address() -> None:
    web, redis = row(snapshot(), "web"), row(snapshot(), "redis")
    assert (web.phase, web.health, web.settled, web.age) == ("running", "healthy", True, 30.0)
    assert web.address == "http://172.18.0.3:3000"
    assert (redis.health, redis.address, redis.settled, redis.reason) == ("none", "172.18.0.2", True, "")


def test_a_service_that_was_left_untouched_says_so() -> None:
    state = snapshot(statuses={"n1": status(running("redis", reused=True, release=1), running("web"))})
    assert (row(state, "redis").reused, row(state, "redis").reason, row(state, "redis").release) == (True, "reused", 1)


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ({"statuses": {}}, "not yet reported by the agent"),
        ({"statuses": {}, "heartbeats": {}}, "no heartbeat: the agent is not running or cannot reach etcd"),
        ({"heartbeats": {"n1": Heartbeat(uid="u1", problem="Docker does not answer")}}, "Docker does not answer"),
        ({"heartbeats": {"n1": Heartbeat(uid="u0")}}, "the agent was started with the uid of an earlier machine of this name"),
        ({"statuses": {"n1": status(running("web"), running("redis"), release=1)}}, "not yet at release 2"),
        (
            {"statuses": {"n1": status(running("web"), phase=AssignmentStatus.ERROR, reason="no JSON")}},
            "no JSON",
        ),
        (
            {
                "heartbeats": None,
                "rollout": rollout(
                    Rollout.PROGRESSING,
                    nodes=[NodeProgress(node="n1", phase=NodeProgress.UNREACHABLE, reason="silent for 15 s")],
                ),
            },
            "silent for 15 s",
        ),
    ],
    ids=["unreported", "no agent", "docker gone", "other machine", "earlier release", "unreadable", "unreachable"],
)
def test_unsettled_service_has_a_reason(more: dict[str, Any], reason: str) -> None:
    web = row(snapshot(**more), "web")
    assert not web.settled
    assert web.reason == reason


def test_a_failure_of_an_earlier_release_is_not_one_of_this() -> None:
    failing = running("web", phase=ServiceStatus.BACKOFF, failed=True, reason="exit code 1")
    web = row(snapshot(statuses={"n1": status(failing, release=1)}), "web")
    assert (web.failed, web.reason) == (False, "not yet at release 2")


def test_a_failed_service_shows_how_it_ended() -> None:
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
        "    \N{REPLACEMENT CHARACTER}[31mtwo",
    ]
    assert "\x1b" not in text.status(state, NOW)


def test_old_release_still_serving_is_shown() -> None:
    failing = running("web", phase=ServiceStatus.BACKOFF, failed=True, reason="exit code 3", release=1)
    assert row(snapshot(statuses={"n1": status(failing)}), "web").reason == "exit code 3; release 1 keeps serving"
    starting = running("web", phase=ServiceStatus.STARTING, release=1)
    assert row(snapshot(statuses={"n1": status(starting)}), "web").reason == "release 1 keeps serving"


def test_an_exit_code_of_zero_is_an_end_too() -> None:
    ended = running("web", phase=ServiceStatus.BACKOFF, last_exit=Exit(code=0))
    assert row(snapshot(statuses={"n1": status(ended)}), "web").exit_code == 0
    assert row(snapshot(), "web").exit_code is None


def test_a_service_on_its_way_out_is_shown_and_not_settled() -> None:
    state = snapshot(statuses={"n1": status(running("web"), running("old", phase=ServiceStatus.STOPPING))})
    assert (row(state, "old").phase, row(state, "old").settled) == ("stopping", False)


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ({"nodes": {"n1": Node(name="n1", uid="u1")}}, "runs none of the services: not labelled"),
        ({"nodes": {}}, "attached, but not registered"),
        ({"release": None}, "no release yet"),
        ({"environment": Environment(latest_release=2)}, "no longer attached"),
    ],
)
def test_a_node_that_runs_nothing_says_why(more: dict[str, Any], reason: str) -> None:
    (only,) = rows(snapshot(statuses={}, **more), NOW)
    assert (only.node, only.service, only.phase) == ("n1", "", "idle")
    assert reason in only.reason


@pytest.mark.parametrize(
    ("more", "number", "outcome"),
    [
        ({}, 2, RolloutState.SETTLED),
        ({"rollout": None}, 2, RolloutState.WAITING),
        ({"rollout": rollout(Rollout.PROGRESSING)}, 2, RolloutState.PROGRESSING),
        ({"rollout": rollout(Rollout.FAILED)}, 2, RolloutState.FAILED),
        ({"rollout": rollout(Rollout.SETTLED, release=1)}, 2, RolloutState.WAITING),
        # A newer release was written, and the controller has not come to it yet, or never came to ours.
        (
            {"environment": Environment(latest_release=3), "rollout": rollout(Rollout.PROGRESSING)},
            2,
            RolloutState.SUPERSEDED,
        ),
        ({"environment": Environment(latest_release=3), "rollout": None}, 2, RolloutState.SUPERSEDED),
        # One that had settled before stays settled, whatever came after.
        ({"environment": Environment(latest_release=3)}, 2, RolloutState.SETTLED),
        (
            {
                "rollout": rollout(
                    Rollout.PROGRESSING, release=3, history=[RolloutOutcome(release=2, phase=Rollout.SETTLED)]
                )
            },
            2,
            RolloutState.SETTLED,
        ),
        (
            {
                "rollout": rollout(
                    Rollout.PROGRESSING, release=3, history=[RolloutOutcome(release=2, phase=Rollout.FAILED)]
                )
            },
            2,
            RolloutState.FAILED,
        ),
        (
            {
                "rollout": rollout(
                    Rollout.SETTLED, release=3, history=[RolloutOutcome(release=2, phase=Rollout.SUPERSEDED)]
                )
            },
            2,
            RolloutState.SUPERSEDED,
        ),
        ({"rollout": rollout(Rollout.SETTLED, release=9)}, 2, RolloutState.SUPERSEDED),
    ],
)
def test_how_a_rollout_stands(more: dict[str, Any], number: int, outcome: RolloutState) -> None:
    assert release_verdict(snapshot(**more), number).outcome is outcome


@pytest.mark.parametrize(
    ("phase", "more", "outcome", "instead", "final"),
    [
        (
            Rollout.ROLLING_BACK,
            {"target": 1, "halted": "web ended", "reason": "n2 waits"},
            RolloutState.ROLLING_BACK,
            1,
            False,
        ),
        (Rollout.FAILED, {"target": 1, "reason": "web ended; release 1 runs again"}, RolloutState.FAILED, 1, True),
        (Rollout.FAILED, {"target": 2, "reason": "web ended", "halted": "web ended"}, RolloutState.FAILED, 0, True),
        # As earlier versions wrote it.
        (Rollout.FAILED, {"target": 0, "reason": "web ended"}, RolloutState.FAILED, 0, True),
    ],
    ids=["rolling back", "rolled back", "halted", "no target"],
)
def test_release_running_after_a_failure_is_shown(
    phase: Rollout.Phase.ValueType, more: dict[str, Any], outcome: RolloutState, instead: int, final: bool
) -> None:
    verdict = release_verdict(snapshot(rollout=rollout(phase, **more)), 2)
    assert (verdict.outcome, verdict.rolled_back_to, verdict.final) == (outcome, instead, final)
    assert verdict.reason.startswith("web ended")


def test_release_rolling_back_when_superseded_has_failed() -> None:
    found = rollout(Rollout.ROLLING_BACK, target=1, halted="web ended")
    verdict = release_verdict(snapshot(environment=Environment(latest_release=3), rollout=found), 2)
    assert (verdict.outcome, verdict.reason) == (RolloutState.FAILED, "web ended")


def back_at_one(**more: Any) -> Snapshot:
    """Release 2 has failed and was rolled back: release 1 runs."""
    reason = "web on n1: ended with exit code 3; release 1 runs again"
    fields: dict[str, Any] = {
        "rollout": rollout(Rollout.FAILED, finished_at=ago(48), target=1, last_settled=1, reason=reason),
        "older_releases": {1: Release(number=1, services=[REDIS, WEB], revision="0d1e2f3")},
        "statuses": {"n1": status(running("redis", release=1), running("web", release=1), release=1)},
    }
    return snapshot(**{**fields, **more})


def test_after_a_rollback_the_older_release_is_what_should_run() -> None:
    state = back_at_one()
    assert [(each.settled, each.reason) for each in rows(state, NOW)] == [(True, ""), (True, "")]
    assert row(state, "web").address == "http://172.18.0.3:3000"
    shown = text.status(state, NOW).splitlines()
    assert shown[2:4] == [
        "Rollout      failed after 12s, 2/2 services: web on n1: ended with exit code 3; release 1 runs again",
        "Runs         1 (0d1e2f3)",
    ]
    found = document.rollout(state, NOW)
    assert found is not None
    assert (found["phase"], found["target"], found["last_settled"]) == ("failed", 1, 1)
    ended = document.release_outcomes(state.rollout)[2]
    assert (ended.outcome, ended.text, ended.runs, ended.rolled_back) == ("failed", "rolled back", False, True)


def test_rolled_back_release_keeps_its_reason() -> None:
    failing = running("web", phase=ServiceStatus.BACKOFF, failed=True, reason="exit code 3", last_exit=Exit(code=3))
    state = back_at_one(
        rollout=rollout(Rollout.ROLLING_BACK, target=1, last_settled=1, halted="exit code 3"),
        statuses={"n1": status(running("redis"), failing)},
    )
    web = row(state, "web")
    assert (web.failed, web.settled, web.reason) == (True, False, "exit code 3; rolling back to release 1")
    assert text.rollout_line(state, NOW) == "failed, rolling back to release 1 for 1m, 2/2 services: exit code 3"


def test_a_node_that_waits_its_turn_is_not_late() -> None:
    waits = NodeProgress(
        node="n1", phase=NodeProgress.WAITING, reason="n1 waits its turn: 1 node moves at a time", release=1
    )
    state = snapshot(
        rollout=rollout(Rollout.PROGRESSING, nodes=[waits], target=2, last_settled=1),
        older_releases={1: Release(number=1, services=[WEB])},
        statuses={"n1": status(running("web", release=1), release=1)},
    )
    (web,) = rows(state, NOW)
    assert (web.waiting, web.settled, web.failed) == (True, False, False)
    assert web.reason == "waits its turn: 1 node moves at a time; release 1 keeps running"


def test_a_waiting_node_that_runs_nothing_says_what_it_waits_for() -> None:
    waits = NodeProgress(node="n1", phase=NodeProgress.WAITING, reason="n1 is cordoned and takes nothing new")
    (only,) = rows(snapshot(rollout=rollout(Rollout.PROGRESSING, nodes=[waits]), statuses={}), NOW)
    assert (only.phase, only.reason, only.settled, only.waiting) == (
        "waiting",
        "is cordoned and takes nothing new",
        False,
        True,
    )


def test_replicas_are_expected_only_where_they_were_reported() -> None:
    release = Release(number=2, services=[Service(name="web", kind=Service.WEB, replicas=1)])
    (only,) = rows(snapshot(release=release, statuses={}), NOW)
    assert (only.service, only.reason) == ("", "runs none of the services: its replicas run on other nodes")


def test_status_as_text_is_a_heading_and_a_table() -> None:
    assert text.status(snapshot(), NOW) == (
        "Environment  acme/Shop/production\n"
        "Release      2 (a1b2c3d, by ann@laptop, 2m ago): new search\n"
        "Rollout      settled in 2.5s, 2/2 services\n"
        "\n"
        "NODE  SERVICE  PHASE    HEALTH   AGE  RESTARTS  ADDRESS                 REASON\n"
        "n1    redis    running  none     30s  0         172.18.0.2\n"
        "n1    web      running  healthy  30s  0         http://172.18.0.3:3000"
    )


def test_status_as_text_before_anything_was_deployed() -> None:
    assert text.status(Snapshot(REF), NOW) == (
        "Environment  acme/Shop/production\nRelease      none yet; run devopsellence deploy\n\nNo node is attached."
    )


def test_an_unreadable_record_is_named_and_the_rest_is_shown() -> None:
    state = snapshot(release=None, problems=(UnreadableKey("/p/releases/x", "not a readable Release: line 1\x1b[2J"),))
    shown = text.status(state, NOW)
    assert "Release      2 (cannot be read)" in shown
    assert "Cannot read /p/releases/x: not a readable Release: line 1\N{REPLACEMENT CHARACTER}[2J" in shown
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
def test_the_rollout_in_a_line(more: dict[str, Any], line: str) -> None:
    assert text.rollout_line(snapshot(**more), NOW) == line


def test_changes_are_what_says_something_else_whatever_the_age() -> None:
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


def test_status_as_json_has_everything_that_the_text_has() -> None:
    shown = json.loads(json.dumps(document.status(snapshot(), NOW)))
    assert shown["environment"] == {
        "organization": "acme",
        "project": "Shop",
        "environment": "production",
        "nodes": ["n1"],
        "latest_release": 2,
    }
    assert shown["release"]["number"] == 2
    assert shown["release"]["services"] == ["redis", "web"]
    assert shown["rollout"] == {
        "release": 2,
        "phase": "settled",
        "reason": "",
        "target": 2,
        "last_settled": None,
        "halted": "",
        "services_settled": 2,
        "services_total": 2,
        "counts": {
            "total": 1,
            "pending": 0,
            "converging": 0,
            "settled": 1,
            "failed": 0,
            "unreachable": 0,
            "error": 0,
            "waiting": 0,
        },
        "started_at": "2026-05-01T11:59:00Z",
        "finished_at": "2026-05-01T11:59:02.500Z",
        "seconds_left": None,
        "task": None,
    }
    assert shown["nodes"][0] == {
        "node": "n1",
        "labels": ["web", "worker"],
        "heartbeat": True,
        "phase": "settled",
        "reason": "",
        "since": None,
        "release": 2,
        "services_settled": 2,
        "services_total": 2,
    }
    web = shown["services"][1]
    assert (web["service"], web["settled"], web["age_seconds"]) == ("web", True, 30.0)
    assert (shown["problems"], shown["stale"]) == ([], "")


def test_an_older_release_s_times_are_not_this_one_s() -> None:
    shown = document.rollout(snapshot(rollout=rollout(Rollout.SETTLED, release=1, finished_at=ago(50))), NOW)
    assert shown is not None
    assert (shown["phase"], shown["started_at"], shown["finished_at"]) == ("waiting", None, None)


def test_outcomes_of_all_releases_that_the_controller_remembers() -> None:
    found = rollout(
        Rollout.PROGRESSING,
        release=3,
        history=[RolloutOutcome(release=2, phase=Rollout.FAILED), RolloutOutcome(release=1, phase=Rollout.SUPERSEDED)],
    )
    outcomes = document.release_outcomes(found)
    assert {number: each.text for number, each in outcomes.items()} == {3: "progressing", 2: "failed", 1: "superseded"}
    assert outcomes[3].runs
    assert document.release_outcomes(None) == {}


@pytest.mark.parametrize(
    ("fields", "line"),
    [
        (
            {"phase": TaskStatus.WAITING, "reason": "waits for redis: not healthy yet"},
            "Task         release on n1: waiting: waits for redis: not healthy yet",
        ),
        ({"phase": TaskStatus.RUNNING, "started_at": ago(4)}, "Task         release on n1: running for 4.0s"),
        (
            {"phase": TaskStatus.SUCCEEDED, "started_at": ago(20), "finished_at": ago(8)},
            "Task         release on n1: succeeded in 12s",
        ),
        (
            {"phase": TaskStatus.FAILED, "started_at": ago(20), "finished_at": ago(8), "reason": "exit code 3"},
            "Task         release on n1: failed after 12s: exit code 3",
        ),
    ],
)
def test_the_release_task_has_a_line_of_its_own(fields: dict[str, Any], line: str) -> None:
    task = TaskStatus(name="release", node="n1", release=2, **fields)
    shown = text.status(snapshot(rollout=rollout(Rollout.PROGRESSING, task=task)), NOW)
    assert line in shown.splitlines()


def test_a_task_that_failed_shows_its_last_lines() -> None:
    task = TaskStatus(name="release", node="n1", release=2, phase=TaskStatus.FAILED)
    task.exit.code = 3
    task.exit.log_lines.extend(["no such table", "\x1b[31mbad"])
    found = snapshot(rollout=rollout(Rollout.FAILED, task=task))
    lines = text.status(found, NOW).splitlines()
    assert "task release on n1: last lines:" in lines
    assert "    no such table" in lines
    assert not any("\x1b" in line for line in lines)
    shown = document.status(found, NOW)["rollout"]["task"]
    assert (shown["phase"], shown["exit_code"]) == ("failed", 3)


def test_a_task_of_an_earlier_release_is_not_shown() -> None:
    task = TaskStatus(name="release", node="n1", release=1, phase=TaskStatus.SUCCEEDED)
    old = rollout(Rollout.SETTLED, release=1, task=task)
    assert "Task" not in text.status(snapshot(rollout=old), NOW)


def test_unhealthy_says_since_when() -> None:
    sick = running("web", health=ServiceStatus.UNHEALTHY, unhealthy_since=ago(130), reason="not healthy: answered 500")
    (row,) = rows(snapshot(statuses={"n1": status(sick)}, release=Release(number=2, services=[WEB])), NOW)
    assert text.cells(row)[3] == "unhealthy 2m10s"
    assert "2m" not in text.row_line(row), "a line that tells of a change must not change with time alone"


def test_a_service_that_has_completed_is_as_it_should_be() -> None:
    done = running("web", phase=ServiceStatus.COMPLETED, health=ServiceStatus.NONE)
    (row,) = rows(snapshot(statuses={"n1": status(done)}, release=Release(number=2, services=[WEB])), NOW)
    assert (row.settled, row.phase) == (True, "completed")


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"phase": Rollout.PROGRESSING}, "progressing"),
        ({"phase": Rollout.SETTLED, "target": 2}, "settled, runs"),
        ({"phase": Rollout.FAILED, "target": 2}, "failed, runs"),
        ({"phase": Rollout.FAILED, "target": 2, "halted": "web ended"}, "failed, halted"),
        ({"phase": Rollout.ROLLING_BACK, "target": 1, "halted": "web ended"}, "rolling back"),
        ({"phase": Rollout.FAILED, "target": 1, "halted": "web ended"}, "rolled back"),
    ],
    ids=["progressing", "settled", "failed", "halted", "rolling back", "rolled back"],
)
def test_how_the_newest_release_is_marked(fields: dict[str, Any], text: str) -> None:
    found = Rollout(release=2, history=[RolloutOutcome(release=1, phase=Rollout.SETTLED)], **fields)
    outcomes = document.release_outcomes(found)
    assert outcomes[2].text == text
    assert outcomes[1].text == ("settled, runs" if fields.get("target") == 1 else "settled")
