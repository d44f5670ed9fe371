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


async def test_assigned_services_start_and_report_then_rest(machine: AgentNode) -> None:
    machine.start()
    cache = worker("cache", volume="data")
    cache.resources.cpu_millis, cache.resources.memory_mib = 500, 32
    cache.stop_grace_period.FromMilliseconds(1500)
    await machine.assign(web(), cache)
    status = await machine.settled()
    found = service_of(status, "web")
    assert (found.phase, found.health) == (ServiceStatus.RUNNING, ServiceStatus.HEALTHY)
    assert service_of(status, "cache").health == ServiceStatus.NONE
    assert await asyncio.to_thread(fetch, found.address) == "one"
    config = machine.inspect(found.container)
    assert config["Config"]["Labels"]["devopsellence.environment"] == str(ENV)
    assert config["HostConfig"]["RestartPolicy"]["Name"] == "no"
    assert config["HostConfig"]["LogConfig"]["Config"] == {"max-size": "10m", "max-file": "5"}
    limited = machine.inspect(service_of(status, "cache").container)
    assert (limited["HostConfig"]["NanoCpus"], limited["HostConfig"]["Memory"]) == (500_000_000, 32 * 1024 * 1024)
    assert limited["Config"]["StopTimeout"] == 2
    by_name = docker("exec", service_of(status, "cache").container, "wget", "-qO-", "http://web:3000/up")
    assert by_name == "one"

    key = machine.etcd.keys.status(machine.node, ENV)
    before = await machine.etcd.get(key)
    await asyncio.sleep(1.0)
    assert await machine.etcd.get(key) == before, "nothing is written while nothing changes"


async def test_unchanged_service_is_left_untouched(machine: AgentNode) -> None:
    machine.start()
    await machine.assign(web(), worker("cache"))
    first = await machine.settled()
    await machine.assign(web(), worker("cache", A="1"), release=2)
    second = await machine.settled()
    kept, changed = service_of(second, "web"), service_of(second, "cache")
    assert (kept.container, kept.reused, kept.release) == (service_of(first, "web").container, True, 1)
    assert changed.container != service_of(first, "cache").container
    assert (changed.reused, changed.release) == (False, 2)


async def test_web_service_is_replaced_without_gap(machine: AgentNode) -> None:
    machine.start()
    await machine.assign(web(text="one"))
    address = service_of(await machine.settled(), "web").address
    requester = Requester(machine, address)
    task = asyncio.create_task(requester.run())
    # Takes a while to answer: the old one must serve until then.
    await machine.assign(web(text="two", script="sleep 1; mkdir -p /w; echo two > /w/up; exec httpd -f -p 3000 -h /w"))
    await machine.settled()
    await asyncio.sleep(0.2)
    requester.stop.set()
    await task
    assert requester.failures == []
    assert set(requester.answers) == {"one", "two"}
    assert requester.answers["one"] > 10
    assert len(machine.containers()) == 1


async def test_service_with_volumes_stops_first_and_keeps_data(machine: AgentNode) -> None:
    machine.start()
    script = (
        "echo $N started >> /data/log; trap 'echo $N ended >> /data/log; exit 0' TERM; while :; do sleep 0.05; done"
    )
    one, two = (worker("db", "sh", "-c", script, volume="data", N=number) for number in "12")
    one.stop_grace_period.FromSeconds(5)
    await machine.assign(one)
    await machine.settled()
    await machine.assign(two, release=2)
    found = service_of(await machine.settled(), "db")
    assert docker("exec", found.container, "cat", "/data/log").split("\n") == ["1 started", "1 ended", "2 started"]
    labels = docker("volume", "ls", "-q", *machine.labelled).split()
    assert len(labels) == 1


