"""Results and errors at the end of a rollout."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from typing import Any

import pytest

from devopsellence.api.v1.stored_pb2 import (
    AssignmentStatus,
    Environment,
    Exit,
    Rollout,
    ServiceFailure,
    ServiceStatus,
    TaskStatus,
)
from devopsellence.cli.deploy.follow import ProgressTimer, RolloutEnd, next_steps, rollout_error
from devopsellence.cli.render.rows import ServiceRow
from devopsellence.cli.store.snapshot import ReleaseVerdict, RolloutState, Snapshot
from devopsellence.store.keys import EnvironmentRef

REF = EnvironmentRef("acme", "Shop", "production")
CODE = Exit(code=3, log_lines=["one", "two"])
FINE = ServiceStatus(name="redis", phase=ServiceStatus.RUNNING, health=ServiceStatus.NONE)
FAILED = ServiceStatus(name="web", phase=ServiceStatus.BACKOFF, failed=True, reason="ended", last_exit=CODE)
SLOW = ServiceStatus(name="web", phase=ServiceStatus.STARTING, reason="waiting for /up")


def end(outcome: RolloutState, reason: str = "", *statuses: AssignmentStatus, **more: Any) -> RolloutEnd:
    """The end of release 5's rollout."""
    snapshot: dict[str, Any] = {
        "environment": Environment(latest_release=5),
        "rollout": Rollout(release=5),
        "statuses": {status.node: status for status in statuses},
        "controllers": 1,
    }
    fields = {"rolled_back_to": more.pop("rolled_back_to", 0)}
    failed = more.pop("failed", ())
    return RolloutEnd(Snapshot(REF, **{**snapshot, **more}), 5, ReleaseVerdict(outcome, reason, **fields), failed)


def on(node: str, *services: ServiceStatus) -> AssignmentStatus:
    return AssignmentStatus(node=node, release=5, services=services)


def test_settled_rollout_is_no_error() -> None:
    assert rollout_error(end(RolloutState.SETTLED, "", on("n1", FINE)), live=False) is None


def test_failed_rollout_names_service_exit_code_and_last_lines() -> None:
    error = rollout_error(end(RolloutState.FAILED, "n1: web ended", on("n1", FINE, FAILED), on("n2", SLOW)), live=False)
    assert error is not None
    assert (error.code, error.exit_code) == ("rollout_failed", 1)
    assert error.message == "release 5 of acme/Shop/production failed: n1: web ended"
    (finding,) = error.findings
    assert finding.message == "n1 web: failed (ended)"
    assert finding.evidence == "exit code 3; last lines:\n    one\n    two"
    assert [next_action.command for next_action in error.next_actions] == ["devopsellence status"]


def test_live_view_does_not_repeat_failures() -> None:
    error = rollout_error(end(RolloutState.FAILED, "n1: web ended", on("n1", FAILED)), live=True)
    assert error is not None
    assert error.findings == ()


@pytest.mark.parametrize("live", [True, False])
def test_rollback_reports_failures_seen_before(live: bool) -> None:
    seen = ServiceRow("n1", "web", "backoff", failed=True, reason="ended", exit_code=3, log_lines=("one",))
    ended = end(RolloutState.FAILED, "web ended; release 4 runs again", on("n1", FINE), rolled_back_to=4, failed=[seen])
    error = rollout_error(ended, live=live)
    assert error is not None
    assert (error.code, error.exit_code) == ("rollout_failed", 1)
    assert error.message.endswith("failed: web ended; release 4 runs again")
    assert [finding.message for finding in error.findings] == ["n1 web: failed (ended)"]
    commands = [next_action.command for next_action in error.next_actions]
    assert commands == ["devopsellence status", "devopsellence logs --release 5"]


RECORDED = Rollout(
    release=5,
    target=4,
    failures=[
        ServiceFailure(node="n1", service="web", release=5, reason="not healthy", log_lines=["no \x1b[31mdatabase"]),
        ServiceFailure(node="n2", service="web", release=5),
    ],
)


@pytest.mark.parametrize("live", [True, False])
def test_rollback_reports_recorded_failures_with_their_output(live: bool) -> None:
    seen = [
        ServiceRow("n1", "web", "starting", failed=True, reason="not healthy"),
        ServiceRow("n3", "redis", "backoff", failed=True, reason="ended"),
    ]
    ended = end(RolloutState.FAILED, "not healthy", on("n1", FINE), rolled_back_to=4, failed=seen, rollout=RECORDED)
    error = rollout_error(ended, live=live)
    assert error is not None
    assert [(finding.message, finding.evidence) for finding in error.findings] == [
        ("n1 web: failed (not healthy)", "last lines:\nno \\x1b[31mdatabase"),
        ("n2 web: failed", ""),
        ("n3 redis: failed (ended)", ""),
    ]


def test_failures_of_another_release_are_not_reported() -> None:
    other = Rollout(release=6, failures=RECORDED.failures)
    error = rollout_error(end(RolloutState.FAILED, "ended", on("n1", FAILED), rollout=other), live=False)
    assert error is not None
    assert [finding.message for finding in error.findings] == ["n1 web: failed (ended)"]


