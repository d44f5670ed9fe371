"""Volumes that images declare: in the release, and in the warnings of a deploy."""

from __future__ import annotations

from typing import cast

from devopsellence.api.v1.workload_pb2 import Image, Service
from devopsellence.cli.deploy.image_volumes import add_image_volumes
from devopsellence.cli.images.docker_cli import DockerCli, LocalImage, _image


class Images:
    """Images of a Docker Engine; ``asked`` are those that were looked at."""

    def __init__(self, **volumes: tuple[str, ...]) -> None:
        self.asked: list[str] = []
        self._volumes = volumes

    async def inspect_image(self, name: str) -> LocalImage | None:
        self.asked.append(name)
        return LocalImage(name, (), volumes=self._volumes[name]) if name in self._volumes else None


def service(name: str, image: str, *configured: str) -> Service:
    result = Service(name=name, image=Image(pinned=image))
    for target in configured:
        result.volumes.add(source=f"{name}_own", target=target)
    return result


async def added(images: Images, *services: Service) -> list[str]:
    return await add_image_volumes(cast("DockerCli", images), services, "devopsellence.yml")


def mounts(spec: Service) -> list[tuple[str, str, bool]]:
    return [(volume.source, volume.target, volume.from_image) for volume in spec.volumes]


async def test_volume_of_an_image_is_in_the_release_and_the_line_to_write_in_the_warning() -> None:
    redis = service("redis", "a")
    assert await added(Images(a=("/data",)), redis) == [
        "service redis: its image declares a volume at /data, whose data is removed with the service; to keep it, "
        "write to services.redis.volumes in devopsellence.yml: - {source: redis_volume_data, target: /data}"
    ]
    assert mounts(redis) == [("redis_volume_data", "/data", True)]


async def test_configured_volumes_and_images_without_volumes_cause_nothing() -> None:
    redis, web, absent, unpinned = (
        service("redis", "a", "/data/."), service("web", "b"), service("x", "c"), service("y", "")
    )  # fmt: skip
    images = Images(a=("/data",), b=())
    assert await added(images, redis, web, absent, unpinned) == []
    assert [len(spec.volumes) for spec in (redis, web, absent, unpinned)] == [1, 0, 0, 0]
    assert sorted(images.asked) == ["a", "b", "c"]


async def test_image_shared_by_services_is_looked_at_once() -> None:
    first, second = service("one", "a"), service("two", "a", "/data")
    images = Images(a=("/cache", "/data"))
    assert len(await added(images, first, second)) == 3
    assert [source for source, _, _ in mounts(second)] == ["two_own", "two_volume_cache"]
    assert images.asked == ["a"]


def test_volumes_of_an_image_document() -> None:
    document = {"Id": "sha256:1", "Config": {"Volumes": {"/data/": {}, "/b": {}, "relative": {}, "/": {}}}}
    assert _image(document).volumes == ("/b", "/data")
    assert _image({"Id": "sha256:1", "Config": {"Volumes": None}}).volumes == ()
    assert _image({"Id": "sha256:1"}).volumes == ()
