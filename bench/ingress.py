"""Ingress with the real agent, Envoy and the local engine: cost of a cutover for clients.

The app ends at once when stopped; the clients are those of ``tests.support.load``. The peer is the time that Docker
needs to create and start the same container by hand.
"""

from __future__ import annotations

import asyncio
import http.client
import time
from collections.abc import Awaitable
from typing import Final

from bench.cluster import Cluster, cluster, deploy, release, settled, store, web
from bench.report import Figure
from bench.scenarios import address_of, docker
from devopsellence.api.v1.workload_pb2 import Ingress, Service
from devopsellence.store.etcd import Etcd
from tests.support.images import web_image
from tests.support.load.local import Load
from tests.support.load.plan import KEPT, NEW, Plan
from tests.support.load.result import Result

HOST: Final = "bench.test"
COMMAND: Final = ["/usr/bin/python3", "/server.py"]
PORT: Final = 3000
CUTOVERS: Final = 50
BATCHES: Final = 5
REST_SECONDS: Final = 1.0
FAST_SECONDS: Final = 4.0
#: Work of the app per request: almost none, or half a millisecond of code.
WORKS: Final = (("an idle app", "/version"), ("an app that computes 0.5 ms", "/work?ms=0.5"))
_LOOK_SECONDS: Final = 0.005
_GIVE_UP_SECONDS: Final = 60.0


class Setting:
    """App behind the ingress, and the same container started by hand."""

    def __init__(self, running: Cluster, etcd: Etcd) -> None:
        self.etcd = etcd
        self.port = running.http_port()
        self.image = docker("image", "inspect", "-f", "{{.Id}}", web_image())
        self._uid = running.node_uid()
        self._number = 0

    def services(self, version: str) -> list[Service]:
        """Return the services of the app in ``version``."""
        service = web("web", self.image, COMMAND, PORT)
        service.healthcheck.path = "/up"
        service.env["VERSION"] = version
        return [service]

    @staticmethod
    def ingress() -> Ingress:
        config = Ingress(hosts=[HOST], tls_mode=Ingress.OFF)
        config.rules.add(host=HOST, path_prefix="/", service="web", port="http")
        return config

    async def next_version(self) -> str:
        """Release the next version and return once settled."""
        self._number += 1
        version = f"v{self._number}"
        await deploy(self.etcd, self.services(version), self.ingress())
        return version

    async def until_answers(self) -> float:
        """Return the seconds from before the write of the next release until the new version answers through Envoy."""
        self._number += 1
        version = f"v{self._number}"
        began = time.monotonic()
        number = await release(self.etcd, self.services(version), self.ingress())
        await asyncio.to_thread(until_body, "127.0.0.1", self.port, "/version", version)
        seconds = time.monotonic() - began
        await settled(self.etcd, number)
        return seconds

    def by_hand(self, version: str) -> float:
        """Return the seconds of create, start and first healthy ``/up``; remove the container afterwards."""
        began = time.monotonic()
        container = docker("create", "--env", f"VERSION={version}", self.image, *COMMAND)
        try:
            docker("start", container)
            until_body(address_of(container), PORT, "/up", "up")
            return time.monotonic() - began
        finally:
            docker("rm", "-f", container)

    def address(self) -> str:
        """Return the address of the app's only container."""
        filters = [
            "--filter",
            f"label=devopsellence.node_uid={self._uid}",
            "--filter",
            "label=devopsellence.service=web",
        ]
        (container,) = docker("ps", "-q", *filters).split()
        return address_of(container)

    def plan(self, **how: float) -> Plan:
        return Plan("127.0.0.1", self.port, HOST, **how)  # type: ignore[arg-type]


def until_body(address: str, port: int, path: str, body: str) -> None:
    """Send requests until the answer has the given body; TimeoutError otherwise."""
    give_up = time.monotonic() + _GIVE_UP_SECONDS
    while body_of(address, port, path) != body:
        if time.monotonic() > give_up:
            raise TimeoutError(f"{path} at {address}:{port} never answered {body!r}")
        time.sleep(_LOOK_SECONDS)


def body_of(address: str, port: int, path: str) -> str:
    connection = http.client.HTTPConnection(address, port, timeout=1.0)
    try:
        connection.request("GET", path, headers={"Host": HOST})
        answer = connection.getresponse()
        body = answer.read().decode()
    except (OSError, http.client.HTTPException):
        return ""
    else:
        return body if answer.status == 200 else ""
    finally:
        connection.close()


