"""A node whose API answers, for each test."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.integration.agentapi.api_node import Place, place
from tests.support.need import need_docker


@pytest.fixture
async def here(tmp_path: Path) -> AsyncIterator[Place]:
    need_docker()
    async with place(tmp_path) as made:
        yield made
