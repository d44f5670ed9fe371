"""What the end of a rollout is to the person who waited for it."""

from __future__ import annotations

import pytest

from devopsellence.cli.release.follow import failure
from devopsellence.cli.view.rows import Row
from devopsellence.cli.view.snapshot import Outcome, Snapshot, Verdict
from devopsellence.store.keys import EnvironmentRef

SNAPSHOT = Snapshot(EnvironmentRef("acme", "Shop", "production"), controllers=1)
FINE = Row("n1", "redis", "running", settled=True)
FAILED = Row("n1", "web", "backoff", failed=True, reason="ended", exit_code=3, log_lines=("one", "two"))
SLOW = Row("n2", "web", "starting", reason="waiting for /up")


def test_settled_is_no_error() -> None:
    assert failure(SNAPSHOT, 5, Verdict(Outcome.SETTLED), [FINE]) is None


def test_failed_names_the_service_its_exit_code_and_its_last_lines() -> None:
    error = failure(SNAPSHOT, 5, Verdict(Outcome.FAILED, "n1: web ended"), [FINE, FAILED, SLOW])
    assert error is not None
    assert (error.code, error.exit_code) == ("rollout_failed", 1)
    assert error.message == "release 5 of acme/Shop/production failed: n1: web ended"
    (finding,) = error.findings
    assert finding.message == "n1 web: failed (ended)"
    assert finding.evidence == "exit code 3; its last lines:\n    one\n    two"


def test_without_a_culprit_everything_that_has_not_settled_is_named() -> None:
    error = failure(SNAPSHOT, 5, Verdict(Outcome.FAILED, "the deadline passed"), [FINE, SLOW])
    assert error is not None
    assert [(each.code, each.message) for each in error.findings] == [
        ("service_unsettled", "n2 web: starting (waiting for /up)")
    ]


@pytest.mark.parametrize(
    ("outcome", "controllers", "code"),
    [
        (Outcome.SUPERSEDED, 1, "rollout_superseded"),
        (Outcome.PROGRESSING, 1, "rollout_timeout"),
        (Outcome.WAITING, 1, "rollout_timeout"),
        (Outcome.WAITING, 0, "no_controller"),
    ],
)
def test_every_other_end_has_its_own_code(outcome: Outcome, controllers: int, code: str) -> None:
    error = failure(Snapshot(SNAPSHOT.ref, controllers=controllers), 5, Verdict(outcome, "because"), [])
    assert error is not None
    assert (error.code, error.exit_code) == (code, 1)
