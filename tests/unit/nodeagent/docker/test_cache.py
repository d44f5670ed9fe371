"""The cache of the engine: calls' results and events in whatever order."""

from __future__ import annotations

from dataclasses import replace

import pytest

from devopsellence.clock import Now
from devopsellence.nodeagent.docker.cache import ContainerCache, epoch, parse_inspected, parse_listed
from devopsellence.nodeagent.docker.model import (
    Container,
    ContainerState,
    EngineEvent,
    EngineListing,
    Network,
    NetworkAttachment,
)
from tests.unit.nodeagent.support import ENV, container, service, want

STARTED = "2026-11-22T22:32:22.944082437Z"
AT = epoch(STARTED)
RUNNING = replace(container(service(), identity="c1"), started_at=STARTED)
NETWORK = Network("net-1", want().network, str(ENV))
LABELS = {"devopsellence.environment": str(ENV), "devopsellence.node_uid": "u"}


def event(
    action: str, identity: str = "c1", kind: str = "container", time: float = AT + 60, **more: str
) -> EngineEvent:
    return EngineEvent(kind, action, identity, {**LABELS, **more}, time)


def view(*there: Container | Network) -> ContainerCache:
    made = ContainerCache()
    for each in there:
        made.put(each)
    return made


def only(made: ContainerCache) -> Container:
    (found,) = made.containers.values()
    return found


def test_an_end_is_seen_at_once() -> None:
    made = view(RUNNING)
    assert made.apply(event("die")).env == str(ENV)
    assert only(made).state is ContainerState.EXITED
    assert only(made).address_on(want().network) == ""


def test_an_end_from_before_it_was_started_again_is_old_news() -> None:
    made = view(RUNNING)
    assert made.apply(event("die", time=AT - 1)).env == ""
    assert only(made).up


def test_an_answer_from_before_the_end_does_not_bring_it_back() -> None:
    made = view(replace(RUNNING, state=ContainerState.CREATED))
    made.apply(event("die"))
    made.put(RUNNING)
    assert only(made).state is ContainerState.EXITED
    again = replace(RUNNING, started_at="2026-11-22T22:40:00Z")
    made.put(again)
    assert only(made) == again


def test_destroyed_container_stays_removed() -> None:
    made = view(RUNNING)
    assert made.apply(event("destroy")).env == str(ENV)
    made.put(RUNNING)
    assert not made.containers
    assert made.replace(EngineListing((RUNNING,), ()), made.stamp())[0] == set()
    assert not made.containers


@pytest.mark.parametrize("action", ["create", "start"])
def test_own_calls_need_no_inspection(action: str) -> None:
    assert view(RUNNING).apply(event(action)).inspect == ""


@pytest.mark.parametrize("action", ["create", "start", "rename", "pause"])
def test_foreign_changes_are_inspected(action: str) -> None:
    assert view().apply(event(action)).inspect == "c1"


def test_other_peoples_containers_are_none_of_ours() -> None:
    made = view(RUNNING)
    for action in ("create", "start", "die", "destroy"):
        effect = made.apply(EngineEvent("container", action, "other", {"name": "x"}, AT))
        assert (effect.env, effect.inspect) == ("", "")


def test_a_network_that_is_removed_is_seen() -> None:
    made = view(RUNNING, NETWORK)
    assert made.apply(event("destroy", "net-1", "network")).env == str(ENV)
    assert made.of(str(ENV), NETWORK.name)[1] is None


def test_a_container_taken_off_our_network_is_looked_at_only_while_it_runs() -> None:
    made = view(RUNNING, NETWORK)
    off = event("disconnect", "net-1", "network", container="c1")
    assert made.apply(off).inspect == "c1"
    made.apply(event("die"))
    assert made.apply(off).inspect == ""


def test_images_are_told_of() -> None:
    assert ContainerCache().apply(EngineEvent("image", "load", "sha256:x", {}, AT)).image


def test_a_listing_does_not_undo_what_was_learnt_after_it_was_asked_for() -> None:
    made = view(RUNNING)
    stamp = made.stamp()
    new = container(service(version="2"), identity="c2")
    made.put(new)
    made.mark_exited("c1")
    made.replace(EngineListing((replace(RUNNING, started_at=""),), ()), stamp)
    assert made.containers["c1"].state is ContainerState.EXITED
    assert made.containers["c2"] == new


def test_a_listing_keeps_what_only_an_inspection_tells_and_takes_what_it_knows_better() -> None:
    made = view(RUNNING)
    moved = {want().network: NetworkAttachment("net-2", "172.19.0.9")}
    _, unknown = made.replace(EngineListing((replace(RUNNING, started_at="", networks=moved),), ()), made.stamp())
    assert unknown == set()
    assert only(made) == replace(RUNNING, networks=moved)


def test_a_listing_names_what_has_to_be_inspected() -> None:
    made = view(replace(RUNNING, state=ContainerState.EXITED))
    concerned, unknown = made.replace(EngineListing((RUNNING,), (NETWORK,)), made.stamp())
    assert (concerned, unknown) == ({str(ENV)}, {"c1"})
    assert made.replace(EngineListing((), ()), made.stamp())[0] == {str(ENV)}
    assert not made.containers


def test_parsing_an_inspected_container() -> None:
    document = {
        "Id": "c1",
        "Name": "/shop",
        "Config": {
            "Image": "sha256:1",
            "Labels": {**LABELS, "devopsellence.release": "7", "devopsellence.depends_on": "db,redis"},
        },
        "State": {"Status": "running", "StartedAt": STARTED, "FinishedAt": "0001-01-01T00:00:00Z"},
        "NetworkSettings": {"Networks": {"n": {"NetworkID": "net-1", "IPAddress": "172.18.0.2"}}},
    }
    found = parse_inspected(document, Now(1000.0, AT + 5.0))
    assert (found.name, found.release, found.started_at, found.finished_at) == ("shop", 7, STARTED, "")
    assert found.running_since == pytest.approx(995.0)
    assert found.address_on("n") == "172.18.0.2"
    assert (found.depends_on, found.exit_code) == (("db", "redis"), None)


@pytest.mark.parametrize(("status", "code"), [("exited", 3), ("created", None), ("paused", None)])
def test_only_an_end_has_an_exit_code(status: str, code: int | None) -> None:
    document = {"Id": "c1", "Name": "/shop", "Config": {}, "State": {"Status": status, "ExitCode": 3}}
    assert parse_inspected(document, Now(1000.0, AT)).exit_code == code


def test_a_state_that_is_not_known_is_left_alone() -> None:
    entry = {"Id": "c1", "Names": ["/shop"], "State": "hibernating", "Labels": LABELS, "Image": "sha256:1"}
    assert parse_listed(entry).state is ContainerState.REMOVING


def test_parsing_a_listed_container() -> None:
    entry = {"Id": "c1", "Names": ["/shop"], "State": "exited", "Labels": LABELS, "Image": "sha256:1"}
    found = parse_listed(entry)
    assert (found.name, found.state, found.release, found.env) == ("shop", ContainerState.EXITED, 0, str(ENV))
