"""Counters and backoffs."""

from __future__ import annotations

from dataclasses import replace

import pytest

from devopsellence.clock import Now
from devopsellence.nodeagent.docker.model import Container, ContainerExit, ContainerState, UnhealthyContainer
from devopsellence.nodeagent.plan.history import NO_HISTORY, FailureCause, RestartHistory
from tests.unit.nodeagent.planning import container, service

NOW = Now(100.0, 5000.0)
STARTED = container(service())
AGAIN = replace(STARTED, started_at="2026-01-01T00:01:00Z")


def ended(number: int) -> Container:
    return container(service(), ContainerState.EXITED, finished=f"t{number}")


def end(ran: float, code: int = 1, *, oom: bool = False) -> ContainerExit:
    return ContainerExit(code, oom, "t", ran)


def after(memory: RestartHistory, ends: list[float]) -> RestartHistory:
    for number, ran in enumerate(ends):
        memory = memory.ended(ended(number), end(ran), NOW, seed="x")
    return memory


@pytest.mark.parametrize(
    ("ends", "least", "most"),
    [
        ([0.1], 0.0, 0.0),
        ([0.1] * 2, 1.0, 1.1),
        ([0.1] * 3, 2.0, 2.2),
        ([0.1] * 9, 128.0, 140.8),
        ([0.1] * 12, 300.0, 330.0),
        ([0.1] * 500, 300.0, 330.0),
        # A container that ran for ten minutes starts anew.
        ([0.1] * 9 + [600.0], 0.0, 0.0),
        ([0.1] * 9 + [599.0], 256.0, 281.6),
    ],
)
def test_first_restart_is_immediate_then_backoff_grows(ends: list[float], least: float, most: float) -> None:
    memory = after(NO_HISTORY, ends)
    assert least <= memory.retry - NOW.mono <= most
    assert memory.retry_wall - NOW.wall == pytest.approx(memory.retry - NOW.mono)


@pytest.mark.parametrize(
    ("ends", "lasted", "unstable"),
    [
        ([0.1] * 3, True, 3),
        ([0.1, 0.1, 10.0], True, 0),
        ([0.1, 10.0, 9.9], True, 1),
        ([0.1] * 3, False, 3),
        ([25.0] * 3, False, 3),
        ([59.9, 59.9], False, 2),
        ([59.9, 60.0], False, 0),
        # Once a container has run for a minute, the spec has lasted.
        ([60.0, 25.0, 9.9], False, 1),
    ],
)
def test_only_early_exits_count_towards_failure(ends: list[float], lasted: bool, unstable: int) -> None:
    assert after(replace(NO_HISTORY, lasted=lasted), ends).unstable == unstable


@pytest.mark.parametrize(
    ("ends", "lasted"), [([], False), ([59.9] * 5, False), ([1.0, 60.0], True), ([60.0, 1.0], True)]
)
def test_history_lasts_once_a_container_has_run_for_a_minute(ends: list[float], lasted: bool) -> None:
    assert after(NO_HISTORY, ends).lasted == lasted
    assert after(NO_HISTORY.has_lasted(), ends).lasted


def test_exit_is_counted_once() -> None:
    once = NO_HISTORY.ended(ended(1), end(0.1), NOW, seed="x")
    assert once.ended(ended(1), end(0.1), NOW, seed="x") == once


def test_exit_after_a_stop_is_not_counted() -> None:
    memory = NO_HISTORY.stopping(ended(1)).ended(ended(1), end(5.0), NOW, seed="x")
    assert (memory.crashes, memory.last_end, memory.failure) == (0, None, FailureCause.NONE)
    assert memory.counted_exit == ended(1).end_key


def test_restarts_do_not_include_the_first_start() -> None:
    assert NO_HISTORY.restarts == 0
    assert NO_HISTORY.started(STARTED).restarts == 0
    assert NO_HISTORY.started(STARTED).started(AGAIN).restarts == 1
    assert NO_HISTORY.started(None).started(None).restarts == 1


@pytest.mark.parametrize("first", [STARTED, None], ids=["seen", "not-seen"])
def test_start_is_counted_once(first: Container | None) -> None:
    memory = NO_HISTORY.started(first).running(STARTED).running(STARTED)
    assert memory.restarts == 0
    assert memory.ended(replace(STARTED, finished_at="f1"), end(5.0), NOW, seed="x").restarts == 0
    assert memory.started(AGAIN).running(AGAIN).restarts == 1


@pytest.mark.parametrize("again", [AGAIN, container(service(), identity="another")], ids=["the-same", "another"])
def test_missed_start_is_counted_later(again: Container) -> None:
    before = NO_HISTORY.started(STARTED).running(STARTED)
    assert before.running(again).restarts == 1
    assert before.running(again).running(again).restarts == 1
    assert before.ended(replace(again, finished_at="f2"), end(5.0), NOW, seed="x").restarts == 1


def test_adopted_container_counts_one_restart() -> None:
    assert NO_HISTORY.ended(ended(1), end(0.1), NOW, seed="x").started(AGAIN).restarts == 1


