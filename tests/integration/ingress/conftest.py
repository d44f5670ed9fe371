"""Fixtures: an Envoy per test, in a folder with a path short enough for a unix socket."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.ingress.envoys import EnvoyProcess


@pytest.fixture
def short_path() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="dv-envoy-"))
    yield path
    shutil.rmtree(path)


@pytest.fixture
def envoy(short_path: Path) -> Iterator[EnvoyProcess]:
    """Return an Envoy without peers, not started yet."""
    with EnvoyProcess(short_path / "one") as process:
        yield process
