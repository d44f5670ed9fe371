"""Volumes that the image of a service declares (``VOLUME``) beyond the configured ones.

They are part of the release, so that placement, drains and replacements treat the service as one with data.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterable, Iterator, Mapping

from devopsellence.api.v1.workload_pb2 import Service
from devopsellence.cli.images.docker_cli import DockerCli
from devopsellence.cli.store.reader import concurrently
from devopsellence.names import image_volume_source


async def add_image_volumes(docker: DockerCli, services: Iterable[Service], file: str) -> list[str]:
    """Add the volumes of the images to services with pinned images; return warnings.

    Images that are not on the local Docker Engine are left out. ``file``: name of the configuration.
    """
    pinned = [service for service in services if service.image.pinned]
    names = sorted({service.image.pinned for service in pinned})
    images = await concurrently(docker.inspect_image(name) for name in names)
    declared = {name: image.volumes for name, image in zip(names, images, strict=True) if image is not None}
    return [sentence for service in pinned for sentence in _add(service, declared, file)]


def _add(service: Service, declared: Mapping[str, tuple[str, ...]], file: str) -> Iterator[str]:
    configured = {posixpath.normpath(volume.target) for volume in service.volumes}
    for target in declared.get(service.image.pinned, ()):
        if target not in configured:
            source = image_volume_source(service.name, target)
            service.volumes.add(source=source, target=target, from_image=True)
            yield (
                f"service {service.name}: its image declares a volume at {target}, whose data is removed with the "
                f"service; to keep it, write to services.{service.name}.volumes in {file}: "
                f"- {{source: {source}, target: {target}}}"
            )