def test_halted_rollout_suggests_deploy_or_rollback() -> None:
    error = rollout_error(
        end(RolloutState.FAILED, "web ended", rollout=Rollout(release=5, halted="web ended")), live=True
    )
    assert error is not None
    commands = [next_action.command for next_action in error.next_actions]
    assert commands == ["devopsellence status", "devopsellence deploy", "devopsellence release rollback"]


def test_timeout_names_every_unsettled_service() -> None:
    error = rollout_error(end(RolloutState.FAILED, "the deadline passed", on("n1", FINE), on("n2", SLOW)), live=False)
    assert error is not None
    assert [(finding.code, finding.message) for finding in error.findings] == [
        ("service_unsettled", "n2 web: starting (waiting for /up)")
    ]


def test_many_failures_are_shortened_with_a_count() -> None:
    error = rollout_error(
        end(RolloutState.FAILED, "", *[on(f"n{number}", FAILED) for number in range(10, 40)]), live=False
    )
    assert error is not None
    assert (len(error.findings), error.findings[-1].message) == (21, "and 10 more")


@pytest.mark.parametrize(
    ("outcome", "controllers", "code"),
    [
        (RolloutState.SUPERSEDED, 1, "rollout_superseded"),
        (RolloutState.PROGRESSING, 1, "rollout_timeout"),
        (RolloutState.WAITING, 1, "rollout_timeout"),
        (RolloutState.WAITING, 0, "no_controller"),
        (RolloutState.ROLLING_BACK, 1, "rollout_failed"),
    ],
)
def test_ends_have_different_codes(outcome: RolloutState, controllers: int, code: str) -> None:
    error = rollout_error(end(outcome, "because", controllers=controllers), live=False)
    assert error is not None
    assert (error.code, error.exit_code) == (code, 1)


def test_progress_and_release_task_restart_the_timer() -> None:
    def at(settled: int, task: TaskStatus.Phase.ValueType = TaskStatus.SUCCEEDED) -> Snapshot:
        rollout = Rollout(release=5, phase=Rollout.PROGRESSING, task=TaskStatus(phase=task))
        rollout.counts.total, rollout.counts.settled = 9, settled
        return end(RolloutState.PROGRESSING, rollout=rollout).snapshot

    patience = ProgressTimer(10.0)
    assert patience.left(at(1), 100.0) == 10.0
    assert patience.left(at(1), 104.0) == 6.0
    assert patience.left(at(2), 109.0) == 10.0
    assert patience.left(at(2), 119.0) == 0.0
    assert patience.left(at(2, TaskStatus.RUNNING), 500.0) == 10.0
    assert ProgressTimer(None).left(at(1), 100.0) == math.inf


def release_at(phase: Rollout.Phase.ValueType, **more: Any) -> Snapshot:
    """Return a snapshot with the rollout of release 5."""
    controllers = more.pop("controllers", 1)
    rollout = Rollout(release=5, phase=phase, **more)
    return Snapshot(REF, environment=Environment(latest_release=5), rollout=rollout, controllers=controllers)


@pytest.mark.parametrize(
    ("snapshot", "commands"),
    [
        (Snapshot(REF), ["deploy"]),
        (release_at(Rollout.SETTLED), []),
        (release_at(Rollout.PROGRESSING), ["status --watch"]),
        (release_at(Rollout.PROGRESSING, controllers=0), ["doctor", "status --watch"]),
        (release_at(Rollout.FAILED), ["logs --release 5", "deploy", "release rollback"]),
        (release_at(Rollout.FAILED, target=4), ["logs --release 5"]),
    ],
    ids=["never deployed", "settled", "progressing", "no controller", "halted", "rolled back"],
)
def test_next_steps_follow_from_the_state(snapshot: Snapshot, commands: list[str]) -> None:
    steps = next_steps(snapshot, datetime(2026, 5, 1, tzinfo=UTC))
    assert [step.command for step in steps] == [f"devopsellence {command}" for command in commands]


def test_container_that_starts_restarts_the_timer() -> None:
    def at(started: int) -> Snapshot:
        rollout = Rollout(release=5, phase=Rollout.PROGRESSING)
        rollout.counts.services_started = started
        return end(RolloutState.PROGRESSING, rollout=rollout).snapshot

    patience = ProgressTimer(10.0)
    assert patience.left(at(0), 100.0) == 10.0
    assert patience.left(at(1), 109.0) == 10.0
    assert patience.left(at(1), 112.0) == 7.0


def test_timer_restarts_while_the_progress_deadline_stands_still() -> None:
    def at(*, paused: bool) -> Snapshot:
        rollout = Rollout(release=5, phase=Rollout.PROGRESSING, deadline_paused=paused)
        return end(RolloutState.PROGRESSING, rollout=rollout).snapshot

    patience = ProgressTimer(10.0)
    assert patience.left(at(paused=False), 100.0) == 10.0
    assert patience.left(at(paused=True), 109.0) == 10.0
    assert patience.left(at(paused=True), 500.0) == 10.0
    assert patience.left(at(paused=False), 504.0) == 6.0
