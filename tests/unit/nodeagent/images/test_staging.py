"""Staging of layers: partial, complete, corrupt, continued and cleaned."""

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
    incoming = staging.write(DIGEST, size)
    try:
        for piece in pieces:
            incoming.add(piece)
        if not incoming.missing:
            incoming.finish()
    finally:
        incoming.close()


@pytest.mark.parametrize(
    "text",
    ["", "sha256:", f"sha256:{'0' * 63}", f"sha256:{'0' * 65}", f"sha256:{'G' * 64}", f"{DIGEST}\n", f" {DIGEST}"],
)
def test_invalid_digests_are_refused(text: str) -> None:
    assert not is_digest(text)


def test_layer_written_at_once_is_complete(tmp_path: Path) -> None:
    staging = LayerStaging(tmp_path / "staging")
    assert staging.lookup(DIGEST) == StagedLayer()
    write(staging, DATA)
    assert staging.lookup(DIGEST) == StagedLayer(len(DATA), complete=True)
    assert b"".join(staging.read(DIGEST)) == DATA
    assert (tmp_path / "staging").stat().st_mode & 0o777 == 0o700
    staging.remove(DIGEST)
    staging.remove(DIGEST)
    assert staging.lookup(DIGEST) == StagedLayer()


@pytest.mark.parametrize("restarted", [False, True], ids=["same agent", "another agent"])
@pytest.mark.parametrize("cut", [0, 1, 2500, 4999])
def test_interrupted_layer_continues(tmp_path: Path, cut: int, restarted: bool) -> None:
    staging = LayerStaging(tmp_path)
    write(staging, DATA[:cut])
    assert staging.lookup(DIGEST) == StagedLayer(cut)
    write(LayerStaging(tmp_path) if restarted else staging, DATA[cut:])
    assert LayerStaging(tmp_path).lookup(DIGEST) == StagedLayer(len(DATA), complete=True)


def test_layer_with_wrong_digest_is_discarded(tmp_path: Path) -> None:
    staging = LayerStaging(tmp_path)
    with pytest.raises(DigestMismatch):
        write(staging, DATA[::-1])
    assert staging.lookup(DIGEST) == StagedLayer()
    assert list(tmp_path.iterdir()) == []


def test_modified_partial_file_is_hashed_again(tmp_path: Path) -> None:
    staging = LayerStaging(tmp_path)
    write(staging, DATA[:2500])
    part = next(tmp_path.iterdir())
    part.write_bytes(bytes(2000))
    # The size differs from the remembered size, so the file is read again.
    with pytest.raises(DigestMismatch):
        write(staging, DATA[2000:])
    write(staging, DATA)
    assert staging.lookup(DIGEST).complete


def test_oversized_partial_file_is_restarted(tmp_path: Path) -> None:
    staging = LayerStaging(tmp_path)
    write(staging, bytes(6000), size=7000)
    write(staging, DATA)
    assert staging.lookup(DIGEST).complete


def test_empty_layer_is_complete(tmp_path: Path) -> None:
    empty = f"sha256:{hashlib.sha256(b'').hexdigest()}"
    staging = LayerStaging(tmp_path)
    incoming = staging.write(empty, 0)
    incoming.finish()
    incoming.close()
    assert staging.lookup(empty) == StagedLayer(0, complete=True)


def test_symlink_in_place_of_a_layer_is_not_followed(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("mine")
    staging = LayerStaging(tmp_path / "staging")
    staging.folder.mkdir()
    (staging.folder / f"{DIGEST[7:]}.part").symlink_to(victim)
    with pytest.raises(OSError):
        write(staging, DATA)
    assert victim.read_text() == "mine"


def test_only_old_layers_are_cleaned(tmp_path: Path) -> None:
    staging = LayerStaging(tmp_path)
    write(staging, DATA)
    written = next(tmp_path.iterdir()).stat().st_mtime
    (tmp_path / "README").write_text("not a layer")
    assert staging.clean(written + RETENTION_SECONDS - 1) == []
    assert staging.clean(written + RETENTION_SECONDS + 1, keep=frozenset({DIGEST})) == []
    assert staging.clean(written + RETENTION_SECONDS + 1) == [DIGEST]
    assert [path.name for path in tmp_path.iterdir()] == ["README"]
    assert LayerStaging(tmp_path / "nowhere").clean(written) == []


def test_free_bytes_of_a_missing_folder(tmp_path: Path) -> None:
    assert LayerStaging(tmp_path / "a" / "b").free() > 0
