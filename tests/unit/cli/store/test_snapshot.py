"""State of a release's rollout."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from devopsellence.api.v1.stored_pb2 import (
    Environment,
    Heartbeat,
    Rollout,
    RolloutOutcome,
)
from devopsellence.cli.store.snapshot import RolloutState, overdue_renewals, release_numbers, release_verdict
from tests.unit.cli.render.snapshots import (
    rollout,
    snapshot,
)


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
def test_rollout_state_of_a_release(more: dict[str, Any], number: int, outcome: RolloutState) -> None:
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
    record = rollout(Rollout.ROLLING_BACK, target=1, halted="web ended")
    verdict = release_verdict(snapshot(environment=Environment(latest_release=3), rollout=record), 2)
    assert (verdict.outcome, verdict.reason) == (RolloutState.FAILED, "web ended")


@pytest.mark.parametrize(
    ("record", "target", "in_use"),
    [
        pytest.param(None, 4, {4}, id="no rollout"),
        pytest.param(Rollout(release=4, phase=Rollout.SETTLED, target=4, last_settled=3), 4, {4}, id="settled"),
        pytest.param(
            Rollout(release=4, phase=Rollout.SETTLED, target=4, last_settled=3, provisional=True),
            4,
            {3, 4},
            id="settled provisionally",
        ),
        pytest.param(
            Rollout(release=4, phase=Rollout.PROGRESSING, target=4, last_settled=2), 4, {2, 4}, id="progressing"
        ),
        pytest.param(
            Rollout(release=4, phase=Rollout.ROLLING_BACK, target=2, last_settled=2), 2, {2, 4}, id="rolling back"
        ),
        pytest.param(Rollout(release=4, phase=Rollout.FAILED, target=2, last_settled=2), 2, {2, 4}, id="rolled back"),
        pytest.param(Rollout(release=4, phase=Rollout.FAILED, target=4, last_settled=2), 4, {2, 4}, id="halted"),
        pytest.param(Rollout(release=4, phase=Rollout.FAILED), 4, {4}, id="failed, nothing settled before"),
        pytest.param(
            Rollout(release=3, phase=Rollout.FAILED, target=2, last_settled=2), 4, {2, 4}, id="newest not started"
        ),
    ],
)
def test_release_that_runs_and_releases_in_use(record: Rollout | None, target: int, in_use: set[int]) -> None:
    numbers = release_numbers(4, record)
    assert (numbers.newest, numbers.target, numbers.in_use) == (4, target, frozenset(in_use))


def test_no_release_is_in_use_before_the_first() -> None:
    assert release_numbers(0, None).in_use == frozenset()


def test_agent_that_has_not_renewed_its_certificate_is_named() -> None:
    now = datetime(2026, 5, 1, tzinfo=UTC)

    def heartbeat(days_left: int) -> Heartbeat:
        made = Heartbeat()
        made.certificate_expires_at.FromDatetime(now + timedelta(days=days_left))
        return made

    hostile = Heartbeat()
    hostile.certificate_expires_at.FromJsonString("0001-01-01T00:00:00Z")
    heartbeats = {"n3": heartbeat(-1), "n1": heartbeat(28), "n2": heartbeat(14), "n4": Heartbeat(), "n5": hostile}
    sentences = overdue_renewals(heartbeats, now)
    assert [sentence.split()[4] for sentence in sentences] == ["n2", "n3", "n5"]
    assert "which ends on 2026-05-15" in sentences[0]
