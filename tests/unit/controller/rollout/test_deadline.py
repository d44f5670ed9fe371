"""The progress deadline: it limits what a new release itself waits for, and stands still for what is older."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from devopsellence.api.v1 import stored_pb2 as pb
from tests.unit.controller.builders import KEYS, Store, app, crashed, migration, service, service_status

S = pb.ServiceStatus
DEADLINE = 15


def waits(name: str, **fields: object) -> pb.ServiceStatus:
    """Return the status of a service whose older container has yet to stop."""
    return service_status(name, **{"waits_for_older": True, "stopping": "a" * 12, **fields})


def starting(name: str, **fields: object) -> pb.ServiceStatus:
    return service_status(name, **{"phase": S.STARTING, "health": S.CHECKING, **fields})


def updating(*nodes: str, **more: object) -> Store:
    """Return an environment that has settled at release 1 and moves to release 2, with ``more`` as for release()."""
    store = Store()
    for name in nodes:
        store.add_node(name, "web", "worker")
    store.set_environment(*nodes)
    for number in (1, 2):
        services = app(number), service("redis", "worker", f"redis:{number}")
        store.deploy(number, *services, deadline=DEADLINE, **(more if number == 2 else {}))
        store.converge()
        if number == 1:
            for name in nodes:
                store.report(name)
            store.converge()
    assert store.phase() == "PROGRESSING"
    return store


def pass_time(store: Store, seconds: float) -> str:
    """Let ``seconds`` pass without news; return the phase of the rollout."""
    store.seconds += seconds
    store.converge()
    return store.phase()


@pytest.mark.parametrize(
    ("services", "phase"),
    [
        pytest.param([service_status("redis"), waits("web")], "PROGRESSING", id="the new one runs, the old one stops"),
        pytest.param([waits("redis"), waits("web")], "PROGRESSING", id="two of them"),
        pytest.param(
            [waits("redis", phase=S.STOPPING), service_status("web")], "PROGRESSING", id="a volume has to be free first"
        ),
        pytest.param(
            [waits("gone", phase=S.STOPPING), service_status("web")], "PROGRESSING", id="a service that leaves"
        ),
        pytest.param([starting("redis"), service_status("web")], "ROLLING_BACK", id="the new one starts"),
        pytest.param([starting("redis"), waits("web")], "ROLLING_BACK", id="another one starts meanwhile"),
        pytest.param([crashed("redis"), waits("web")], "ROLLING_BACK", id="another one has ended meanwhile"),
    ],
)
def test_deadline_of_a_node_if(services: Sequence[pb.ServiceStatus], phase: str) -> None:
    store = updating("n1")
    store.report("n1", *services)
    assert pass_time(store, 0) == "PROGRESSING"
    assert store.rollout().deadline_paused == (phase == "PROGRESSING")
    assert "is being converged" not in store.rollout().reason
    assert pass_time(store, DEADLINE + 1) == phase


def test_deadline_begins_once_the_older_container_has_stopped() -> None:
    store = updating("n1")
    store.report("n1", waits("redis", phase=S.STOPPING), service_status("web"))
    assert pass_time(store, 100) == "PROGRESSING"
    store.report("n1", starting("redis"), service_status("web"))
    assert pass_time(store, 0) == "PROGRESSING"
    assert not store.rollout().deadline_paused
    assert pass_time(store, DEADLINE - 1) == "PROGRESSING"
    assert pass_time(store, 2) == "ROLLING_BACK"


def test_release_settles_after_the_older_container_has_stopped() -> None:
    store = updating("n1")
    store.report("n1", service_status("redis"), waits("web"))
    pass_time(store, 100)
    store.report("n1")
    assert pass_time(store, 0) == "SETTLED"
    assert not store.rollout().deadline_paused


def test_node_that_starts_nothing_is_blamed_not_the_node_that_waits() -> None:
    store = updating("n1", "n2")
    store.report("n1", service_status("redis"), waits("web"))
    store.report("n2", starting("redis"), service_status("web"))
    pass_time(store, 0)
    store.seconds += DEADLINE + 1
    result = store.plan()
    rests_on = {precondition.key for action in result.actions for precondition in action.rests_on}
    assert {key for key in rests_on if key.startswith(KEYS.all_statuses_prefix)} == {
        key for key in store.records if key.startswith(KEYS.statuses_prefix("n2"))
    }
    store.converge()
    assert store.phase() == "ROLLING_BACK"


def test_unreachable_node_that_waited_pauses_nothing() -> None:
    store = updating("n1", "n2")
    store.report("n1", service_status("redis"), waits("web"))
    store.report("n2", starting("redis"), service_status("web"))
    store.delete(KEYS.heartbeat("n1"))
    assert pass_time(store, 0) == "PROGRESSING"
    assert pass_time(store, DEADLINE + 1) == "ROLLING_BACK"


def test_node_whose_agent_cannot_work_pauses_nothing() -> None:
    store = updating("n1")
    store.report("n1", service_status("redis"), waits("web"))
    store.put(KEYS.heartbeat("n1"), pb.Heartbeat(node="n1", uid="uid-n1", problem="Docker does not answer"))
    assert pass_time(store, 0) == "PROGRESSING"
    assert pass_time(store, DEADLINE + 1) == "ROLLING_BACK"


def test_rollback_waits_for_older_containers_too() -> None:
    store = updating("n1")
    store.report("n1", crashed("redis", failed=True), service_status("web"))
    assert pass_time(store, 0) == "ROLLING_BACK"
    store.report("n1", waits("redis"), service_status("web"))
    assert pass_time(store, 100) == "ROLLING_BACK"
    assert store.rollout().deadline_paused
    store.report("n1")
    assert pass_time(store, 0) == "FAILED"
    assert store.rollout().reason.endswith("release 1 runs again")


def test_release_task_that_waits_for_an_older_container_has_time() -> None:
    store = updating("n1", task=migration())
    store.report_task("n1", "WAITING", waits("redis", phase=S.STOPPING), service_status("web"))
    assert pass_time(store, 0) == "PROGRESSING"
    assert pass_time(store, DEADLINE + 1) == "PROGRESSING"
    store.report_task("n1", "WAITING", starting("redis"), service_status("web"))
    pass_time(store, 0)
    assert pass_time(store, DEADLINE + 1) == "ROLLING_BACK"


def test_container_that_starts_has_all_of_its_time_after_a_long_pull() -> None:
    store = updating("n1")
    store.report("n1", service_status("redis"), service_status("web", phase=S.PULLING, health=S.HEALTH_UNSPECIFIED))
    pass_time(store, 0)
    assert pass_time(store, DEADLINE - 1) == "PROGRESSING"
    store.report("n1", service_status("redis"), starting("web"))
    assert pass_time(store, 0) == "PROGRESSING"
    assert store.rollout().counts.services_started == 2
    assert pass_time(store, DEADLINE - 1) == "PROGRESSING"
    assert pass_time(store, 2) == "ROLLING_BACK"


def test_container_that_starts_again_and_again_is_no_progress() -> None:
    store = updating("n1")
    for _ in range(3):
        store.report("n1", service_status("redis"), starting("web"))
        assert pass_time(store, 4) == "PROGRESSING"
        store.report("n1", service_status("redis"), crashed("web"))
        assert pass_time(store, 1) == "PROGRESSING"
    store.report("n1", service_status("redis"), starting("web"))
    assert pass_time(store, 4) == "ROLLING_BACK"
