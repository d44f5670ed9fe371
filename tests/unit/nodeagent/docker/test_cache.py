"""Cache of containers and networks: results of calls and events, in any order."""

from __future__ import annotations

from dataclasses import replace

import pytest

from devopsellence.nodeagent.docker.cache import ContainerCache, EventEffect, parse_inspected, parse_listed
from devopsellence.nodeagent.docker.model import (
    Container,
    ContainerSettings,
    ContainerState,
    EngineEvent,
    EngineListing,
    ForeignContainer,
    Network,
    NetworkAttachment,
)
from tests.unit.nodeagent.planning import ENV, container, desired_of, service

STARTED = "2026-11-22T22:32:22.944082437Z"
#: Monotonic.
SINCE, AT = 1000.0, 1060.0
RUNNING = replace(container(service(), identity="c1"), started_at=STARTED, running_since=SINCE)
NETWORK = Network("net-1", desired_of().network, str(ENV))
LABELS = {"devopsellence.environment": str(ENV), "devopsellence.node_uid": "u"}


def event(action: str, identity: str = "c1", kind: str = "container", time: float = AT, **more: str) -> EngineEvent:
    return EngineEvent(kind, action, identity, {**LABELS, **more}, time)


def cache_of(*items: Container | Network) -> ContainerCache:
    cache = ContainerCache()
    for item in items:
        cache.put(item)
    return cache


def only_container(cache: ContainerCache) -> Container:
    (container_,) = cache.containers.values()
    return container_


def test_exit_event_marks_the_container_exited() -> None:
    cache = cache_of(RUNNING)
    assert cache.apply(event("die")).environment == str(ENV)
    assert only_container(cache).state is ContainerState.EXITED
    assert only_container(cache).address_on(desired_of().network) == ""


def test_answer_asked_for_before_the_exit_is_overruled() -> None:
    cache = cache_of(replace(RUNNING, state=ContainerState.CREATED))
    asked = cache.stamp()
    cache.apply(event("die"))
    cache.put(RUNNING, asked)
    assert only_container(cache).state is ContainerState.EXITED
    asked = cache.stamp()
    again = replace(RUNNING, started_at="2026-11-22T22:40:00Z")
    cache.put(again, asked)
    assert only_container(cache) == again


@pytest.mark.parametrize("started", ["2026-11-22T21:40:00Z", STARTED, "2026-11-22T23:40:00Z"])
def test_engine_clock_set_anywhere_between_exit_and_start_changes_nothing(started: str) -> None:
    cache = cache_of(RUNNING)
    assert cache.apply(event("die")).environment == str(ENV)
    asked = cache.stamp()
    again = replace(RUNNING, started_at=started, running_since=AT + 1)
    cache.put(again, asked)
    assert only_container(cache).up
    assert cache.apply(event("die", time=AT + 5)).environment == str(ENV)
    assert only_container(cache).state is ContainerState.EXITED


def test_time_of_running_is_that_of_the_machine() -> None:
    cache = cache_of(RUNNING)
    later = replace(RUNNING, running_since=SINCE + 3)
    cache.put(later, cache.stamp())
    assert only_container(cache).running_since == SINCE, "the first answer about a run is kept"
    cache.apply(event("die"))
    assert only_container(cache).ran == AT - SINCE
    ended = replace(RUNNING, state=ContainerState.EXITED, finished_at="2026-11-22T21:00:00Z", running_since=0.0)
    cache.put(ended, cache.stamp())
    assert only_container(cache).ran == AT - SINCE
    cache.put(replace(ended, started_at="2026-11-22T21:00:00Z"), cache.stamp())
    assert only_container(cache).ran is None, "it ran again, unseen"


def test_run_without_a_known_start_has_no_time() -> None:
    cache = cache_of(replace(RUNNING, running_since=0.0))
    cache.mark_exited("c1", AT)
    assert only_container(cache).ran is None


def test_destroyed_container_stays_removed() -> None:
    cache = cache_of(RUNNING)
    assert cache.apply(event("destroy")).environment == str(ENV)
    cache.put(RUNNING)
    assert not cache.containers
    assert cache.replace(EngineListing((RUNNING,), ()), cache.stamp())[0] == set()
    assert not cache.containers


@pytest.mark.parametrize("action", ["create", "start"])
def test_own_calls_need_no_inspection(action: str) -> None:
    assert cache_of(RUNNING).apply(event(action)).inspect == ""


