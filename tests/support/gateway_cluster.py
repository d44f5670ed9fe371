"""Two controllers with gateways as processes, in front of a real etcd, with registered nodes and releases for them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bench.hollow.fleet import registrations
from devopsellence.api.v1 import stored_pb2 as pb
from devopsellence.api.v1 import workload_pb2
from devopsellence.server_certificate import CertificateFiles
from devopsellence.store.codec import encode
from devopsellence.store.etcd import Compare, Etcd, Put
from devopsellence.store.settings import Settings
from tests.support.authority import Authority, settings_with
from tests.support.controller import REF, ControllerProcess, EnvironmentDriver
from tests.support.ports import free_ports

NODES = ("n1", "n2", "n3")
_FIELDS: dict[str, Any] = {"organization": REF.organization, "project": REF.project, "environment": REF.environment}


@dataclass(frozen=True)
class GatewayCluster:
    """Two controllers with gateways, three registered nodes, and an operator with all rights."""

    settings: Settings
    authority: Authority
    endpoints: tuple[str, ...]
    controllers: tuple[ControllerProcess, ...]
    operator: str

    def caller(self, common_name: str, *endpoints: str) -> Settings:
        """Return settings of a caller, by default with both gateways as endpoints."""
        through = replace(self.settings, endpoints=endpoints or self.endpoints)
        return settings_with(through, self.authority.issue(common_name))

    def refusals(self) -> list[dict[str, Any]]:
        """Return what the gateways refused, but for calls before they knew their callers."""
        lines = [line for controller in self.controllers for line in controller.lines("refused")]
        return [line for line in lines if line["kind"] != "not_now"]


def gateway_options(files: CertificateFiles, port: int) -> tuple[str, ...]:
    """Return the options of a controller with a gateway."""
    return (
        f"--gateway-listen=127.0.0.1:{port}",
        f"--gateway-cert={files.certificate}",
        f"--gateway-key={files.key}",
        f"--gateway-ca-cert={files.authority}",
    )


@asynccontextmanager
async def gateway_cluster(
    etcd: Etcd, settings: Settings, authority: Authority, folder: Path
) -> AsyncIterator[GatewayCluster]:
    """Run two controllers with gateways, of which the first leads; logs are in ``folder``."""
    operator = "ann"
    access = pb.OperatorAccess(name=operator, environments=["*"], nodes=True)
    await etcd.put(etcd.keys.operator_access(operator), encode(access))
    await etcd.txn([], registrations(etcd, NODES, ["web"]))
    files = authority.issue_server("gateway")
    async with AsyncExitStack() as stack:
        ports, controllers = free_ports(2), []
        for port in ports:
            controllers.append(ControllerProcess(settings, folder / f"{port}.log", *gateway_options(files, port)))
            stack.callback(controllers[-1].end)
            await controllers[-1].logged("gateway started")
        await controllers[0].logged("leading")
        endpoints = tuple(f"127.0.0.1:{port}" for port in ports)
        yield GatewayCluster(settings, authority, endpoints, tuple(controllers), operator)


def _release(number: int, author: str) -> pb.Release:
    made = pb.Release(
        number=number,
        created_by=author,
        **_FIELDS,
        services=[
            workload_pb2.Service(
                name="web",
                kind=workload_pb2.Service.WEB,
                image=workload_pb2.Image(pinned=f"sha256:{number:064x}"),
                healthcheck=workload_pb2.HealthCheck(path="/up", port=3000),
            )
        ],
    )
    made.rollout.progress_deadline.FromSeconds(600)
    made.rollout.max_parallel = "100%"
    return made


async def deploy(environment: EnvironmentDriver, number: int, author: str) -> None:
    """Write a release and the environment in one transaction, as the command line does."""
    keys, made = environment.keys, _release(number, author)
    record = pb.Environment(nodes=NODES, latest_release=number, **_FIELDS)
    key = keys.release(REF, number)
    puts = [Put(key, encode(made)), Put(keys.environment(REF), encode(record))]
    assert (await environment.etcd.txn([Compare.absent(key)], puts)).succeeded


async def settles(environment: EnvironmentDriver, number: int) -> None:
    """Return once release ``number`` has settled."""
    await environment.rollout(lambda found: (found.release, found.phase) == (number, pb.Rollout.SETTLED))
