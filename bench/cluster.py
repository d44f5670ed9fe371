"""Local cluster for benchmarks, and direct writes of releases to etcd."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from google.protobuf.duration_pb2 import Duration

from devopsellence.api.v1 import stored_pb2, workload_pb2
from devopsellence.store.codec import decode, encode
from devopsellence.store.etcd import Compare, Etcd, Put
from devopsellence.store.keys import EnvironmentRef
from devopsellence.store.settings import Settings

ENVIRONMENT = EnvironmentRef("bench", "bench", "production")
NODE = "local"
SETTLE_SECONDS = 180.0


@dataclass(frozen=True)
class Cluster:
    """Running local cluster: folder, and environment variables for the CLI."""

    home: Path
    environ: dict[str, str]

    def cli(self, *args: str, cwd: Path | None = None) -> str:
        """Return the output of ``devopsellence ARGS``; CalledProcessError on failure."""
        return subprocess.run(
            self.command(*args), env=self.environ, cwd=cwd, check=True, stdout=subprocess.PIPE, text=True
        ).stdout

    @staticmethod
    def command(*args: str) -> list[str]:
        return [str(Path(sys.executable).with_name("devopsellence")), *args]

    def pid_of(self, process: str) -> int:
        """Return the process id of ``etcd``, ``controller`` or ``agent``."""
        for line in json.loads(self.cli("dev", "status", "-o", "json"))["processes"]:
            if line["name"] == process:
                return int(line["pid"])
        raise LookupError(process)

    def http_port(self) -> int:
        """Return the HTTP port of the ingress."""
        return int(json.loads(self.cli("dev", "status", "-o", "json"))["ingress"]["http_port"])

    def node_uid(self) -> str:
        return str(json.loads(self.cli("dev", "status", "-o", "json"))["node"]["uid"])


@contextlib.contextmanager
def cluster() -> Iterator[Cluster]:
    """Start a local cluster in a temporary folder; purge the cluster at the end."""
    with tempfile.TemporaryDirectory(prefix="devopsellence-bench-") as folder:
        environ = {**os.environ, "DEVOPSELLENCE_HOME": folder}
        for name in [name for name in environ if name.startswith("DEVOPSELLENCE_ETCD_")]:
            del environ[name]
        running = Cluster(Path(folder), environ)
        try:
            subprocess.run(running.command("dev", "up"), env=environ, check=True, stdout=sys.stderr)
            yield running
        finally:
            subprocess.run(
                running.command("dev", "down", "--purge", "--yes"), env=environ, check=False, stdout=sys.stderr
            )


def store(running: Cluster) -> Etcd:
    """Return a client of the cluster's etcd as operator; an async context manager."""
    variables = {}
    for line in running.cli("dev", "env").splitlines():
        name, _, value = shlex.split(line)[1].partition("=")
        variables[name] = value
    return Etcd(
        Settings(
            endpoints=(variables["ETCDCTL_ENDPOINTS"].removeprefix("https://"),),
            ca_cert=Path(variables["ETCDCTL_CACERT"]),
            cert=Path(variables["ETCDCTL_CERT"]),
            key=Path(variables["ETCDCTL_KEY"]),
        )
    )


def worker(name: str, image: str, command: Sequence[str]) -> workload_pb2.Service:
    """Return a service without ports or health check."""
    return workload_pb2.Service(
        name=name,
        kind=workload_pb2.Service.WORKER,
        image=workload_pb2.Image(reference="bench", pinned=image),
        command=command,
        stop_grace_period=Duration(seconds=1),
    )


def web(name: str, image: str, command: Sequence[str], port: int) -> workload_pb2.Service:
    """Return a service with an HTTP health check on ``/``."""
    service = worker(name, image, command)
    service.kind = workload_pb2.Service.WEB
    service.ports.add(name="http", port=port)
    service.healthcheck.CopyFrom(
        workload_pb2.HealthCheck(
            path="/", port=port, retries=3,
            interval=Duration(seconds=5), timeout=Duration(seconds=2), start_period=Duration(seconds=1),
        )
    )  # fmt: skip
    return service


async def release(
    etcd: Etcd, services: Sequence[workload_pb2.Service], ingress: workload_pb2.Ingress | None = None
) -> int:
    """Write the next release of the environment in one transaction, as ``deploy`` does; return the number."""
    key = etcd.keys.environment(ENVIRONMENT)
    stored = await etcd.get(key)
    if stored is None:
        environment = stored_pb2.Environment(
            organization=ENVIRONMENT.organization,
            project=ENVIRONMENT.project,
            environment=ENVIRONMENT.environment,
            nodes=[NODE],
        )
        unmoved = Compare.absent(key)
    else:
        environment = decode(stored_pb2.Environment, key, stored.value)
        unmoved = Compare.unmodified(key, stored.mod_revision)
    environment.latest_release += 1
    new = stored_pb2.Release(
        organization=ENVIRONMENT.organization,
        project=ENVIRONMENT.project,
        environment=ENVIRONMENT.environment,
        number=environment.latest_release,
        services=sorted(services, key=lambda service: service.name),
        ingress=ingress,
        created_by="bench",
    )
    new.created_at.GetCurrentTime()
    new.rollout.progress_deadline.seconds = 600
    release_key = etcd.keys.release(ENVIRONMENT, new.number)
    result = await etcd.txn(
        [unmoved, Compare.absent(release_key)], [Put(release_key, encode(new)), Put(key, encode(environment))]
    )
    if not result.succeeded:
        raise RuntimeError("somebody else writes to the benchmark's environment")
    return new.number


async def settled(etcd: Etcd, number: int) -> None:
    """Return when the rollout of release ``number`` has settled. RuntimeError on failure, TimeoutError on a hang."""
    key = etcd.keys.rollout(ENVIRONMENT)

    def done(value: bytes) -> bool:
        rollout = decode(stored_pb2.Rollout, key, value)
        if rollout.release == number and rollout.phase == stored_pb2.Rollout.FAILED:
            raise RuntimeError(f"release {number} failed: {rollout.reason}")
        return rollout.release == number and rollout.phase == stored_pb2.Rollout.SETTLED

    async with asyncio.timeout(SETTLE_SECONDS):
        listing = await etcd.list(etcd.keys.rollouts_prefix)
        if any(item.key == key and done(item.value) for item in listing.items):
            return
        async for batch in etcd.watch(etcd.keys.rollouts_prefix, start_revision=listing.revision + 1):
            if any(event.key == key and event.kv is not None and done(event.kv.value) for event in batch.events):
                return


async def deploy(
    etcd: Etcd, services: Sequence[workload_pb2.Service], ingress: workload_pb2.Ingress | None = None
) -> float:
    """Return the seconds from before the write of a release of ``services`` until the rollout has settled."""
    started = time.monotonic()
    await settled(etcd, await release(etcd, services, ingress))
    return time.monotonic() - started
