"""Author of what a command writes, by the certificate."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from devopsellence.cli.store.author import author, operator_name
from devopsellence.store.etcd import Etcd
from devopsellence.store.settings import Settings
from tests.support.authority import Authority, settings_with

PLAIN = Settings(("127.0.0.1:1",))


@pytest.mark.parametrize(
    ("common_name", "name"), [("operator:ann", "ann"), ("root", "login"), ("node:ann", "login"), ("", "login")]
)
def test_author_is_the_operator_of_the_certificate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, common_name: str, name: str
) -> None:
    monkeypatch.setenv("LOGNAME", "login")
    settings = settings_with(PLAIN, Authority(tmp_path / "ca").issue(common_name)) if common_name else PLAIN
    etcd = Etcd(settings)
    assert author(etcd) == f"{name}@{socket.gethostname()}"
    assert operator_name(etcd) == (name if name == "ann" else "")
