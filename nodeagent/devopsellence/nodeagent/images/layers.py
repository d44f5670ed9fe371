"""Layer identities as in the Docker Engine, and archives for ``docker load``. Pure.

A layer is only the same on top of the same layers: the engine identifies layers by chain id (OCI image specification),
and an archive may omit layers already on the engine.
"""

from __future__ import annotations

import hashlib
import json
import re
import tarfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

#: Above the engine's own limit for an image.
MAX_LAYERS: Final = 256
#: Tags of images built and uploaded by this project: the tag is derived from the image id.
_PROJECT_TAG: Final = re.compile(r"devopsellence/[a-z0-9]+(?:-[a-z0-9]+)*-[0-9a-f]{6}:(?P<id>[0-9a-f]{12})\Z")
_BLOCK: Final = 512


@dataclass(frozen=True, slots=True)
class LayerFile:
    """Uncompressed tar of a layer: the size, and a function to read from the start."""

    size: int
    read: Callable[[], Iterator[bytes]]


def chain_ids(diff_ids: Sequence[str]) -> list[str]:
    """Return the chain id of each layer, lowest first."""
    chain: list[str] = []
    for diff_id in diff_ids:
        parent = f"{chain[-1]} {diff_id}".encode() if chain else b""
        chain.append(f"sha256:{hashlib.sha256(parent).hexdigest()}" if parent else diff_id)
    return chain


def all_chain_ids(images: Iterable[Sequence[str]]) -> frozenset[str]:
    """Return all chain ids on an engine with these images, given by their layers."""
    return frozenset(chain_id for diff_ids in images for chain_id in chain_ids(diff_ids))


def is_project_tag(tag: str, image: str = "") -> bool:
    """Return True for a tag of this project; with ``image``, only for a tag of the image with that id."""
    match = _PROJECT_TAG.match(tag)
    return match is not None and (not image or image.startswith(f"sha256:{match['id']}"))


def config_problem(config: bytes, image: str, diff_ids: Sequence[str]) -> str:
    """Return the reason why ``config`` is not the configuration of the image with these layers; "" if valid."""
    digest = f"sha256:{hashlib.sha256(config).hexdigest()}"
    if digest != image:
        return f"the configuration of image {image} has the digest {digest}"
    try:
        document: Any = json.loads(config)
        listed = document["rootfs"]["diff_ids"]
    except (ValueError, KeyError, TypeError):
        return f"the configuration of image {image} lists no layers"
    return "" if listed == list(diff_ids) else f"the configuration of image {image} lists different layers"


def build_archive(
    image: str, config: bytes, tag: str, diff_ids: Sequence[str], layers: Mapping[str, LayerFile]
) -> Iterator[bytes]:
    """Yield an archive for ``docker load``: a single image, with only the layers in ``layers``."""
    name = f"{image.removeprefix('sha256:')}.json"
    manifest = [{"Config": name, "RepoTags": [tag], "Layers": [_path(diff_id) for diff_id in diff_ids]}]
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
