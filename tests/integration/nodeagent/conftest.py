"""A node of its own for each test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from devopsellence.store.etcd import Etcd
from devopsellence.store.settings import Settings
from tests.support.agent import Machine
from tests.support.need import need_docker


@pytest.fixture
def machine(etcd: Etcd, settings: Settings, tmp_path: Path) -> Iterator[Machine]:
    """A node whose agent is not started yet."""
    need_docker()
    made = Machine(etcd, settings, tmp_path)
    yield made
    made.clean()
