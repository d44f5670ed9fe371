"""The node's age identity: created once, private, never replaced."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from devopsellence.age import encrypt
from devopsellence.nodeagent.identity import IDENTITY_FILE, load_identity
from devopsellence.nodeagent.state import StateError


def test_identity_is_created_once_with_mode_0600(tmp_path: Path) -> None:
    first = load_identity(tmp_path)
    path = tmp_path / IDENTITY_FILE
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert load_identity(tmp_path).recipient == first.recipient
    assert load_identity(tmp_path).decrypt(encrypt(b"x", [first.recipient])) == b"x"
    path.write_bytes(b"\xff damaged")
    with pytest.raises(StateError, match="holds no age identity"):
        load_identity(tmp_path)
    assert path.read_bytes() == b"\xff damaged"


def test_unreadable_identity_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / IDENTITY_FILE).mkdir()
    with pytest.raises(StateError, match="cannot be used"):
        load_identity(tmp_path)
