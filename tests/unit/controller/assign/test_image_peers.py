"""Image peers for images that are in no registry."""

from __future__ import annotations

from typing import Any

import pytest

from devopsellence.api.v1 import stored_pb2 as pb
from devopsellence.controller.model.actions import EnvironmentPlan
from tests.unit.controller.builders import KEYS, REF, Store, crashed, service, service_status, writes


class Sharing(Store):
    """Nodes whose agents have an API."""

    def add_node(self, name: str, *labels: str, address: str = "", **more: Any) -> None:
        super().add_node(name, *(labels or ("web",)), **more)
        self.put(
            KEYS.node(name), pb.Node(name=name, uid=self._uid(name), labels=sorted(labels or ("web",)), address=address)
        )
        if KEYS.heartbeat(name) in self.records:
            self.beat(name)

    def beat(self, name: str, *, uid: str = "", api: str = "0.0.0.0:7443") -> None:
        self.put(KEYS.heartbeat(name), pb.Heartbeat(node=name, uid=uid or self._uid(name), api_address=api))

    def peers(self, name: str) -> list[str]:
        assignment = self.assignment(name)
        assert assignment is not None
        return [peer.node for peer in assignment.peers]

    def stuck(self, name: str, *services: str) -> EnvironmentPlan:
        """``name`` reports that it could not make a container of these, and the controller looks."""
        backing_off = {"phase": pb.ServiceStatus.BACKOFF, "reason": "its image is not on this machine"}
        self.report(name, *(service_status(service, **backing_off) for service in services))
        planned = self.step()
        self.converge()
        return planned

    @staticmethod
    def _uid(name: str) -> str:
        return f"uid-{name}"


def settled(*names: str, away: tuple[str, ...] = (), image: str = "app:1") -> Sharing:
    """Release 1 on ``names``; those in ``away`` have been assigned it and are silent since."""
    store = Sharing()
    for name in (*names, *away):
        store.add_node(name)
    store.set_environment(*names, *away)
    store.deploy(1, service("web", image=image), parallel="1")
    store.converge()
    for name in away:
        store.delete(KEYS.heartbeat(name))
    for name in names:
        store.report(name)
    store.converge()
    return store


def test_no_peers_before_node_runs_release() -> None:
    store = settled("n1", "n2")
    assert (store.peers("n1"), store.peers("n2")) == ([], [])


def test_late_node_is_told_its_peers() -> None:
    store = settled("n1", "n2")
    store.add_node("n3")
    store.set_environment("n1", "n2", "n3", latest=1)
    store.converge()
    assert sorted(store.peers("n3")) == ["n1", "n2"]
    assignment = store.assignment("n3")
    assert assignment is not None
    assert {(peer.uid, peer.api_address) for peer in assignment.peers} == {
        ("uid-n1", "0.0.0.0:7443"),
        ("uid-n2", "0.0.0.0:7443"),
    }
    # That others could be named now is no reason to write an assignment.
    store.report("n3")
    store.beat("n1", api="10.0.0.9:7443")
    store.delete(KEYS.heartbeat("n2"))
    assert writes(store.plan()) == []


def test_registered_address_stands_before_what_agent_says_of_itself() -> None:
    store = Sharing()
    store.add_node("n1", address="fd00::1")
    store.set_environment("n1")
    store.deploy(1, service("web"))
    store.converge()
    store.report("n1")
    store.add_node("n2")
    store.set_environment("n1", "n2", latest=1)
    store.converge()
    assignment = store.assignment("n2")
    assert assignment is not None
    assert [peer.api_address for peer in assignment.peers] == ["[fd00::1]:7443"]


@pytest.mark.parametrize("how", ["silent", "another-machine", "no-api", "not-settled", "pulls-it"])
def test_unusable_peers_are_not_named(how: str) -> None:
    store = settled("n1", "n2", image="app:1")
    match how:
        case "silent":
            store.delete(KEYS.heartbeat("n1"))
        case "another-machine":
            store.beat("n1", uid="uid-other")
        case "no-api":
            store.beat("n1", api="")
        case "not-settled":
            store.report("n1", service_status("web", phase=pb.ServiceStatus.STARTING))
        case "pulls-it":
            store.put(KEYS.release(REF, 2), pb.Release())
            pulled = service("web")
            pulled.image.pinned = "registry.example/shop@sha256:1"
            store.deploy(2, pulled)
            store.converge()
            store.report("n1")
            store.report("n2")
            store.converge()
    store.add_node("n3")
    store.set_environment("n1", "n2", "n3", latest=store.rollout().release)
    store.converge()
    assert store.peers("n3") == ([] if how == "pulls-it" else ["n2"])


