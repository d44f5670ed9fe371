"""Rows: a service on a node with its state and reason."""

from __future__ import annotations

from typing import Any

import pytest

from devopsellence.api.v1.stored_pb2 import (
    AssignmentStatus,
    Environment,
    Exit,
    Heartbeat,
    Node,
    NodeProgress,
    Release,
    Rollout,
    ServiceStatus,
)
from devopsellence.api.v1.workload_pb2 import Service
from devopsellence.cli.render import json as document
from devopsellence.cli.render import text
from devopsellence.cli.render.rows import rows
from tests.unit.cli.render.snapshots import (
    NOW,
    WEB,
    back_at_one,
    rollout,
    row,
    running,
    snapshot,
    status,
)


def test_service_running_as_assigned_is_settled_with_its_address() -> None:
    web, redis = row(snapshot(), "web"), row(snapshot(), "redis")
    assert (web.phase, web.health, web.settled, web.age) == ("running", "healthy", True, 30.0)
    assert web.address == "http://172.18.0.3:3000"
    assert (redis.health, redis.address, redis.settled, redis.reason) == ("none", "172.18.0.2", True, "")


def test_reused_container_is_marked() -> None:
    state = snapshot(statuses={"n1": status(running("redis", reused=True, release=1), running("web"))})
    assert (row(state, "redis").reused, row(state, "redis").reason, row(state, "redis").release) == (True, "reused", 1)


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ({"statuses": {}}, "not yet reported by the agent"),
        ({"statuses": {}, "heartbeats": {}}, "no heartbeat: the agent is not running or cannot reach etcd"),
        ({"heartbeats": {"n1": Heartbeat(uid="u1", problem="Docker does not answer")}}, "Docker does not answer"),
        ({"heartbeats": {"n1": Heartbeat(uid="u1", folder_problem="disk full")}}, "disk full"),
        (
            {"heartbeats": {"n1": Heartbeat(uid="u0")}},
            "the agent was started with the uid of an earlier machine of this name",
        ),
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
    ids=[
        "unreported",
        "no agent",
        "docker gone",
        "disk full",
        "other machine",
        "earlier release",
        "unreadable",
        "unreachable",
    ],
)
def test_unsettled_service_has_a_reason(more: dict[str, Any], reason: str) -> None:
    web = row(snapshot(**more), "web")
    assert not web.settled
    assert web.reason == reason


def test_failure_of_earlier_release_does_not_count() -> None:
    failing = running("web", phase=ServiceStatus.BACKOFF, failed=True, reason="exit code 1")
    web = row(snapshot(statuses={"n1": status(failing, release=1)}), "web")
    assert (web.failed, web.reason) == (False, "not yet at release 2")


def test_old_release_still_serving_is_shown() -> None:
    failing = running("web", phase=ServiceStatus.BACKOFF, failed=True, reason="exit code 3", release=1)
    assert row(snapshot(statuses={"n1": status(failing)}), "web").reason == "exit code 3; release 1 keeps serving"
    starting = running("web", phase=ServiceStatus.STARTING, release=1)
    assert row(snapshot(statuses={"n1": status(starting)}), "web").reason == "release 1 keeps serving"


def test_container_that_has_had_sigterm_is_stopping() -> None:
    stopping = running("web", phase=ServiceStatus.STOPPING, release=1, stopping="0a1b2c", reason="its container stops")
    web = row(snapshot(statuses={"n1": status(stopping)}), "web")
    assert (web.phase, web.stopping, web.reason, web.settled) == ("stopping", "0a1b2c", "its container stops", False)
    replaced = running("web", stopping="0a1b2c", reason="the older container stops")
    web = row(snapshot(statuses={"n1": status(replaced)}), "web")
    assert (web.phase, web.stopping, web.reason) == ("running", "0a1b2c", "the older container stops")


def test_exit_code_zero_is_shown() -> None:
    ended = running("web", phase=ServiceStatus.BACKOFF, last_exit=Exit(code=0))
    assert row(snapshot(statuses={"n1": status(ended)}), "web").exit_code == 0
    assert row(snapshot(), "web").exit_code is None


def test_service_being_removed_is_not_settled() -> None:
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
def test_idle_node_has_a_reason(more: dict[str, Any], reason: str) -> None:
    (only,) = rows(snapshot(statuses={}, **more), NOW)
    assert (only.node, only.service, only.phase) == ("n1", "", "idle")
    assert reason in only.reason


def test_rollback_target_is_expected_to_run() -> None:
    state = back_at_one()
    assert [(service_row.settled, service_row.reason) for service_row in rows(state, NOW)] == [(True, ""), (True, "")]
    assert row(state, "web").address == "http://172.18.0.3:3000"
    shown = text.status(state, NOW).splitlines()
    assert shown[2:4] == [
        "Rollout      failed after 12s, 2/2 services: web on n1: ended with exit code 3; release 1 runs again",
        "Runs         1 (0d1e2f3)",
    ]
    rollout_json = document.rollout(state, NOW)
    assert rollout_json is not None
    assert (rollout_json["phase"], rollout_json["target"], rollout_json["last_settled"]) == ("failed", 1, 1)
    ended = document.release_outcomes(state.rollout)[2]
    assert (ended.outcome, ended.text, ended.runs, ended.rolled_back) == ("failed", "rolled back", False, True)


def test_node_waiting_for_its_batch_is_not_late() -> None:
    waits = NodeProgress(
        node="n1", phase=NodeProgress.WAITING, reason="n1 waits for its batch: 1 node updates at a time", release=1
    )
    state = snapshot(
        rollout=rollout(Rollout.PROGRESSING, nodes=[waits], target=2, last_settled=1),
        older_releases={1: Release(number=1, services=[WEB])},
        statuses={"n1": status(running("web", release=1), release=1)},
    )
    (web,) = rows(state, NOW)
    assert (web.waiting, web.settled, web.failed) == (True, False, False)
    assert web.reason == "waits for its batch: 1 node updates at a time; release 1 keeps running"


def test_idle_waiting_node_has_a_reason() -> None:
    waits = NodeProgress(node="n1", phase=NodeProgress.WAITING, reason="n1 is cordoned and takes nothing new")
    (only,) = rows(snapshot(rollout=rollout(Rollout.PROGRESSING, nodes=[waits]), statuses={}), NOW)
    assert (only.phase, only.reason, only.settled, only.waiting) == (
        "waiting",
        "is cordoned and takes nothing new",
        False,
        True,
    )


def test_replicas_are_expected_only_if_reported() -> None:
    release = Release(number=2, services=[Service(name="web", kind=Service.WEB, replicas=1)])
    (only,) = rows(snapshot(release=release, statuses={}), NOW)
    assert (only.service, only.reason) == ("", "runs none of the services: its replicas run on other nodes")


def test_completed_service_is_settled() -> None:
    done = running("web", phase=ServiceStatus.COMPLETED, health=ServiceStatus.NONE)
    (row,) = rows(snapshot(statuses={"n1": status(done)}, release=Release(number=2, services=[WEB])), NOW)
    assert (row.settled, row.phase) == (True, "completed")