async def test_dropped_service_is_removed_and_tombstone_keeps_volumes_only(machine: AgentNode) -> None:
    machine.start()
    await machine.assign(worker("a", volume="data"), worker("b"))
    await machine.settled()
    await machine.assign(worker("a", volume="data"), release=2)
    assert names((await machine.settled()).services) == ["a"]
    assert len(machine.containers()) == 1
    await machine.assign(removed=True)
    await machine.until("removed", lambda status: status.phase == Status.REMOVED)
    assert machine.containers() == []
    assert docker("network", "ls", "-q", *machine.labelled) == ""
    assert docker("volume", "ls", "-q", *machine.labelled)
    # As the controller does once it has seen that.
    await machine.etcd.delete(machine.etcd.keys.assignment(machine.node, ENV))
    await machine.etcd.delete(machine.etcd.keys.status(machine.node, ENV))
    kept = machine.folder / "state" / "assignments"

    async def forgotten() -> bool:
        return not list(kept.glob("*.json"))

    await eventually("forgotten", forgotten)
    assert await machine.status() is None


async def test_assignment_deleted_without_tombstone_changes_nothing(machine: AgentNode) -> None:
    machine.start()
    await machine.assign(worker("a"))
    await machine.settled()
    before = machine.containers()
    await machine.etcd.delete(machine.etcd.keys.assignment(machine.node, ENV))
    await asyncio.sleep(0.5)
    docker("kill", *before)
    assert await machine.runs(1) == before
    assert list((machine.folder / "state" / "assignments").glob("*.json"))


async def test_unreadable_assignment_freezes_its_environment_only(machine: AgentNode) -> None:
    machine.start()
    await machine.assign(worker("a"))
    await machine.assign(worker("a"), env=STAGING)
    before = service_of(await machine.settled(), "a").container
    await machine.settled(STAGING)
    await machine.etcd.put(machine.etcd.keys.assignment(machine.node, ENV), b"{not json")
    broken = await machine.until("error", lambda status: status.phase == Status.ERROR)
    assert machine.etcd.keys.assignment(machine.node, ENV) in broken.reason
    await machine.assign(worker("a", B="1"), env=STAGING, release=2)
    await machine.settled(STAGING)
    assert before in machine.containers("status=running")
    docker("kill", before)
    await machine.until("restarted", lambda status: service_of(status, "a").restarts == 1)
    await machine.assign(worker("a"))
    assert service_of(await machine.settled(), "a").container == before


async def test_unreadable_assignment_from_the_start_is_an_error(machine: AgentNode) -> None:
    await machine.etcd.put(machine.etcd.keys.assignment(machine.node, ENV), b"\xff")
    machine.start()
    status = await machine.until("error", lambda status: status.phase == Status.ERROR)
    assert len(status.services) == 0


async def test_assignment_for_another_machine_is_ignored(machine: AgentNode) -> None:
    machine.start()
    await machine.assign(worker("a"), uid="another-machine")

    async def told() -> bool:
        beat = await machine.heartbeat()
        return beat is not None and "another-machine" in beat.problem

    await eventually("told", told)
    assert machine.containers() == []
    assert await machine.status() is None


async def test_environments_share_nothing(machine: AgentNode) -> None:
    machine.start()
    await machine.assign(web(text="production"), worker("db", volume="data"))
    await machine.assign(web(text="staging"), worker("db", volume="data"), env=STAGING)
    production, staging = await machine.settled(), await machine.settled(STAGING)
    client = service_of(staging, "db").container
    assert docker("exec", client, "wget", "-qO-", "http://web:3000/up") == "staging"
    docker("exec", client, "touch", "/data/here")
    assert docker("exec", service_of(production, "db").container, "ls", "/data") == ""
    await machine.assign(removed=True, env=STAGING)
    await machine.until("removed", lambda status: status.phase == Status.REMOVED, env=STAGING)
    assert len(machine.containers("status=running")) == 2


async def test_thirty_services_settle(machine: AgentNode) -> None:
    machine.start()
    await machine.assign(*(worker(f"s{number:02}") for number in range(30)))
    status = await machine.settled(seconds=60)
    assert len(status.services) == 30
    assert len(machine.containers("status=running")) == 30


def fetch(address: str) -> str:
    with urllib.request.urlopen(f"http://{address}:3000/up", timeout=2) as answer:
        return str(answer.read().decode().strip())


class Requester:
    """Sends requests to the endpoints in the status all the time, as a proxy that follows the status does."""

    def __init__(self, machine: AgentNode, address: str) -> None:
        self.machine = machine
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
