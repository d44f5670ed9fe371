"""Engine killed during the start of a container that cannot be started again: the agent recreates the container."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from itertools import cycle

import pytest

from tests.support.agent import AgentNode, worker
from tests.support.host import Host
from tests.support.images import IMAGE, small_image
from tests.support.until import until

pytestmark = [pytest.mark.docker, pytest.mark.timeout(120)]
_MADE_ANEW = "a container whose start was cut off is recreated"
#: Most cuts at these moments after the creation leave it so; some come too early or too late.
_TRIES = 10
_DELAYS = (0.05, 0.08, 0.12)


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    with Host(tmp_path_factory.mktemp("host")) as made:
        small_image()
        made.load_image(IMAGE)
        yield made


async def test_container_with_interrupted_start_is_recreated(node: AgentNode, host: Host) -> None:
    node.start("--docker-host", host.socket)
    await node.assign(worker("a", VERSION="0"))
    await node.settled()
    for number, delay in zip(range(1, _TRIES), cycle(_DELAYS), strict=False):
        before = set(host.docker("ps", "-aq").split())
        await node.assign(worker("a", VERSION=str(number)), release=number + 1)
        await asyncio.to_thread(until, "it is made", lambda known=before: set(host.docker("ps", "-aq").split()) - known)
        await asyncio.sleep(delay)
        await asyncio.to_thread(host.kill_docker)
        await asyncio.to_thread(host.start_docker)
        status = await node.settled(seconds=60)
        assert status.release == number + 1
        assert len(host.docker("ps", "-aq").split()) == 1
        if node.lines(_MADE_ANEW):
            break
    assert node.lines(_MADE_ANEW)
