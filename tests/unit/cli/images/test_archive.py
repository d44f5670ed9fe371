"""Index of docker save archives: old layout, OCI layout, invalid files."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Sequence
from pathlib import Path

import pytest

from devopsellence.cli.images.archive import ArchiveIndex, InvalidArchive, read_index

ONE, TWO = b"one" * 1000, b"two" * 400
DIFFS = tuple(f"sha256:{hashlib.sha256(layer).hexdigest()}" for layer in (ONE, TWO))


def config(*diff_ids: str) -> bytes:
    return json.dumps({"rootfs": {"type": "layers", "diff_ids": diff_ids}}).encode()


def image_id(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def write(folder: Path, files: Sequence[tuple[str, bytes | str]]) -> Path:
    """A tar of files (bytes) and of symbolic links (text)."""
    path = folder / "images.tar"
    with tarfile.open(path, "w") as archive:
        for name, content in files:
            entry = tarfile.TarInfo(name)
            if isinstance(content, str):
                entry.type, entry.linkname = tarfile.SYMTYPE, content
                archive.addfile(entry)
            else:
                entry.size = len(content)
                archive.addfile(entry, io.BytesIO(content))
    return path


def manifest(name: str, *layers: str) -> tuple[str, bytes]:
    return "manifest.json", json.dumps([{"Config": name, "RepoTags": None, "Layers": layers}]).encode()


def content(path: Path, archive_index: ArchiveIndex, digest: str) -> bytes:
    extent = archive_index.layers[digest]
    return path.read_bytes()[extent.offset : extent.offset + extent.size]


def test_old_layout_with_linked_layer_is_indexed(tmp_path: Path) -> None:
    image_config = config(*DIFFS, DIFFS[0])
    files: list[tuple[str, bytes | str]] = [
        ("l1/layer.tar", ONE),
        ("l2/layer.tar", TWO),
        ("l3/layer.tar", "../l1/layer.tar"),
        ("c.json", image_config),
        manifest("c.json", "l1/layer.tar", "l2/layer.tar", "l3/layer.tar"),
    ]
    path = write(tmp_path, files)
    archive_index = read_index(path)
    assert list(archive_index.images) == [image_id(image_config)]
    assert archive_index.images[image_id(image_config)].config == image_config
    assert archive_index.images[image_id(image_config)].diff_ids == (*DIFFS, DIFFS[0])
    assert [content(path, archive_index, digest) for digest in DIFFS] == [ONE, TWO]


def test_oci_layout_is_indexed(tmp_path: Path) -> None:
    image_config = config(*DIFFS)
    blobs = [f"blobs/sha256/{digest.removeprefix('sha256:')}" for digest in (*DIFFS, image_id(image_config))]
    files: list[tuple[str, bytes | str]] = [
        (blobs[0], ONE),
        (f"./{blobs[1]}", TWO),
        (blobs[2], image_config),
        ("index.json", b"{}"),
        ("oci-layout", b"{}"),
        manifest(blobs[2], blobs[0], blobs[1]),
    ]
    path = write(tmp_path, files)
    archive_index = read_index(path)
    assert list(archive_index.images) == [image_id(image_config)]
    assert [content(path, archive_index, digest) for digest in DIFFS] == [ONE, TWO]


def test_several_images_share_layers(tmp_path: Path) -> None:
    first, second = config(DIFFS[0]), config(*DIFFS)
    entries = [
        {"Config": "1.json", "RepoTags": None, "Layers": ["l1/layer.tar"]},
        {"Config": "2.json", "RepoTags": ["a:b"], "Layers": ["l1/layer.tar", "l2/layer.tar"]},
    ]
    files: list[tuple[str, bytes | str]] = [
        ("l1/layer.tar", ONE),
        ("l2/layer.tar", TWO),
        ("1.json", first),
        ("2.json", second),
        ("manifest.json", json.dumps(entries).encode()),
    ]
    archive_index = read_index(write(tmp_path, files))
    assert set(archive_index.images) == {image_id(first), image_id(second)}
    assert set(archive_index.layers) == set(DIFFS)


@pytest.mark.parametrize(
    "files",
    [
        pytest.param([], id="empty"),
        pytest.param([("manifest.json", b"{")], id="no JSON"),
        pytest.param([("manifest.json", b"[7]")], id="another manifest"),
        pytest.param([("manifest.json", b'[{"Config": "c", "Layers": []}]')], id="no configuration"),
        pytest.param([("c", b"[]"), manifest("c")], id="another configuration"),
        pytest.param([("c", config(DIFFS[0])), manifest("c")], id="layers left out"),
        pytest.param([("c", config(DIFFS[0])), manifest("c", "l")], id="a layer that is not there"),
        pytest.param([("c", config(DIFFS[0])), ("l", "l"), manifest("c", "l")], id="a link to itself"),
        pytest.param([("c", config(DIFFS[0])), ("l", "/etc/passwd"), manifest("c", "l")], id="a link out of it"),
    ],
)
def test_non_image_archive_is_refused(tmp_path: Path, files: list[tuple[str, bytes | str]]) -> None:
    with pytest.raises(InvalidArchive):
        read_index(write(tmp_path, files))


@pytest.mark.parametrize("raw", [b"", b"no tar at all" * 100, b"\x1f\x8b" + bytes(2000)])
def test_non_tar_is_refused(tmp_path: Path, raw: bytes) -> None:
    path = tmp_path / "images.tar"
    path.write_bytes(raw)
    with pytest.raises(InvalidArchive):
        read_index(path)
