"""Pinning of images: a release names every image by digest or id, never by a tag alone, because tags move.

An image from a registry is pinned by the registry's digest, so that any node can pull the image; a local image is
pinned by its id.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from devopsellence.api.v1.workload_pb2 import Service
from devopsellence.cli.images.docker_cli import DockerCli
from devopsellence.cli.images.reference import IMAGE_ID, InvalidReference, parse_reference
from devopsellence.cli.output import CliError, NextAction, Output
from devopsellence.cli.store.reader import concurrently

_AT_A_TIME: Final = 4


@dataclass(frozen=True)
class Pin:
    """Pinned image: ``pinned`` is an image id or ``repository@digest``, ``reference`` the name as configured."""

    reference: str
    pinned: str


def pinned_reference(reference: str, image_id: str, repo_digests: Sequence[str]) -> str:
    """Return ``repository@digest`` for ``reference`` if known, else ``image_id``.

    ``repo_digests`` are Docker's ``RepoDigests``; an image can have digests of several repositories.
    """
    if IMAGE_ID.match(reference):
        return image_id
    try:
        wanted = parse_reference(reference)
    except InvalidReference:  # such as a shortened id, which the engine resolved
        return image_id
    if wanted.digest:
        return f"{wanted.repository}@{wanted.digest}"
    for candidate in repo_digests:
        try:
            candidate_reference = parse_reference(candidate)
        except InvalidReference:  # "<none>@sha256:…"
            continue
        if candidate_reference.digest and candidate_reference.same_repository(wanted):
            return f"{candidate_reference.repository}@{candidate_reference.digest}"
    return image_id


def service_images(services: Iterable[Service]) -> dict[str, list[str]]:
    """Return the images named by services (all but the app image), with the names of the services, in order."""
    images: dict[str, list[str]] = {}
    for service in services:
        if not service.image.app:
            images.setdefault(service.image.reference, []).append(service.name)
    return images


async def local_pin(docker: DockerCli, reference: str) -> str:
    """Return the pin of ``reference`` from the local Docker Engine; "" if the image is not there."""
    image = await docker.inspect_image(reference)
    return pinned_reference(reference, image.id, image.repo_digests) if image else ""


async def pin_all(docker: DockerCli, images: dict[str, list[str]], output: Output) -> dict[str, Pin]:
    """Pin all ``images`` (from :func:`service_images`); pull images missing on the local Docker Engine.

    Raises:
        CliError: ``image_unavailable``: names the services and the image.
    """
    slots = asyncio.Semaphore(_AT_A_TIME)

    async def pin(reference: str, users: list[str]) -> Pin:
        async with slots:
            return await _pin(docker, reference, users, output)

    pins = await concurrently(pin(reference, users) for reference, users in images.items())
    return {pin.reference: pin for pin in pins}


async def _pin(docker: DockerCli, reference: str, users: list[str], output: Output) -> Pin:
    pinned = await local_pin(docker, reference)
    if not pinned:
        output.progress("deploy", f"pulling {reference} for {', '.join(users)}", stage="pull", image=reference)
        problem = await docker.pull(reference)
        pinned = "" if problem else await local_pin(docker, reference)
        if not pinned:
            what = ", ".join(f'service "{name}"' for name in users)
            message = f"{what}: image {reference} is not on this Docker Engine and cannot be pulled: {problem}"
            raise CliError(
                "image_unavailable",
                message,
                next_actions=[NextAction("try to pull the image", f"docker pull {reference}")],
            )
    return Pin(reference, pinned)
