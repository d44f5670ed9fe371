"""One stage for each module."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from devopsellence.store.settings import Settings
from tests.integration.etcd.secured_cluster import Stage, staged
from tests.support.cli import Cli
from tests.support.host import need_host
from tests.support.images import small_image
from tests.support.need import need_docker, need_etcd


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """A cluster whose etcd is full with 12 MB, and whose tokens run out long before a test is over."""
    need_etcd()
    need_docker()
    need_host()
    small_image()
    with staged(
        tmp_path_factory.mktemp("stage"), ETCD_AUTH_TOKEN_TTL="2", ETCD_QUOTA_BACKEND_BYTES=str(12 * 1024 * 1024)
    ) as made:
        yield made


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cli:
    """Commands in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return Cli(Settings(("127.0.0.1:1",)), tmp_path)


@pytest.fixture
def untouched(stage: Stage) -> Iterator[None]:
    """The container that nothing may touch is the same afterwards, and so are our programs."""
    steady, programs = stage.steady(), [program.pid for program in stage.programs]
    assert steady.endswith(" true")
    yield
    assert stage.steady() == steady
    assert [program.pid for program in stage.programs if program.running] == programs
