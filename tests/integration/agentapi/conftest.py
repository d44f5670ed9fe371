"""Node with the API of the agent, for each test."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.integration.agentapi.api_node import ApiNode, api_node
from tests.support.need import need_docker


@pytest.fixture
async def here(tmp_path: Path) -> AsyncIterator[ApiNode]:
    need_docker()
    async with api_node(tmp_path) as made:
        yield made