async def cutovers(setting: Setting) -> list[Figure]:
    """Measure fifty cutovers under constant load, in turn with rest and with containers started by hand.

    Percentiles are computed per batch, so that a noisy minute affects all figures alike.
    """
    windows = [(Windows(), Windows(), Windows()) for _ in range(BATCHES)]
    with Load(setting.plan(kept=6, new=6, rate=150.0, slow=1, sockets=1), processes=2) as load:
        for during, rest, hand in windows:
            for number in range(CUTOVERS // BATCHES):
                await during.add(setting.next_version())
                await rest.add(asyncio.sleep(REST_SECONDS))
                if number % 5 == 0:
                    await hand.add(asyncio.to_thread(setting.by_hand, f"{number}"))
    seen = load.result
    changing, resting, by_hand = ([window.p99(seen) for window in kind] for kind in zip(*windows, strict=True))
    return [
        Figure(f"{CUTOVERS} new versions under load: failed requests", "requests", [float(seen.failed)], limit=0.0),
        Figure(f"{CUTOVERS} new versions under load: requests", "requests", [float(seen.requests)]),
        Figure("p99 of requests during a rollout", "s", changing, "p99 at rest", resting, limit=2.0),
        Figure("p99 of requests during a rollout, as a ratio", "s", changing, "while docker starts one", by_hand),
        Figure("longest time without an answer meanwhile", "s", [seen.longest_gap]),
    ]


class Windows:
    """Time windows of an activity."""

    def __init__(self) -> None:
        self._spans: list[tuple[float, float]] = []

    async def add(self, work: Awaitable[object]) -> None:
        """Run a step and record the time window."""
        began = time.time()
        await work
        self._spans.append((began, time.time()))

    def p99(self, seen: Result) -> float:
        """Return the 99th percentile of the latency of requests due within any window."""
        spans = self._spans
        chosen = [sample for sample in seen.samples if any(began <= sample.at < ended for began, ended in spans)]
        return Result(samples=chosen).percentile(0.99, KEPT, NEW)


async def new_version(setting: Setting, runs: int) -> list[Figure]:
    """Measure the time from release to the first answer of the new version, against Docker and the app alone."""
    ours, theirs = [], []
    for number in range(max(runs, 10)):
        theirs.append(await asyncio.to_thread(setting.by_hand, f"{number}"))
        ours.append(await setting.until_answers())
    return [
        Figure("release written, new version answers by Envoy", "s", ours, limit=1.0),
        Figure("the same, as a ratio", "s", ours, "create, start, first good /up", theirs, limit=2.0),
    ]


async def throughput(setting: Setting, runs: int) -> list[Figure]:
    """Measure the maximum of requests per second, directly and through Envoy."""
    address = await asyncio.to_thread(setting.address)
    figures = []
    for connections, kept, new in (("kept", 16, 0), ("new", 0, 16)):
        for app, path in WORKS:
            direct: list[float] = []
            through: list[float] = []
            for _ in range(runs):
                for host, port, rates in ((address, PORT, direct), ("127.0.0.1", setting.port, through)):
                    # Thousands of new connections: if the clients closed first, local ports would be exhausted at once.
                    plan = Plan(
                        host, port, HOST, path, kept=kept, new=new, server_closes=True, rate=0.0, seconds=FAST_SECONDS
                    )
                    rates.append(await asyncio.to_thread(requests_a_second, plan))
            name = f"{app}, {connections} connections: requests a second, directly"
            figures.append(Figure(name, "1/s", direct, "through Envoy", through, limit=2.0))
    return figures


def requests_a_second(plan: Plan) -> float:
    """Return the answered requests per second; RuntimeError if a request fails."""
    with Load(plan) as load:
        load.join()
    if load.result.failed:
        raise RuntimeError(load.result.outages())
    return load.result.requests / plan.seconds


async def all_figures(runs: int) -> list[Figure]:
    """Measure all figures in a separate cluster."""
    with cluster() as running:
        async with store(running) as etcd:
            setting = Setting(running, etcd)
            first = await setting.next_version()
            await asyncio.to_thread(until_body, "127.0.0.1", setting.port, "/version", first)
            return [*await cutovers(setting), *await new_version(setting, runs), *await throughput(setting, runs)]
