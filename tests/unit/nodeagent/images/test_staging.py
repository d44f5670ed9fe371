"""Layers in the staging folder: in part, whole, wrong, continued, cleaned away."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from devopsellence.nodeagent.images.staging import (
    RETENTION_SECONDS,
    DigestMismatch,
    LayerStaging,
    StagedLayer,
    is_digest,
)

DATA = bytes(number * number % 251 for number in range(5000))
DIGEST = f"sha256:{hashlib.sha256(DATA).hexdigest()}"


def write(staging: LayerStaging, *pieces: bytes, size: int = len(DATA)) -> None:
    arriving = staging.write(DIGEST, size)
    try:
        for piece in pieces:
            arriving.add(piece)
        if not arriving.missing:
            arriving.finish()
    finally:
        arriving.close()


@pytest.mark.parametrize(
    "text",
    ["", "sha256:", f"sha256:{'0' * 63}", f"sha256:{'0' * 65}", f"sha256:{'G' * 64}", f"{DIGEST}\n", f" {DIGEST}"],
)
def test_invalid_digests_are_refused(text: str) -> None:
    assert not is_digest(text)


def test_a_layer_in_one_piece(tmp_path: Path) -> None:
    staging = LayerStaging(tmp_path / "staging")
    assert staging.lookup(DIGEST) == StagedLayer()
    write(staging, DATA)
    assert staging.lookup(DIGEST) == StagedLayer(len(DATA), complete=True)
    assert b"".join(staging.read(DIGEST)) == DATA
    assert (tmp_path / "staging").stat().st_mode & 0o777 == 0o700
    staging.remove(DIGEST)
    staging.remove(DIGEST)
    assert staging.lookup(DIGEST) == StagedLayer()


@pytest.mark.parametrize("anew", [False, True], ids=["same agent", "another agent"])
@pytest.mark.parametrize("cut", [0, 1, 2500, 4999])
def test_a_layer_goes_on_where_it_broke_off(tmp_path: Path, cut: int, anew: bool) -> None:
    staging = LayerStaging(tmp_path)
    write(staging, DATA[:cut])
    assert staging.lookup(DIGEST) == StagedLayer(cut)
    write(LayerStaging(tmp_path) if anew else staging, DATA[cut:])
    assert LayerStaging(tmp_path).lookup(DIGEST) == StagedLayer(len(DATA), complete=True)


def test_wrong_bytes_are_thrown_away(tmp_path: Path) -> None:
    staging = LayerStaging(tmp_path)
    with pytest.raises(DigestMismatch):
        write(staging, DATA[::-1])
    assert staging.lookup(DIGEST) == StagedLayer()
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_was_changed_in_between_is_noticed(tmp_path: Path) -> None:
    staging = LayerStaging(tmp_path)
    write(staging, DATA[:2500])
    part = next(tmp_path.iterdir())
    part.write_bytes(bytes(2000))
    # Its size is another than what is remembered, so it is read again.
    with pytest.raises(DigestMismatch):
        write(staging, DATA[2000:])
    write(staging, DATA)
    assert staging.lookup(DIGEST).complete


def test_more_than_the_layer_has_begins_anew(tmp_path: Path) -> None:
    staging = LayerStaging(tmp_path)
    write(staging, bytes(6000), size=7000)
    write(staging, DATA)
    assert staging.lookup(DIGEST).complete


def test_an_empty_layer(tmp_path: Path) -> None:
    empty = f"sha256:{hashlib.sha256(b'').hexdigest()}"
    staging = LayerStaging(tmp_path)
    arriving = staging.write(empty, 0)
    arriving.finish()
    arriving.close()
    assert staging.lookup(empty) == StagedLayer(0, complete=True)


def test_a_link_in_place_of_a_layer_is_not_followed(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("mine")
    staging = LayerStaging(tmp_path / "staging")
    staging.folder.mkdir()
    (staging.folder / f"{DIGEST[7:]}.part").symlink_to(victim)
    with pytest.raises(OSError):
        write(staging, DATA)
    assert victim.read_text() == "mine"


def test_only_old_layers_are_cleaned_away(tmp_path: Path) -> None:
    staging = LayerStaging(tmp_path)
    write(staging, DATA)
    written = next(tmp_path.iterdir()).stat().st_mtime
    (tmp_path / "README").write_text("not a layer")
    assert staging.clean(written + RETENTION_SECONDS - 1) == []
    assert staging.clean(written + RETENTION_SECONDS + 1, keep=frozenset({DIGEST})) == []
    assert staging.clean(written + RETENTION_SECONDS + 1) == [DIGEST]
    assert [path.name for path in tmp_path.iterdir()] == ["README"]
    assert LayerStaging(tmp_path / "nowhere").clean(written) == []


def test_free_room_is_told_before_the_folder_is_there(tmp_path: Path) -> None:
    assert LayerStaging(tmp_path / "a" / "b").free() > 0
