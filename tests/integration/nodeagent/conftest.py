"""Node with an agent for each test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from devopsellence.store.etcd import Etcd
from devopsellence.store.settings import Settings
from tests.support.agent import AgentNode
from tests.support.need import need_docker


@pytest.fixture
def node(etcd: Etcd, settings: Settings, tmp_path: Path) -> Iterator[AgentNode]:
    """Node with an agent not started yet."""
    need_docker()
    node = AgentNode(etcd, settings, tmp_path)
    yield node
    node.clean()
