"""JSON form of a snapshot."""

from __future__ import annotations

import json
from typing import Any

import pytest

from devopsellence.api.v1.stored_pb2 import (
    Rollout,
    RolloutOutcome,
)
from devopsellence.cli.render import json as document
from tests.unit.cli.render.snapshots import (
    NOW,
    ago,
    rollout,
    running,
    snapshot,
    status,
)


def test_status_as_json() -> None:
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
        "provisional": False,
        "first_failure": "",
        "deadline_paused": False,
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
        "failures": [],
    }
    assert shown["nodes"][0] == {
        "node": "n1",
        "labels": ["web", "worker"],
        "heartbeat": True,
        "phase": "settled",
        "reason": "",
        "problem": "",
        "reported": {"release": 2, "phase": "settled", "reason": "", "problem": "", "services": {}},
        "since": None,
        "release": 2,
        "services_settled": 2,
        "services_total": 2,
    }
    web = shown["services"][1]
    assert (web["service"], web["settled"], web["age_seconds"]) == ("web", True, 30.0)
    assert web["pending"] == []
    assert (shown["problems"], shown["stale"]) == ([], "")


def test_pending_defaults_as_json() -> None:
    state = snapshot(statuses={"n1": status(running("redis"), running("web", pending=["security.cap_add: []"]))})
    pending = {row["service"]: row["pending"] for row in document.status(state, NOW)["services"]}
    assert pending == {"redis": [], "web": ["security.cap_add: []"]}


def test_times_of_older_rollout_are_not_shown() -> None:
    shown = document.rollout(snapshot(rollout=rollout(Rollout.SETTLED, release=1, finished_at=ago(50))), NOW)
    assert shown is not None
    assert (shown["phase"], shown["started_at"], shown["finished_at"]) == ("waiting", None, None)


def test_outcomes_of_all_known_releases() -> None:
    record = rollout(
        Rollout.PROGRESSING,
        release=3,
        history=[RolloutOutcome(release=2, phase=Rollout.FAILED), RolloutOutcome(release=1, phase=Rollout.SUPERSEDED)],
    )
    outcomes = document.release_outcomes(record)
    assert {number: outcome.text for number, outcome in outcomes.items()} == {
        3: "progressing",
        2: "failed",
        1: "superseded",
    }
    assert outcomes[3].runs
    assert document.release_outcomes(None) == {}


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
def test_newest_release_outcome_is_marked(fields: dict[str, Any], text: str) -> None:
    record = Rollout(release=2, history=[RolloutOutcome(release=1, phase=Rollout.SETTLED)], **fields)
    outcomes = document.release_outcomes(record)
    assert outcomes[2].text == text
    assert outcomes[1].text == ("settled, runs" if fields.get("target") == 1 else "settled")
