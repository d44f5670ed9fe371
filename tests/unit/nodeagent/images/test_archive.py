"""Filter for image archives from peers: only the complete, requested image passes."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Iterator
from typing import Any

import pytest

from devopsellence.nodeagent.images.archive import MAX_FILE_BYTES, filter_archive
from devopsellence.nodeagent.images.archive_content import MAX_ENTRIES, MAX_HEADER_BYTES, InvalidImageArchive

LAYER = bytes(range(256)) * 5000
DIFF_ID = f"sha256:{hashlib.sha256(LAYER).hexdigest()}"
CONFIG = json.dumps({"rootfs": {"type": "layers", "diff_ids": [DIFF_ID, DIFF_ID]}}).encode()
DIGEST = hashlib.sha256(CONFIG).hexdigest()
IMAGE = f"sha256:{DIGEST}"
OURS = f"devopsellence/shop-0a1b2c:{DIGEST[:12]}"
LISTED = {"Config": f"{DIGEST}.json", "RepoTags": None, "Layers": ["l1/layer.tar", "l2/layer.tar"]}


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
    assert filtered_files(saved(), size) == saved()


def test_archive_of_a_newer_engine_keeps_a_single_manifest() -> None:
    blob = f"blobs/sha256/{DIGEST}"
    files: dict[str, bytes | str] = {
        blob: CONFIG,
        "blobs/sha256/layer": LAYER,
        "index.json": b'{"manifests": []}',
        "manifest.json": json.dumps([{"Config": blob, "RepoTags": [], "Layers": ["blobs/sha256/layer"] * 2}]).encode(),
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
        ({**saved(), f"{DIGEST}.json": "elsewhere"}, "which is a link"),
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


def test_layers_must_be_those_of_the_configuration() -> None:
    other, layers = LAYER + b"x", ["l1/layer.tar", "l2/layer.tar"]
    cases: list[tuple[dict[str, bytes | str], str]] = [
        ({**saved(), "l1/layer.tar": other}, "different digest"),
        ({**saved(), "l1/layer.tar": "../l3/layer.tar"}, "different digest"),
        ({**saved(), "l2/layer.tar": "../../l1/layer.tar"}, "different digest"),
        (saved(Layers=layers[:1]), "contains 1 layers instead of 2"),
        (saved(Layers=[*layers, "l1/layer.tar"]), "contains 3 layers instead of 2"),
        (saved(Layers=[7, 8]), "different digest"),
        (saved(Layers="ab"), "lists no layers"),
        # A file that another one would replace when unpacked.
        ({**saved(), "l3/../l1/layer.tar": other}, "name is not valid"),
        ({**saved(), "./l1/layer.tar": other}, "name is not valid"),
        ({**saved(), "/l1/layer.tar": other}, "name is not valid"),
        ({**saved(), "../l1": other}, "name is not valid"),
        ({**saved(), "l3": "l1", "l3/layer.tar": other}, "is a link"),
        ({**saved(), "l2/layer.tar/x": other}, "below a link"),
        ({f"l{number}": b"" for number in range(MAX_ENTRIES + 1)}, f"more than {MAX_ENTRIES} files"),
    ]
    for files, why in cases:
        with pytest.raises(InvalidImageArchive, match=why):
            list(filter_archive(IMAGE, pieces(archive(files), 1 << 20)))


def test_file_is_not_replaced_by_a_second_one() -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for _ in range(2):
            tar.addfile(tarfile.TarInfo("l1/layer.tar"))
    with pytest.raises(InvalidImageArchive, match="name is not valid"):
        list(filter_archive(IMAGE, [buffer.getvalue()]))


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK])
def test_endless_header_is_refused(kind: bytes) -> None:
    entry = tarfile.TarInfo("header")
    entry.type, entry.size = kind, MAX_HEADER_BYTES + 1

    def endless() -> Iterator[bytes]:
        yield entry.tobuf(tarfile.USTAR_FORMAT)
        yield bytes(1 << 16)
        raise AssertionError("it is read no further")

    with pytest.raises(InvalidImageArchive, match="header is larger"):
        list(filter_archive(IMAGE, endless()))
