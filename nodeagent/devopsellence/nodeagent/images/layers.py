"""Layers and images as the Docker Engine tells them apart, and the archive that it loads them from. Pure.

A layer is the same only on top of the same layers: the engine knows it by its chain id (OCI image specification), and
an archive may leave out those that the engine has.
"""

from __future__ import annotations

import hashlib
import json
import re
import tarfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

#: More than the engine allows an image to have.
MAX_LAYERS: Final = 256
#: What this project calls the images that it builds and sends: by their content, so that the tag follows from the id.
_OURS: Final = re.compile(r"devopsellence/[a-z0-9]+(?:-[a-z0-9]+)*-[0-9a-f]{6}:(?P<id>[0-9a-f]{12})\Z")
_BLOCK: Final = 512


@dataclass(frozen=True, slots=True)
class LayerFile:
    """A layer's uncompressed tar: how long it is, and how to read it from its beginning."""

    size: int
    read: Callable[[], Iterator[bytes]]


def chain_ids(diff_ids: Sequence[str]) -> list[str]:
    """The chain id of each layer, the lowest first."""
    found: list[str] = []
    for diff_id in diff_ids:
        under = f"{found[-1]} {diff_id}".encode() if found else b""
        found.append(f"sha256:{hashlib.sha256(under).hexdigest()}" if under else diff_id)
    return found


def all_chain_ids(images: Iterable[Sequence[str]]) -> frozenset[str]:
    """Every chain id that an engine with these images (by their layers) has."""
    return frozenset(each for diff_ids in images for each in chain_ids(diff_ids))


def is_project_tag(tag: str, image: str = "") -> bool:
    """Whether a tag is one that this project gives, and, where ``image`` is given, gives to the image of that id."""
    found = _OURS.match(tag)
    return found is not None and (not image or image.startswith(f"sha256:{found['id']}"))


def config_problem(config: bytes, image: str, diff_ids: Sequence[str]) -> str:
    """Why ``config`` is not the configuration of the image with this id and these layers; "" if it is."""
    digest = f"sha256:{hashlib.sha256(config).hexdigest()}"
    if digest != image:
        return f"the configuration of image {image} has the digest {digest}"
    try:
        document: Any = json.loads(config)
        listed = document["rootfs"]["diff_ids"]
    except (ValueError, KeyError, TypeError):
        return f"the configuration of image {image} lists no layers"
    return "" if listed == list(diff_ids) else f"the configuration of image {image} lists other layers"


def build_archive(
    image: str, config: bytes, tag: str, diff_ids: Sequence[str], layers: Mapping[str, LayerFile]
) -> Iterator[bytes]:
    """What ``docker load`` reads, piece by piece: one image with, of its layers, those in ``layers`` only."""
    name = f"{image.removeprefix('sha256:')}.json"
    manifest = [{"Config": name, "RepoTags": [tag], "Layers": [_path(each) for each in diff_ids]}]
    yield from _file("manifest.json", json.dumps(manifest).encode())
    yield from _file(name, config)
    for diff_id in dict.fromkeys(diff_ids):
        if (layer := layers.get(diff_id)) is not None:
            yield _header(_path(diff_id), layer.size)
            yield from layer.read()
            yield _padding(layer.size)
    yield bytes(2 * _BLOCK)


def _path(diff_id: str) -> str:
    return f"{diff_id.removeprefix('sha256:')}/layer.tar"


def _file(name: str, content: bytes) -> Iterator[bytes]:
    yield _header(name, len(content))
    yield content
    yield _padding(len(content))


def _header(name: str, size: int) -> bytes:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = size, 0o600
    return entry.tobuf(tarfile.GNU_FORMAT)


def _padding(size: int) -> bytes:
    return bytes(-size % _BLOCK)
