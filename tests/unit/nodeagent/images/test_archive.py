"""Filter for image archives from peers: only the complete, requested image passes."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Iterator
from typing import Any

import pytest

from devopsellence.nodeagent.images.archive import MAX_FILE_BYTES, InvalidImageArchive, filter_archive

CONFIG = b'{"rootfs": {"type": "layers", "diff_ids": []}}'
DIGEST = hashlib.sha256(CONFIG).hexdigest()
IMAGE = f"sha256:{DIGEST}"
OURS = f"devopsellence/shop-0a1b2c:{DIGEST[:12]}"
LISTED = {"Config": f"{DIGEST}.json", "RepoTags": None, "Layers": ["l1/layer.tar"]}
LAYER = bytes(range(256)) * 5000


def archive(files: dict[str, bytes | str]) -> bytes:
    """Return a tar of these files; a string is the target of a link."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            if isinstance(content, str):
                entry.type, entry.linkname = tarfile.SYMTYPE, content
                tar.addfile(entry)
            else:
                entry.size = len(content)
                tar.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


def saved(**more: Any) -> dict[str, bytes | str]:
    """Return the files of a valid archive; ``more`` overrides fields of the manifest."""
    return {
        "l1/layer.tar": LAYER,
        "l2/layer.tar": "../l1/layer.tar",
        f"{DIGEST}.json": CONFIG,
        "manifest.json": json.dumps([{**LISTED, **more}]).encode(),
    }


def pieces(data: bytes, size: int = 1000) -> Iterator[bytes]:
    for start in range(0, len(data), size):
        yield data[start : start + size]


def filtered_files(files: dict[str, bytes | str], size: int = 1000) -> dict[str, bytes | str]:
    """Return the files of an archive that pass the filter."""
    through = b"".join(filter_archive(IMAGE, pieces(archive(files), size)))
    with tarfile.open(fileobj=io.BytesIO(through)) as tar:
        content_by_name: dict[str, bytes | str] = {}
        for entry in tar:
            content = tar.extractfile(entry) if entry.isreg() else None
            content_by_name[entry.name] = content.read() if content is not None else entry.linkname
    return content_by_name


@pytest.mark.parametrize("size", [1, 512, 1 << 20], ids=["bytewise", "blocks", "at-once"])
def test_valid_archive_passes_unchanged(size: int) -> None:
    files = {"l1/layer.tar": LAYER[:2000], **{name: content for name, content in saved().items() if "l1" not in name}}
    assert filtered_files(files, size) == files


def test_archive_of_a_newer_engine_keeps_a_single_manifest() -> None:
    blob = f"blobs/sha256/{DIGEST}"
    files: dict[str, bytes | str] = {
        blob: CONFIG,
        "blobs/sha256/layer": LAYER,
        "index.json": b'{"manifests": []}',
        "manifest.json": json.dumps([{"Config": blob, "RepoTags": [], "Layers": ["blobs/sha256/layer"]}]).encode(),
        "oci-layout": b"{}",
    }
    assert filtered_files(files).keys() == {blob, "blobs/sha256/layer", "manifest.json"}


@pytest.mark.parametrize(
    ("named", "kept"),
    [
        ([OURS], [OURS]),
        (["redis:7-alpine"], None),
        ([OURS, "devopsellence/shop-0a1b2c:000000000000"], [OURS]),
    ],
    ids=["ours", "somebody-elses", "ours-of-another-image"],
)
def test_foreign_names_in_archive_are_refused(named: list[str], kept: list[str] | None) -> None:
    files = filtered_files({**saved(RepoTags=named), "repositories": b'{"redis": {"7-alpine": "l1"}}'})
    assert "repositories" not in files
    assert json.loads(files["manifest.json"])[0]["RepoTags"] == kept


def test_archive_with_other_images_is_not_finished() -> None:
    two = saved()
    two["manifest.json"] = json.dumps([LISTED, LISTED]).encode()
    cases: list[tuple[dict[str, bytes | str], str]] = [
        (two, "exactly one image"),
        ({**saved(), "manifest.json": b"{"}, "exactly one image"),
        ({**saved(), "manifest.json": b"[7]"}, "exactly one image"),
        (saved(Config="other.json"), "a different image"),
        ({**saved(), f"{DIGEST}.json": CONFIG + b" "}, "a different digest"),
        ({**saved(), f"{DIGEST}.json": b"." * (MAX_FILE_BYTES + 1)}, "not a file of at most 8 MiB"),
        ({**saved(), f"{DIGEST}.json": "elsewhere"}, "not a file of at most"),
        ({"l1/layer.tar": LAYER}, "does not contain the image"),
        ({"manifest.json": saved()["manifest.json"]}, "does not contain the image"),
        ({}, "does not contain the image"),
    ]
    for files, why in cases:
        with pytest.raises(InvalidImageArchive, match=why):
            list(filter_archive(IMAGE, pieces(archive(files))))


@pytest.mark.parametrize("data", [b"", b"x" * 3000, archive(saved())[:700_000]], ids=["empty", "noise", "cut"])
def test_incomplete_archive_is_refused(data: bytes) -> None:
    with pytest.raises(InvalidImageArchive):
        list(filter_archive(IMAGE, pieces(data)))


def test_device_file_is_refused() -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        entry = tarfile.TarInfo("l1/sda")
        entry.type = tarfile.BLKTYPE
        tar.addfile(entry)
    with pytest.raises(InvalidImageArchive, match="not a regular file"):
        list(filter_archive(IMAGE, [buffer.getvalue()]))


def test_broken_stream_raises() -> None:
    class Broken(Exception):
        pass

    def broken() -> Iterator[bytes]:
        yield archive(saved())[:600_000]
        raise Broken

    filtered = filter_archive(IMAGE, broken())
    with pytest.raises(Broken):
        list(filtered)
