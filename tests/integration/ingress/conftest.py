"""An Envoy for each test, in a folder whose path is short enough for a unix socket."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.ingress.envoys import Envoy


@pytest.fixture
def short_path() -> Iterator[Path]:
    made = Path(tempfile.mkdtemp(prefix="dv-envoy-"))
    yield made
    shutil.rmtree(made)


@pytest.fixture
def envoy(short_path: Path) -> Iterator[Envoy]:
    """Not started yet; without peers."""
    with Envoy(short_path / "one") as made:
        yield made
