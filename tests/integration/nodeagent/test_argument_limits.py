"""Longest variable and word that a valid configuration may have, on a real Linux."""

from __future__ import annotations

import pytest

from devopsellence.config import scalars
from tests.support.agent import AgentNode, ServiceStatus, service_of, worker

pytestmark = pytest.mark.docker


async def test_service_with_longest_variable_and_word_runs(node: AgentNode) -> None:
    node.start()
    variable = "x" * (scalars.MAX_TEXT - len("A="))
    word = "y" * scalars.MAX_TEXT
    await node.assign(worker("job", "sh", "-c", "sleep 100000", word, A=variable))
    assert service_of(await node.settled(), "job").phase == ServiceStatus.RUNNING
