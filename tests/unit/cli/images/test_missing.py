"""Images by node, missing layers and disk space."""

from __future__ import annotations

from devopsellence.api.v1.agent_pb2 import FindImagesAnswer, ImageDescription
from devopsellence.api.v1.stored_pb2 import Node, Release
from devopsellence.api.v1.workload_pb2 import Service
from devopsellence.cli.images.archive import ArchiveIndex, Extent
from devopsellence.cli.images.missing import (
    MARGIN_MIB,
    DiskDemand,
    MissingImages,
    check_disk_space,
    disk_demand,
    images_by_node,
    missing_images,
)

A, B, C = (f"sha256:{letter * 64}" for letter in "abc")
MIB = 1 << 20


def draft(**pinned: str) -> Release:
    release = Release()
    for name, image in pinned.items():
        kind = Service.WEB if name.startswith("web") else Service.WORKER
        service = release.services.add(name=name, kind=kind)
        service.image.pinned = image
    return release


def test_local_images_are_assigned_to_nodes() -> None:
    release = draft(web=A, jobs=A, cache=B, redis=f"docker.io/library/redis@{C}")
    nodes = [
        Node(name="both", labels=["web", "worker"]),
        Node(name="web", labels=["web"]),
        Node(name="cordoned", labels=["web"], cordoned=True),
        Node(name="none", labels=["gpu"]),
    ]
    assert images_by_node(release, nodes) == {"both": [A, B], "web": [A]}


def test_all_possible_nodes_of_replicas_get_the_image() -> None:
    release = draft(jobs=A)
    release.services[0].replicas = 1
    nodes = [Node(name=name, labels=["worker"]) for name in ("n1", "n2")]
    assert images_by_node(release, nodes) == {"n1": [A], "n2": [A]}


def test_registry_images_are_not_uploaded() -> None:
    assert images_by_node(draft(web=f"registry.example/shop@{A}"), [Node(name="n1", labels=["web"])]) == {}


def answer(*images: tuple[bool, list[tuple[bool, int, bool]]], free: int = 1000) -> FindImagesAnswer:
    answer = FindImagesAnswer(disk_free_mib=free)
    for present, layers in images:
        result = answer.images.add(present=present)
        for there, staged_bytes, staged in layers:
            result.layers.add(present=there, staged_bytes=staged_bytes, staged=staged)
    return answer


def test_missing_layers_of_a_node_are_found() -> None:
    asked = [ImageDescription(id=A, diff_ids=[A, B, C]), ImageDescription(id=B, diff_ids=[A])]
    result = missing_images(
        "n1", asked, answer((False, [(True, 0, False), (False, 9, True), (False, 5, False)]), (True, []))
    )
    assert result == MissingImages("n1", (A,), {C: 5}, there=2, free_mib=1000)


def test_layer_present_for_another_image_is_uploaded() -> None:
    asked = [ImageDescription(id=A, diff_ids=[C]), ImageDescription(id=B, diff_ids=[B, C])]
    result = missing_images(
        "n1", asked, answer((False, [(True, 0, False)]), (False, [(True, 0, False), (False, 0, False)]))
    )
    assert result == MissingImages("n1", (A, B), {C: 0}, there=1, free_mib=1000)


def test_disk_demand_counts_missing_and_staged_bytes() -> None:
    index = ArchiveIndex({}, {A: Extent(0, 100 * MIB), B: Extent(0, 10 * MIB)})
    assert disk_demand(MissingImages("n1", (C,), {A: 40 * MIB, B: 0}, 0, 500), index) == DiskDemand(
        "n1", 110 * MIB, 40 * MIB, 500
    )


def test_complete_node_needs_no_disk_space() -> None:
    assert DiskDemand("n1", 0, 0, 0).need_mib == 0
    assert check_disk_space([DiskDemand("n1", 0, 0, 0)]) is None


def test_disk_space_covers_staging_and_loading() -> None:
    enough = 3 * 100 - 40 + MARGIN_MIB
    assert check_disk_space([DiskDemand("n1", 100 * MIB, 40 * MIB, enough)]) is None
    error = check_disk_space([DiskDemand("n1", 100 * MIB, 40 * MIB, enough - 1)])
    assert error is not None
    assert error.code == "no_room"
    assert error.message == f"node n1 has {enough - 1} MiB free and needs {enough} MiB for 100 MiB of new layers"


def test_all_nodes_without_disk_space_are_reported() -> None:
    error = check_disk_space(
        [DiskDemand("n1", MIB, 0, 1), DiskDemand("n2", MIB, 0, 10_000), DiskDemand("n3", MIB, 0, 2)]
    )
    assert error is not None
    assert error.message == "2 nodes have too little disk space for the images: n1, n3"
    assert [finding.message.split()[1] for finding in error.findings] == ["n1", "n3"]