def test_exit_sentences() -> None:
    assert after(NO_HISTORY, [0.2]).reason == "ended with exit code 1 after running for 0.2 s"
    assert after(NO_HISTORY, [0.2, 75.0]).reason == "ended with exit code 1 after running for 75 s, 2 times in a row"
    oom = NO_HISTORY.ended(ended(1), end(7200.0, 137, oom=True), NOW, seed="x")
    assert oom.reason == "ran out of memory (exit code 137) after running for 120 min"


def test_killed_child_does_not_hide_the_exit_code() -> None:
    history = NO_HISTORY.ended(ended(1), end(7200.0, 3, oom=True), NOW, seed="x")
    assert history.reason == (
        "ended with exit code 3 (one of its processes ran out of memory) after running for 120 min"
    )


def test_output_of_an_unhealthy_container_is_noted_once_per_run() -> None:
    first = replace(ended(1), state=ContainerState.RUNNING)
    noted = NO_HISTORY.found_unhealthy(first, "not healthy", NOW, ("why",))
    assert noted.is_noted_unhealthy(first)
    assert not noted.is_noted_unhealthy(replace(first, started_at="2026-01-02T00:00:00Z"))
    assert noted.last_unhealthy == UnhealthyContainer(first.id, "not healthy", NOW.wall, ("why",))


def test_output_is_read_again_after_the_container_was_healthy_meanwhile() -> None:
    running = replace(ended(1), state=ContainerState.RUNNING)
    noted = NO_HISTORY.found_unhealthy(running, "not healthy", NOW, ("why",)).running(running)
    assert not noted.is_noted_unhealthy(running)
    assert noted.last_unhealthy is not None, "the last one stays on record"


@pytest.mark.parametrize(
    ("trouble", "first"),
    [(FailureCause.REFUSED, 1.0), (FailureCause.IMAGE, 1.0), (FailureCause.PULL, 10.0), (FailureCause.DISK_FULL, 10.0)],
)
def test_backoff_after_refusals_doubles(trouble: FailureCause, first: float) -> None:
    memory, waits = NO_HISTORY, []
    for _ in range(4):
        memory = memory.refused(trouble, "because", NOW, seed="x")
        waits.append(memory.retry - NOW.mono)
    for number, wait in enumerate(waits):
        assert first * 2**number <= wait <= first * 2**number * 1.1
    assert memory.refusals == 4
    assert memory.started(STARTED).refusals == 0


def test_backoffs_of_services_are_spread() -> None:
    waits = {NO_HISTORY.refused(FailureCause.PULL, "because", NOW, seed=f"env/{name}").retry for name in "abcdefgh"}
    assert len(waits) == 8


def test_replacements_back_off_from_the_second_lapse() -> None:
    memory, waits = NO_HISTORY, []
    for number in range(8):
        waits.append(memory.lapse_wait("x"))
        spec = container(service(), identity=f"c{number}")
        memory = memory.running(spec).became_unhealthy(spec, "not healthy: answered 500")
        # An agent that was killed before it could stop the container says so again.
        assert memory.became_unhealthy(spec, "not healthy: answered 500") == memory
        assert not memory.waits(NOW.mono)
    assert waits[0] == 0.0
    for number, wait in enumerate(waits[1:]):
        assert min(300.0, 10.0 * 2**number) <= wait <= min(300.0, 10.0 * 2**number) * 1.1
    assert memory.started(STARTED).lapses == 8
    assert memory.forget_lapses().lapse_wait("x") == 0.0


def test_exit_of_a_replaced_container_is_not_counted() -> None:
    memory = NO_HISTORY.became_unhealthy(ended(1), "not healthy").ended(ended(1), end(5.0, 137), NOW, seed="x")
    assert (memory.crashes, memory.last_end) == (0, None)


def test_arriving_image_ends_the_backoff() -> None:
    memory = NO_HISTORY.refused(FailureCause.IMAGE, "because", NOW, seed="x")
    assert memory.waits(NOW.mono)
    assert not memory.retry_now().waits(NOW.mono)
    assert not memory.waits(memory.retry)


def test_ready_container_clears_the_failure() -> None:
    memory = replace(NO_HISTORY.refused(FailureCause.REFUSED, "because", NOW, seed="x"), unhealthy=2, crashes=3)
    cleared = memory.running(container(service()))
    assert (cleared.failure, cleared.refusals, cleared.unhealthy) == (FailureCause.NONE, 0, 0)
    assert cleared.crashes == 3
    assert cleared.ready_container == container(service()).id


def test_hint_is_that_of_the_last_failure_and_goes_with_success() -> None:
    memory = NO_HISTORY.ended(ended(1), end(0.1), NOW, seed="x", hint="its volume belongs to root")
    assert memory.hint == "its volume belongs to root"
    assert memory.ended(ended(2), end(0.1), NOW, seed="x").hint == ""
    assert memory.running(STARTED).hint == ""
    found = memory.found_unhealthy(STARTED, "not healthy", NOW, ("denied",), hint="another")
    assert found.hint == "another"
