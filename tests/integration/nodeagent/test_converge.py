"""From an assignment to containers and a status, with a real agent, Docker Engine and etcd."""

from __future__ import annotations

import asyncio
import urllib.error
import urllib.request
from collections import Counter

import pytest

from devopsellence.store.keys import EnvironmentRef
from tests.support.agent import ENV, AgentNode, ServiceStatus, Status, names, service_of, web, worker
from tests.support.docker import docker
from tests.support.until import eventually

pytestmark = pytest.mark.docker

STAGING = EnvironmentRef("acme", "shop", "staging")


async def test_assigned_services_start_and_report_then_rest(node: AgentNode) -> None:
    node.start()
    cache = worker("cache", volume="data")
    cache.resources.cpu_millis, cache.resources.memory_mib = 500, 32
    cache.stop_grace_period.FromMilliseconds(1500)
    await node.assign(web(), cache)
    status = await node.settled()
    service_status = service_of(status, "web")
    assert (service_status.phase, service_status.health) == (ServiceStatus.RUNNING, ServiceStatus.HEALTHY)
    assert service_of(status, "cache").health == ServiceStatus.NONE
    assert await asyncio.to_thread(fetch, service_status.address) == "one"
    config = node.inspect(service_status.container)
    assert config["Config"]["Labels"]["devopsellence.environment"] == str(ENV)
    assert config["HostConfig"]["RestartPolicy"]["Name"] == "no"
    assert config["HostConfig"]["LogConfig"]["Config"] == {"max-size": "10m", "max-file": "5"}
    limited = node.inspect(service_of(status, "cache").container)
    assert (limited["HostConfig"]["NanoCpus"], limited["HostConfig"]["Memory"]) == (500_000_000, 32 * 1024 * 1024)
    assert limited["Config"]["StopTimeout"] == 2
    by_name = docker("exec", service_of(status, "cache").container, "wget", "-qO-", "http://web:3000/up")
    assert by_name == "one"

    key = node.etcd.keys.status(node.name, ENV)
    before = await node.etcd.get(key)
    await asyncio.sleep(1.0)
    assert await node.etcd.get(key) == before, "nothing is written while nothing changes"


async def test_unchanged_service_is_left_untouched(node: AgentNode) -> None:
    node.start()
    await node.assign(web(), worker("cache"))
    first = await node.settled()
    await node.assign(web(), worker("cache", A="1"), release=2)
    second = await node.settled()
    kept, changed = service_of(second, "web"), service_of(second, "cache")
    assert (kept.container, kept.reused, kept.release) == (service_of(first, "web").container, True, 1)
    assert changed.container != service_of(first, "cache").container
    assert (changed.reused, changed.release) == (False, 2)


async def test_web_service_is_replaced_without_gap(node: AgentNode) -> None:
    node.start()
    await node.assign(web(text="one"))
    address = service_of(await node.settled(), "web").address
    requester = Requester(node, address)
    task = asyncio.create_task(requester.run())
    # Takes a while to answer: the old one must serve until then.
    await node.assign(web(text="two", script="sleep 1; mkdir -p /w; echo two > /w/up; exec httpd -f -p 3000 -h /w"))
    await node.settled()
    await asyncio.sleep(0.2)
    requester.stop.set()
    await task
    assert requester.failures == []
    assert set(requester.answers) == {"one", "two"}
    assert requester.answers["one"] > 10
    assert len(node.containers()) == 1


async def test_service_with_volumes_stops_first_and_keeps_data(node: AgentNode) -> None:
    node.start()
    script = (
        "echo $N started >> /data/log; trap 'echo $N ended >> /data/log; exit 0' TERM; while :; do sleep 0.05; done"
    )
    one, two = (worker("db", "sh", "-c", script, volume="data", N=number) for number in "12")
    one.stop_grace_period.FromSeconds(5)
    await node.assign(one)
    await node.settled()
    await node.assign(two, release=2)
    service_status = service_of(await node.settled(), "db")
    assert docker("exec", service_status.container, "cat", "/data/log").split("\n") == [
        "1 started",
        "1 ended",
        "2 started",
    ]
    labels = docker("volume", "ls", "-q", *node.labelled).split()
    assert len(labels) == 1