@pytest.mark.parametrize("action", ["create", "start", "rename", "pause", "update"])
def test_foreign_changes_are_inspected(action: str) -> None:
    assert cache_of().apply(event(action)).inspect == "c1"


def test_foreign_containers_are_ignored() -> None:
    cache = cache_of(RUNNING)
    for action in ("create", "start", "die", "destroy"):
        effect = cache.apply(EngineEvent("container", action, "other", {"name": "x"}, AT))
        assert (effect.environment, effect.inspect) == ("", "")


def test_network_destroy_event_removes_the_network() -> None:
    cache = cache_of(RUNNING, NETWORK)
    assert cache.apply(event("destroy", "net-1", "network")).environment == str(ENV)
    assert cache.of(str(ENV), NETWORK.name)[1] is None


def test_network_disconnect_inspects_only_running_containers() -> None:
    cache = cache_of(RUNNING, NETWORK)
    off = event("disconnect", "net-1", "network", container="c1")
    assert cache.apply(off).inspect == "c1"
    cache.apply(event("die"))
    assert cache.apply(off).inspect == ""


def test_image_event_is_reported() -> None:
    assert ContainerCache().apply(EngineEvent("image", "load", "sha256:x", {}, AT)).image


def test_listing_does_not_undo_later_changes() -> None:
    cache = cache_of(RUNNING)
    stamp = cache.stamp()
    new = container(service(version="2"), identity="c2")
    cache.put(new)
    cache.mark_exited("c1", AT)
    cache.replace(EngineListing((replace(RUNNING, started_at=""),), ()), stamp)
    assert cache.containers["c1"].state is ContainerState.EXITED
    assert cache.containers["c2"] == new


def test_listing_updates_networks_and_keeps_inspected_times() -> None:
    cache = cache_of(RUNNING)
    moved = {desired_of().network: NetworkAttachment("net-2", "172.19.0.9")}
    _, unknown = cache.replace(EngineListing((replace(RUNNING, started_at="", networks=moved),), ()), cache.stamp())
    assert unknown == set()
    assert only_container(cache) == replace(RUNNING, networks=moved)


def test_listing_returns_unknown_running_containers() -> None:
    cache = cache_of(replace(RUNNING, state=ContainerState.EXITED))
    concerned, unknown = cache.replace(EngineListing((RUNNING,), (NETWORK,)), cache.stamp())
    assert (concerned, unknown) == ({str(ENV)}, {"c1"})
    assert cache.replace(EngineListing((), ()), cache.stamp())[0] == {str(ENV)}
    assert not cache.containers


def test_inspected_container_is_parsed() -> None:
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
    parsed = parse_inspected(document, 995.0)
    assert (parsed.name, parsed.release, parsed.started_at, parsed.finished_at) == ("shop", 7, STARTED, "")
    assert parsed.running_since == 995.0
    assert parsed.address_on("n") == "172.18.0.2"
    assert (parsed.depends_on, parsed.exit_code) == (("db", "redis"), None)


@pytest.mark.parametrize(("status", "code"), [("exited", 3), ("created", None), ("paused", None)])
def test_exit_code_is_set_only_after_an_exit(status: str, code: int | None) -> None:
    document = {"Id": "c1", "Name": "/shop", "Config": {}, "State": {"Status": status, "ExitCode": 3}}
    assert parse_inspected(document, 1000.0).exit_code == code


@pytest.mark.parametrize(
    ("host", "state", "settings"),
    [
        ({}, {}, ContainerSettings()),
        ({"RestartPolicy": {"Name": "no"}}, {}, ContainerSettings()),
        ({"RestartPolicy": {"Name": ""}}, {}, ContainerSettings()),
        ({"RestartPolicy": {"Name": "unless-stopped"}}, {}, ContainerSettings(engine_restarts=True)),
        ({"RestartPolicy": {"Name": "no"}}, {"Restarting": True}, ContainerSettings(engine_restarts=True)),
        ({"Memory": 64, "NanoCpus": 5}, {}, ContainerSettings(memory=64, nano_cpus=5)),
        ({"PidsLimit": 7}, {}, ContainerSettings(pids=7)),
        ({"PidsLimit": -1}, {}, ContainerSettings()),
        ({"PidsLimit": None, "SecurityOpt": None, "CapDrop": None}, {}, ContainerSettings()),
        ({"SecurityOpt": ["no-new-privileges"]}, {}, ContainerSettings(new_privileges=False)),
        ({"SecurityOpt": ["no-new-privileges=false"]}, {}, ContainerSettings()),
        ({"CapDrop": ["CAP_NET_RAW"]}, {}, ContainerSettings(net_raw=False)),
        ({"CapDrop": ["net_raw"]}, {}, ContainerSettings(net_raw=False)),
        ({"CapDrop": ["ALL"]}, {}, ContainerSettings(net_raw=False)),
    ],
)
def test_settings_that_can_be_updated_are_parsed(
    host: dict[str, object], state: dict[str, object], settings: ContainerSettings
) -> None:
    document = {"Id": "c1", "Name": "/shop", "Config": {}, "HostConfig": host, "State": {"Status": "running", **state}}
    assert parse_inspected(document, 1000.0).settings == settings


