"""Choice of the release to roll back to."""

from __future__ import annotations

import pytest

from devopsellence.api.v1.stored_pb2 import Release, Rollout, RolloutOutcome
from devopsellence.cli.deploy.rollback import content_of, last_settled, running

_P = Rollout


def rollout(newest: int, phase: Rollout.Phase.ValueType, *history: tuple[int, Rollout.Phase.ValueType]) -> Rollout:
    outcomes = [RolloutOutcome(release=number, phase=phase) for number, phase in history]
    return Rollout(release=newest, phase=phase, history=outcomes)


@pytest.mark.parametrize(
    ("record", "newest", "expected"),
    [
        (None, 3, None),
        (rollout(1, _P.SETTLED), 1, None),
        (rollout(3, _P.SETTLED, (2, _P.SETTLED), (1, _P.SETTLED)), 3, 2),
        # One that failed is never chosen, nor one that was overtaken.
        (rollout(4, _P.FAILED, (3, _P.SUPERSEDED), (2, _P.FAILED), (1, _P.SETTLED)), 4, 1),
        # The controller has not taken up the newest yet: what it knows of is an earlier one.
        (rollout(2, _P.SETTLED, (1, _P.SETTLED)), 3, 2),
        (rollout(2, _P.FAILED), 3, None),
        # What the history has forgotten, the rollout may still name.
        (Rollout(release=300, phase=_P.PROGRESSING, last_settled=12), 300, 12),
        # Back at 3: what settled before that.
        (Rollout(release=4, phase=_P.FAILED, target=3, last_settled=3), 3, None),
    ],
)
def test_last_settled_release_is_chosen(record: Rollout | None, newest: int, expected: int | None) -> None:
    assert last_settled(record, newest) == expected


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        (None, 4),
        (Rollout(release=4, phase=_P.SETTLED), 4),
        (Rollout(release=4, phase=_P.FAILED, target=3), 3),
        (Rollout(release=4, phase=_P.ROLLING_BACK, target=2), 2),
        (Rollout(release=3, phase=_P.FAILED, target=2), 4),
    ],
    ids=["no rollout", "settled", "rolled back", "rolling back", "not taken up yet"],
)
def test_rollback_target_is_relative_to_running_release(record: Rollout | None, expected: int) -> None:
    assert running(record, 4) == expected


def test_second_rollback_goes_further_back_than_the_release_just_left() -> None:
    # Releases 1 to 3 settled; 4 repeats 2.
    record = rollout(4, _P.SETTLED, (3, _P.SETTLED), (2, _P.SETTLED), (1, _P.SETTLED))
    assert last_settled(record, content_of(Release(number=4, rollback_of=2), 4)) == 1
    assert last_settled(record, content_of(Release(number=4), 4)) == 3


def test_content_of_missing_release_is_its_own() -> None:
    assert content_of(None, 4) == 4