def test_in_rollout_next_is_told_of_those_before_it() -> None:
    store = settled("n1", "n2", "n3")
    store.deploy(2, service("web", image="app:2"), parallel="1")
    store.converge()
    assert store.peers("n1") == []
    store.report("n1")
    store.converge()
    assert store.peers("n2") == ["n1"]
    store.report("n2")
    store.converge()
    assert sorted(store.peers("n3")) == ["n1", "n2"]


def test_rolled_back_node_is_told_peers_that_never_moved() -> None:
    store = settled("n1", "n2", "n3")
    store.deploy(2, service("web", image="app:2"), parallel="1")
    store.converge()
    store.report("n1", crashed("web", failed=True))
    store.converge()
    assignment = store.assignment("n1")
    assert assignment is not None
    assert (assignment.release, sorted(store.peers("n1"))) == (1, ["n2", "n3"])


def test_stuck_node_is_told_peers_once() -> None:
    store = settled("n1", away=("n2",))
    assignment = store.assignment("n2")
    assert assignment is not None
    assert store.peers("n2") == [], "it was told when nobody ran it"
    store.beat("n2")
    store.converge()
    assert store.assignment("n2") == assignment, "it may have the image"
    (action,) = writes(store.stuck("n2", "web"))
    assert action.reason == "an image that it lacks can be pulled from n1"
    assert store.peers("n2") == ["n1"]
    told = store.assignment("n2")
    assert told is not None
    assert told.generation == assignment.generation + 1
    assert store.progress("n2").phase == pb.NodeProgress.PENDING
    store.stuck("n2", "web")
    assert store.assignment("n2") == told
    # Of others, when none of those that it knows is there any more.
    store.add_node("n3")
    store.set_environment("n1", "n2", "n3", latest=1)
    store.converge()
    store.report("n3")
    store.converge()
    assert store.assignment("n2") == told
    store.delete(KEYS.heartbeat("n1"))
    store.stuck("n2", "web")
    assert store.peers("n2") == ["n3"]


@pytest.mark.parametrize("why", ["it ran and ended", "it is of an older generation", "it pulls"])
def test_node_with_all_images_is_told_no_peers(why: str) -> None:
    store = settled("n1", away=("n2",))
    before = store.assignment("n2")
    assert before is not None
    store.beat("n2")
    if why == "it ran and ended":
        store.report("n2", crashed("web"))
    elif why == "it is of an older generation":
        store.report("n2", service_status("web", phase=pb.ServiceStatus.BACKOFF), generation=before.generation - 1)
    else:
        store.report("n2", service_status("web", phase=pb.ServiceStatus.PULLING))
    store.converge()
    assert store.assignment("n2") == before


def test_node_that_would_have_failed_rollout_for_want_of_image_is_helped() -> None:
    store = settled("n1", "n2", "n3")
    store.deploy(2, service("web", image="app:2"), parallel="3")
    store.converge()
    store.report("n1")
    store.report("n2", service_status("web", phase=pb.ServiceStatus.BACKOFF, failed=True))
    store.converge()
    assert (store.phase(), store.peers("n2")) == ("PROGRESSING", ["n1"])


def test_not_everybody_asks_same_ones_and_three_at_most() -> None:
    names = [f"n{number:02}" for number in range(20)]
    store = settled(*names)
    later = [f"m{number:02}" for number in range(20)]
    for name in later:
        store.add_node(name)
    store.set_environment(*names, *later, latest=1)
    store.converge()
    chosen = [store.peers(name) for name in later]
    assert {len(each) for each in chosen} == {3}
    assert all(len(set(each)) == 3 for each in chosen)
    assert len({each[0] for each in chosen}) >= 8
    asked = [sum(name in each for each in chosen) for name in names]
    assert max(asked) <= 9, "sixty are to be spread over twenty"


def test_together_they_have_every_image() -> None:
    store = Sharing()
    for number in range(4):
        store.add_node(f"a{number}", "web")
    store.add_node("b", "worker")
    store.set_environment("a0", "a1", "a2", "a3", "b")
    store.deploy(1, service("front", image="app:1"), service("jobs", "worker", image="jobs:1"))
    store.converge()
    for name in store.attached():
        store.report(name)
    store.converge()
    store.add_node("c", "web", "worker")
    store.set_environment(*store.attached(), "c", latest=1)
    store.converge()
    assert len(store.peers("c")) == 3
    assert "b" in store.peers("c")
    assert store.peers("c")[0] != store.peers("c")[1]


def test_node_that_lost_its_images_is_told_its_peers_although_the_service_had_ended_once() -> None:
    store = settled("n1", "n2")
    lost = crashed("web", code=137, reason="its image is not on this machine")
    store.report("n2", lost)
    assert not writes(store.step()), "a service that ended has an image"
    lost.image_missing = True
    store.report("n2", lost)
    store.converge()
    assert store.peers("n2") == ["n1"]
