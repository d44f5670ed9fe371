"""Replacement of a certificate and its key, cut at any point."""

from __future__ import annotations

from pathlib import Path

import pytest

from devopsellence.certificates.files import Busy, KeyPair, finish_replacement, locked

CERTIFICATE = b"-----BEGIN CERTIFICATE-----\nnew\n-----END CERTIFICATE-----\n"
KEY = b"-----BEGIN PRIVATE KEY-----\nnew\n-----END PRIVATE KEY-----\n"


class Cut(Exception):
    """The process ends."""


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    files = tmp_path / "tls.crt", tmp_path / "tls.key"
    for file in files:
        file.write_bytes(b"old")
    return files


def contents(pair: tuple[Path, Path]) -> list[bytes]:
    return [file.read_bytes() for file in pair]


def test_pair_is_replaced_and_nothing_else_left(pair: tuple[Path, Path]) -> None:
    KeyPair(CERTIFICATE * 2, KEY).write(*pair)
    assert contents(pair) == [CERTIFICATE * 2, KEY]
    assert pair[1].stat().st_mode & 0o777 == 0o600
    assert {*pair[0].parent.iterdir()} == {*pair}


@pytest.mark.parametrize("renames", range(4))
def test_replacement_that_was_cut_is_finished_or_undone(
    pair: tuple[Path, Path], renames: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, left = Path.replace, [renames]

    def replace(self: Path, target: Path) -> Path:
        if not left[0]:
            raise Cut
        left[0] -= 1
        return original(self, target)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "replace", replace)
        try:
            KeyPair(CERTIFICATE, KEY).write(*pair)
        except Cut:
            assert renames < 3
    finish_replacement(*pair)
    assert contents(pair) == ([CERTIFICATE, KEY] if renames else [b"old", b"old"])


def test_folder_is_locked_for_one_process_at_a_time(tmp_path: Path) -> None:
    with locked(tmp_path), pytest.raises(Busy, match="another process"), locked(tmp_path):
        pytest.fail("two processes have the lock")
    with locked(tmp_path):
        pass
