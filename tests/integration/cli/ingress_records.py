"""Environment with an ingress, written by the test in place of controller and agents."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from devopsellence.api.v1.stored_pb2 import (
    Assignment,
    AssignmentStatus,
    Environment,
    Heartbeat,
    IngressStatus,
    Release,
    Rollout,
    ServedCertificate,
)
from devopsellence.api.v1.workload_pb2 import Image, Ingress, IngressRule, Port, Service
from devopsellence.store.codec import encode
from devopsellence.store.etcd import Etcd
from devopsellence.store.keys import EnvironmentRef
from tests.support.cli import REF, Cli


def ingress(
    *hosts: str, mode: Ingress.TlsMode.ValueType = Ingress.OFF, redirect: bool = False, path: str = "/"
) -> Ingress:
    rules = [IngressRule(host=host, path_prefix=path, service="web", port="http") for host in hosts]
    return Ingress(hosts=hosts, rules=rules, tls_mode=mode, redirect_http=redirect)


def web() -> Service:
    image = Image(reference="shop:1", pinned=f"sha256:{'0' * 64}", app=True)
    return Service(name="web", kind=Service.WEB, image=image, ports=[Port(name="http", port=3000)])


def released(cli: Cli, found: Ingress | None, nodes: Sequence[str], ref: EnvironmentRef = REF) -> None:
    """A settled release with this ingress, assigned to ``nodes``."""
    names: dict[str, Any] = {"organization": ref.organization, "project": ref.project, "environment": ref.environment}

    async def work(etcd: Etcd) -> None:
        keys = etcd.keys
        await etcd.put(keys.release(ref, 1), encode(Release(number=1, services=[web()], ingress=found, **names)))
        await etcd.put(keys.environment(ref), encode(Environment(nodes=nodes, latest_release=1, **names)))
        await etcd.put(keys.rollout(ref), encode(Rollout(release=1, phase=Rollout.SETTLED, **names)))
        for node in nodes:
            assigned = Assignment(node=node, release=1, services=[web()], ingress=found, **names)
            await etcd.put(keys.assignment(node, ref), encode(assigned))

    cli.etcd(work)


def write_agent_records(
    cli: Cli, node: str, status: IngressStatus | None, *, uid: str = "", api: str = "", ref: EnvironmentRef = REF
) -> None:
    """Write the heartbeat and the ingress status of a node's agent."""

    async def work(etcd: Etcd) -> None:
        keys = etcd.keys
        await etcd.put(keys.heartbeat(node), encode(Heartbeat(node=node, uid=uid, api_address=api)))
        assignment_status = AssignmentStatus(
            node=node, release=1, node_uid=uid, phase=AssignmentStatus.SETTLED, ingress=status
        )
        await etcd.put(keys.status(node, ref), encode(assignment_status))

    cli.etcd(work)


def serving(http: int, https: int = 0, **serials: str) -> IngressStatus:
    served = [ServedCertificate(host=host, serial=serial) for host, serial in serials.items()]
    return IngressStatus(phase=IngressStatus.SERVING, http_port=http, https_port=https, certificates=served)


def key_of(host: str, ref: EnvironmentRef = REF) -> Callable[[Etcd], str]:
    """Return the key of the host's certificate."""
    return lambda etcd: etcd.keys.certificate(ref, host)
