"""Volumes that an image declares: names, adoption, the ledger."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from devopsellence.nodeagent.docker import names
from devopsellence.nodeagent.docker.cache import parse_listed
from devopsellence.nodeagent.docker.ledger import ContainerLedger
from devopsellence.nodeagent.docker.model import Container, ContainerState, ImageVolume
from devopsellence.nodeagent.docker.ownership import MountedVolumes, adopted_volumes, image_volume
from devopsellence.nodeagent.plan.container_config import service_container_config, suggested_volumes, volumes_to_keep
from devopsellence.nodeagent.state_files import StateFiles
from devopsellence.nodeagent.util.threads import ThreadPool
from tests.unit.nodeagent.planning import ENV, UID, container, desired_of, service

ANONYMOUS = "0123456789abcdef" * 4
DATA = image_volume(UID, ENV, "redis", "/data")


def test_configuring_the_volume_by_its_source_keeps_the_data() -> None:
    spec = service("redis")
    spec.volumes.add(source="redis_volume_data", target="/data")
    desired = desired_of(spec)
    (mount,) = service_container_config(desired.services["redis"], desired, {})["HostConfig"]["Mounts"]
    assert (mount["Source"], mount["Target"]) == (DATA.name, "/data")
    assert volumes_to_keep(desired) == suggested_volumes(volumes_to_keep(desired), desired) == (DATA,)


def test_volume_from_the_image_in_a_release_is_not_kept() -> None:
    spec = service("redis")
    spec.volumes.add(source="redis_volume_data", target="/data", from_image=True)
    desired = desired_of(spec)
    assert volumes_to_keep(desired) == ()
    mounted = MountedVolumes({}, {"/data": DATA.name})
    config = service_container_config(desired.services["redis"], desired, {}, mounted)
    assert [mount["Source"] for mount in config["HostConfig"]["Mounts"]] == [DATA.name]
    assert names.parse_image_volumes(config["Labels"][names.LABEL_IMAGE_VOLUMES]) == ("/data",)


def listed(**labels: str) -> Container:
    """A container with a configured, an anonymous, and a declared volume, and a bind mount."""
    mounts = [
        {"Type": "volume", "Name": "shop-production-data-1", "Destination": "/configured"},
        {"Type": "volume", "Name": ANONYMOUS, "Destination": "/anonymous"},
        {"Type": "volume", "Name": DATA.name, "Destination": "/data"},
        {"Type": "bind", "Source": "/etc", "Destination": "/etc"},
    ]
    own = {names.LABEL_ENVIRONMENT: str(ENV), names.LABEL_SERVICE: "redis", **labels}
    return parse_listed({"Id": "c1", "Names": ["/x"], "State": "running", "Labels": own, "Mounts": mounts})


def test_adopted_container_brings_its_anonymous_and_its_declared_volumes() -> None:
    anonymous = ImageVolume(ANONYMOUS, str(ENV), "redis", "/anonymous")
    assert adopted_volumes(listed()) == (anonymous,)
    assert adopted_volumes(listed(**{names.LABEL_IMAGE_VOLUMES: '["/data"]'})) == (anonymous, DATA)
    assert adopted_volumes(listed(**{names.LABEL_TASK: "migrate"})) == ()


@pytest.mark.parametrize("label", ["", "{", "1", "{}"])
def test_malformed_label_names_no_volume(label: str) -> None:
    assert names.parse_image_volumes(label) == ()


async def test_newest_running_container_decides_which_volume_has_the_data() -> None:
    """After an upgrade from 0.1: one container serves, others are left over."""
    ledger = ContainerLedger.in_memory()
    labels = {names.LABEL_ENVIRONMENT: str(ENV), names.LABEL_NODE_UID: UID, names.LABEL_SERVICE: "web"}
    made = []
    for number, (state, release) in enumerate(
        [(ContainerState.EXITED, 3), (ContainerState.RUNNING, 2), (ContainerState.EXITED, 1)]
    ):
        old = container(service(version=str(number)), state, identity=f"c{number}", release=release)
        own = {**labels, names.LABEL_HASH: old.hash}
        made.append(replace(old, labels=own, image_id="i", volumes={"/data": str(number) * 64}))
    assert len(ledger.admit(made, {"i": {}})) == 3
    assert ledger.use_volumes([image_volume(UID, ENV, "web", "/data")]) == {"/data": "1" * 64}
    # All of them go with the service.
    assert {volume.name for volume in ledger.image_volumes(str(ENV))} == {digit * 64 for digit in "012"}


async def test_volume_of_version_0_1_stands_in_for_the_one_that_deploy_suggests(tmp_path: Path) -> None:
    def ledger() -> ContainerLedger:
        return ContainerLedger(tmp_path / "l.json", ThreadPool(1, "disk"), StateFiles(tmp_path))

    old, cache = replace(DATA, name=ANONYMOUS), image_volume(UID, ENV, "redis", "/cache")
    first = ledger()
    first.use_volumes([old, cache])
    first.keep_volumes([DATA], [DATA])
    assert (first.volume_name(DATA.name), first.image_volumes(str(ENV))) == (ANONYMOUS, (cache,))
    await first.flush()
    second = ledger()
    await second.load()
    assert second.volume_name(DATA.name) == ANONYMOUS
    # Configured no more: the same volume, and it goes with the service again.
    assert second.use_volumes([DATA]) == {"/data": ANONYMOUS}
    assert second.image_volumes(str(ENV)) == (cache, old)
    assert second.volume_name(DATA.name) == DATA.name


def test_volume_configured_under_another_name_is_another_one() -> None:
    ledger = ContainerLedger.in_memory()
    ledger.use_volumes([replace(DATA, name=ANONYMOUS)])
    ledger.keep_volumes([replace(DATA, name="shop-production-own")], [])
    assert ledger.volume_name("shop-production-own") == "shop-production-own"
    assert [volume.name for volume in ledger.image_volumes(str(ENV))] == [ANONYMOUS]


async def test_volumes_are_on_disk_before_the_container_and_survive_a_restart(tmp_path: Path) -> None:
    def ledger() -> ContainerLedger:
        return ContainerLedger(tmp_path / "l.json", ThreadPool(1, "disk"), StateFiles(tmp_path))

    first = ledger()
    assert first.use_volumes([DATA]) == {"/data": DATA.name}
    await first.nonce("name")
    second = ledger()
    await second.load()
    assert second.image_volumes(str(ENV)) == (DATA,)
    assert second.image_volumes("a/b/c") == ()
    second.drop_volumes([DATA.name])
    await second.flush()
    third = ledger()
    await third.load()
    assert third.image_volumes(str(ENV)) == ()
