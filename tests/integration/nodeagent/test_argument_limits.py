"""Longest variable and word that a valid configuration may have, on a real Linux."""

from __future__ import annotations

import asyncio

import pytest
from docker import DockerClient

from devopsellence.cli.secrets.size import MAX_START_BYTES
from devopsellence.config import scalars
from tests.support.agent import AgentNode, ServiceStatus, service_of, worker
from tests.support.images import small_image

pytestmark = pytest.mark.docker


async def test_service_with_longest_variable_and_word_runs(node: AgentNode) -> None:
    node.start()
    variable = "x" * (scalars.MAX_TEXT - len("A="))
    word = "y" * scalars.MAX_TEXT
    await node.assign(worker("job", "sh", "-c", "sleep 100000", word, A=variable))
    assert service_of(await node.settled(), "job").phase == ServiceStatus.RUNNING


async def test_variables_of_the_largest_total_are_accepted_by_linux(node: AgentNode) -> None:
    # Not as a service: etcd takes no assignment of this size, only secrets that a service has under many names.
    size = 100_000
    variables = [f"V{index:02}={'x' * (size - len('V00=') - 9)}" for index in range(MAX_START_BYTES // size)]
    variables.append("REST=" + "y" * (MAX_START_BYTES % size - len("REST=") - 9))
    assert await asyncio.to_thread(exit_code, node.uid, variables) == 0
    variables.append("MORE=" + "z" * 8192)
    assert await asyncio.to_thread(exit_code, node.uid, variables) != 0


def exit_code(node_uid: str, variables: list[str]) -> int:
    """Run a container of the node with these variables; return its exit code."""
    client = DockerClient.from_env()
    try:
        labels = {"devopsellence.node_uid": node_uid}
        container = client.containers.create(small_image(), ["true"], environment=variables, labels=labels)
        container.start()
        return int(container.wait()["StatusCode"])
    finally:
        client.close()
