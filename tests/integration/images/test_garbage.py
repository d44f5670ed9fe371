"""Garbage collection of images on a real engine: removed once no release needs the image."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from devopsellence.api.v1 import stored_pb2, workload_pb2
from devopsellence.cli.images.build import image_name
from devopsellence.nodeagent.images.gc import ImageCollector
from devopsellence.nodeagent.plan.spec import Desired, resolve_assignment
from devopsellence.nodeagent.util.threads import ThreadPool
from devopsellence.store.keys import EnvironmentRef
from tests.integration.images.image_node import ENVIRONMENT, ImageNode
from tests.support.authority import Authority
from tests.support.host import Host
from tests.support.images import IMAGE, small_image
from tests.support.until import until


def want(release: int, *images: str, env: EnvironmentRef = ENVIRONMENT) -> Desired:
    services = [
        workload_pb2.Service(name=f"s{number}", image=workload_pb2.Image(pinned=image))
        for number, image in enumerate(images)
    ]
    return resolve_assignment(
        stored_pb2.Assignment(node="n1", node_uid="u", release=release, services=services), env, "u"
    )


class GarbageNode:
    """Images on the host's engine, all different."""

    def __init__(self, host: Host) -> None:
        self.host = host
        small_image()
        host.load_image(IMAGE)

    def image(self, text: str, *, tag: bool = True) -> str:
        """Build a unique image, named as by a deploy."""
        container = self.host.docker("create", IMAGE, "true", text)
        output = self.host.docker("commit", "--message", text, container)
        self.host.docker("rm", container)
        if tag:
            self.host.docker("tag", output, image_name(ENVIRONMENT, output))
        return output

    def has(self, image: str) -> bool:
        return image in self.host.docker("images", "-aq", "--no-trunc").split()


@pytest.fixture
def images(host: Host, node: ImageNode) -> GarbageNode:
    return GarbageNode(host)


@pytest.fixture
def make(node: ImageNode, tmp_path: Path) -> Callable[..., ImageCollector]:
    """Make a collector of the node; a second collector reads the records of the first."""

    def make_collector(delay: float = 1000.0, ahead: float = 0.0) -> ImageCollector:
        clock: Callable[[], float] = lambda: time.time() + ahead  # noqa: E731 - named for its type
        return ImageCollector(node.engine, tmp_path / "images.json", ThreadPool(1, "disk"), delay=delay, clock=clock)

    return make_collector


async def written(garbage: ImageCollector, path: Path, text: str) -> None:
    await asyncio.to_thread(until, "the ledger is on disk", lambda: path.exists() and text in path.read_text())


async def test_images_of_ten_latest_releases_are_kept(
    images: GarbageNode, make: Callable[..., ImageCollector], tmp_path: Path
) -> None:
    built = [images.image(f"release {number}") for number in range(1, 13)]
    garbage = make()
    await garbage.load()
    for number, image in enumerate(built, 1):
        garbage.follow(want(number, image), settled=True)
    await garbage.sweep()
    assert [images.has(image) for image in built] == [False, False, *[True] * 10]
    await written(garbage, tmp_path / "images.json", built[-1])
    garbage.close()


async def test_used_or_foreign_images_are_kept(images: GarbageNode, make: Callable[..., ImageCollector]) -> None:
    used, named, foreign, unnamed, plain = (
        images.image(text, tag=text not in ("unnamed", "foreign"))
        for text in ("used", "named", "foreign", "unnamed", "plain")
    )
    images.host.docker("create", "--name", "user", used, "true")
    images.host.docker("tag", named, "theirs:1")
    images.host.docker("tag", foreign, "theirs:2")
    garbage = make()
    garbage.follow(want(1, used, named, foreign, unnamed, plain), settled=True)
    garbage.environment_removed(str(ENVIRONMENT))
    await garbage.sweep()
    assert [images.has(image) for image in (used, named, foreign, unnamed, plain)] == [True, True, True, True, False]
    assert images.has(small_image())
    # The next sweep, when its container is gone, takes it.
    images.host.docker("rm", "user")
    await garbage.sweep()
    assert not images.has(used)


async def test_images_of_a_running_deploy_are_kept(images: GarbageNode, make: Callable[..., ImageCollector]) -> None:
    image = images.image("rolled back to")
    garbage = make()
    garbage.follow(want(1, image), settled=True)
    garbage.environment_removed(str(ENVIRONMENT))
    garbage.requested([image])
    await garbage.sweep()
    assert images.has(image)


async def test_image_of_missing_release_is_removed_in_the_end(
    images: GarbageNode, make: Callable[..., ImageCollector], tmp_path: Path
) -> None:
    image = images.image("in vain")
    first = make()
    first.obtained(image)
    await first.sweep()
    assert images.has(image)
    await written(first, tmp_path / "images.json", image)
    later = make(ahead=2 * 86400.0)
    await later.load()
    await later.sweep()
    assert not images.has(image)
    later.close()


async def test_collection_follows_settled_release_after_a_while(
    images: GarbageNode, make: Callable[..., ImageCollector]
) -> None:
    built = [images.image(f"settled {number}") for number in range(1, 12)]
    garbage = make(delay=0.2)
    for number, image in enumerate(built, 1):
        garbage.follow(want(number, image), settled=False)
    garbage.follow(want(11, built[-1]), settled=True)
    await asyncio.to_thread(until, "the oldest is gone", lambda: not images.has(built[0]))
    assert all(images.has(image) for image in built[1:])
    garbage.close()


async def test_unreadable_ledger_removes_nothing(
    images: GarbageNode, make: Callable[..., ImageCollector], tmp_path: Path, authority: Authority
) -> None:
    image = images.image("unknown")
    for content in ("{", "[]", '{"releases": {"a": 1}}', '{"releases": {}, "left": [], "brought": 7, "asked": {}}'):
        (tmp_path / "images.json").write_text(content)
        garbage = make()
        await garbage.load()
        await garbage.sweep()
        garbage.close()
    assert images.has(image)