def test_settings_outlive_answers_without_them() -> None:
    known = replace(RUNNING, settings=ContainerSettings(memory=64))
    cache = cache_of(known, RUNNING)
    assert only_container(cache).settings == known.settings


def test_unknown_state_counts_as_removing() -> None:
    entry = {"Id": "c1", "Names": ["/shop"], "State": "hibernating", "Labels": LABELS, "Image": "sha256:1"}
    assert parse_listed(entry).state is ContainerState.REMOVING


def test_listed_container_is_parsed() -> None:
    entry = {"Id": "c1", "Names": ["/shop"], "State": "exited", "Labels": LABELS, "Image": "sha256:1"}
    parsed = parse_listed(entry)
    assert (parsed.name, parsed.state, parsed.release, parsed.environment) == (
        "shop",
        ContainerState.EXITED,
        0,
        str(ENV),
    )


FOREIGN = ForeignContainer("f1", "web-try", str(ENV), "web")


def test_foreign_container_is_kept_apart_and_causes_nothing() -> None:
    cache = cache_of(RUNNING)
    cache.put_foreign(FOREIGN)
    assert cache.of(str(ENV), "")[0] == (RUNNING,)
    assert cache.foreign_of(str(ENV)) == (FOREIGN,)
    assert cache.foreign_of("a/b/c") == ()
    # Such as one that crashes again and again.
    for action in ("create", "start", "die", "pause"):
        assert cache.apply(event(action, "f1")) == EventEffect()


def test_foreign_container_that_is_gone_or_renamed_is_noticed() -> None:
    cache = cache_of()
    cache.put_foreign(FOREIGN)
    assert cache.apply(event("rename", "f1")).inspect == "f1"
    assert cache.apply(EngineEvent("container", "destroy", "f1", {}, AT)).environment == str(ENV)
    assert cache.foreign_of(str(ENV)) == ()


def test_listing_replaces_the_foreign_containers() -> None:
    cache = cache_of()
    stamp = cache.stamp()
    assert cache.replace(EngineListing((), (), (FOREIGN,)), stamp)[0] == {str(ENV)}
    late = replace(FOREIGN, id="f2")
    stamp = cache.stamp()
    cache.put_foreign(late)
    assert cache.replace(EngineListing((), ()), stamp)[0] == {str(ENV)}
    assert cache.foreign_of(str(ENV)) == (late,), "noticed after the listing was requested"


def test_foreign_container_of_no_environment_concerns_none() -> None:
    cache = cache_of()
    stray = replace(FOREIGN, environment="")
    assert cache.replace(EngineListing((), (), (stray,)), cache.stamp())[0] == set()
    assert cache.foreign_of("") == (stray,)
    assert cache.replace(EngineListing((), ()), cache.stamp())[0] == set()


def test_adopted_container_is_foreign_no_more() -> None:
    cache = cache_of()
    cache.put_foreign(replace(FOREIGN, id=RUNNING.id))
    cache.put(RUNNING)
    assert (cache.foreign_of(str(ENV)), cache.of(str(ENV), "")[0]) == ((), (RUNNING,))


def test_empty_labels_count_as_absent() -> None:
    entry = {"Id": "c1", "Names": ["/x"], "State": "running", "ImageID": "sha256:1"}
    overridden = {**LABELS, "devopsellence.task": "", "devopsellence.one_off": "", "devopsellence.depends_on": ""}
    parsed = parse_listed({**entry, "Labels": {**overridden, "com.example": "x"}})
    assert (parsed.task, parsed.one_off, parsed.depends_on, parsed.image_id) == ("", False, (), "sha256:1")
    assert parsed.labels == overridden
