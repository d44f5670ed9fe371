"""Which bytes a release runs: every image by id or digest, never by a tag alone.

A tag can be moved; a release is what it was. An image that came from a registry is named by the registry's digest, so
that any node can pull it; one that only the local engine has is named by its id.
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
    """``pinned`` is an image id or ``repository@digest``; ``reference`` is the name that people know it by."""

    reference: str
    pinned: str


def pinned_reference(reference: str, image_id: str, repo_digests: Sequence[str]) -> str:
    """What stands for ``reference``: the digest that its repository knows it by, else the engine's ``image_id``.

    ``repo_digests`` are the engine's ``RepoDigests``: one image can carry those of several repositories.
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
            found = parse_reference(candidate)
        except InvalidReference:  # "<none>@sha256:…"
            continue
        if found.digest and found.same_repository(wanted):
            return f"{found.repository}@{found.digest}"
    return image_id


def service_images(services: Iterable[Service]) -> dict[str, list[str]]:
    """The images that services bring themselves, each with the services that use it, in order."""
    found: dict[str, list[str]] = {}
    for service in services:
        if not service.image.app:
            found.setdefault(service.image.reference, []).append(service.name)
    return found


async def local_pin(docker: DockerCli, reference: str) -> str:
    """What ``reference`` is pinned to on this engine; "" when the engine does not have it."""
    image = await docker.inspect_image(reference)
    return pinned_reference(reference, image.id, image.repo_digests) if image else ""


async def pin_all(docker: DockerCli, images: dict[str, list[str]], output: Output) -> dict[str, Pin]:
    """Pin every image of ``images`` (as :func:`references` gives them), pulling those that the engine does not have.

    Raises:
        CliError: ``image_unavailable``: names the service and the image.
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
            message = f"{what}: image {reference} is not on this engine and cannot be pulled: {problem}"
            raise CliError(
                "image_unavailable", message, next_actions=[NextAction("try it", f"docker pull {reference}")]
            )
    return Pin(reference, pinned)
