"""Engine killed during the start of a container that cannot be started again: the agent recreates the container."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from tests.support.agent import AgentNode, worker
from tests.support.host import Host
from tests.support.images import IMAGE, small_image
from tests.support.until import until

pytestmark = [pytest.mark.docker, pytest.mark.timeout(120)]
_MADE_ANEW = "a container whose start was cut off is recreated"
#: Seconds after the shim has its folder; a cut at any of these moments usually leaves the container so.
_DELAYS = (0.0, 0.02, 0.05)


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    with Host(tmp_path_factory.mktemp("host")) as made:
        small_image()
        made.load_image(IMAGE)
        yield made


def shims(host: Host) -> set[str]:
    """Return the containers (ids) that containerd has begun to start."""
    return {path.name for path in host.exec_root.glob("containerd/daemon/io.containerd.runtime.v2.task/moby/*")}


async def test_container_with_interrupted_start_is_recreated(node: AgentNode, host: Host) -> None:
    node.start("--docker-host", host.socket)
    await node.assign(worker("a", VERSION="0"))
    await node.settled()
    for number, delay in enumerate(_DELAYS, start=1):
        before = shims(host)
        await node.assign(worker("a", VERSION=str(number)), release=number + 1)
        await asyncio.to_thread(until, "it is being started", lambda known=before: shims(host) - known, every=0.002)
        await asyncio.sleep(delay)
        await asyncio.to_thread(host.kill_docker)
        await asyncio.to_thread(host.start_docker)
        status = await node.settled(seconds=60)
        assert status.release == number + 1
        assert len(host.docker("ps", "-aq").split()) == 1
        if node.lines(_MADE_ANEW):
            break
    assert node.lines(_MADE_ANEW)