async def test_dropped_service_is_removed_and_tombstone_keeps_volumes_only(node: AgentNode) -> None:
    node.start()
    await node.assign(worker("a", volume="data"), worker("b"))
    await node.settled()
    await node.assign(worker("a", volume="data"), release=2)
    assert names((await node.settled()).services) == ["a"]
    assert len(node.containers()) == 1
    await node.assign(removed=True)
    await node.until("removed", lambda status: status.phase == Status.REMOVED)
    assert node.containers() == []
    assert docker("network", "ls", "-q", *node.labelled) == ""
    assert docker("volume", "ls", "-q", *node.labelled)
    # As the controller does once it has seen that.
    await node.etcd.delete(node.etcd.keys.assignment(node.name, ENV))
    await node.etcd.delete(node.etcd.keys.status(node.name, ENV))
    kept = node.folder / "state" / "assignments"

    async def forgotten() -> bool:
        return not list(kept.glob("*.json"))

    await eventually("forgotten", forgotten)
    assert await node.status() is None


async def test_assignment_deleted_without_tombstone_changes_nothing(node: AgentNode) -> None:
    node.start()
    await node.assign(worker("a"))
    await node.settled()
    before = node.containers()
    await node.etcd.delete(node.etcd.keys.assignment(node.name, ENV))
    await asyncio.sleep(0.5)
    docker("kill", *before)
    assert await node.runs(1) == before
    assert list((node.folder / "state" / "assignments").glob("*.json"))


async def test_unreadable_assignment_freezes_its_environment_only(node: AgentNode) -> None:
    node.start()
    await node.assign(worker("a"))
    await node.assign(worker("a"), ref=STAGING)
    before = service_of(await node.settled(), "a").container
    await node.settled(STAGING)
    await node.etcd.put(node.etcd.keys.assignment(node.name, ENV), b"{not json")
    broken = await node.until("error", lambda status: status.phase == Status.ERROR)
    assert node.etcd.keys.assignment(node.name, ENV) in broken.reason
    await node.assign(worker("a", B="1"), ref=STAGING, release=2)
    await node.settled(STAGING)
    assert before in node.containers("status=running")
    docker("kill", before)
    await node.until("restarted", lambda status: service_of(status, "a").restarts == 1)
    await node.assign(worker("a"))
    assert service_of(await node.settled(), "a").container == before


async def test_unreadable_assignment_from_the_start_is_an_error(node: AgentNode) -> None:
    await node.etcd.put(node.etcd.keys.assignment(node.name, ENV), b"\xff")
    node.start()
    status = await node.until("error", lambda status: status.phase == Status.ERROR)
    assert len(status.services) == 0


async def test_assignment_for_another_machine_is_ignored(node: AgentNode) -> None:
    node.start()
    await node.assign(worker("a"), uid="another-machine")

    async def reported() -> bool:
        beat = await node.heartbeat()
        return beat is not None and "another-machine" in beat.problem

    await eventually("reported", reported)
    assert node.containers() == []
    assert await node.status() is None


async def test_environments_share_nothing(node: AgentNode) -> None:
    node.start()
    await node.assign(web(text="production"), worker("db", volume="data"))
    await node.assign(web(text="staging"), worker("db", volume="data"), ref=STAGING)
    production, staging = await node.settled(), await node.settled(STAGING)
    client = service_of(staging, "db").container
    assert docker("exec", client, "wget", "-qO-", "http://web:3000/up") == "staging"
    docker("exec", client, "touch", "/data/here")
    assert docker("exec", service_of(production, "db").container, "ls", "/data") == ""
    await node.assign(removed=True, ref=STAGING)
    await node.until("removed", lambda status: status.phase == Status.REMOVED, ref=STAGING)
    assert len(node.containers("status=running")) == 2


async def test_thirty_services_settle(node: AgentNode) -> None:
    node.start()
    await node.assign(*(worker(f"s{number:02}") for number in range(30)))
    status = await node.settled(seconds=60)
    assert len(status.services) == 30
    assert len(node.containers("status=running")) == 30


def fetch(address: str) -> str:
    with urllib.request.urlopen(f"http://{address}:3000/up", timeout=2) as answer:
        return str(answer.read().decode().strip())


class Requester:
    """Sends requests to the endpoints in the status all the time, as a proxy that follows the status does."""

    def __init__(self, node: AgentNode, address: str) -> None:
        self.machine = node
        self.address = address
        self.answers: Counter[str] = Counter()
        self.failures: list[str] = []
        self.stop = asyncio.Event()

    async def run(self) -> None:
        while not self.stop.is_set():
            try:
                self.answers[await asyncio.to_thread(fetch, self.address)] += 1
            except (OSError, urllib.error.URLError) as error:
                # The status names the new container before the old one is stopped; this request was on its way.
                status = await self.machine.status()
                address = service_of(status, "web").address if status else ""
                if address == self.address:
                    self.failures.append(str(error))
                self.address = address
                continue
            status = await self.machine.status()
            self.address = service_of(status, "web").address if status else self.address
