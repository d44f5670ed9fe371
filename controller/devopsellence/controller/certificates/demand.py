"""Demand for certificates: the hosts of an environment, their nodes, and the recipients of their keys. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

from devopsellence.age import node_recipient
from devopsellence.api.v1 import stored_pb2 as pb
from devopsellence.api.v1 import workload_pb2
from devopsellence.controller.model.hosts import hosts_of
from devopsellence.controller.model.snapshot import EnvironmentSnapshot, NodeView
from devopsellence.store.record import Record, message_of

#: Default ACME directory: the production directory of Let's Encrypt.
DEFAULT_DIRECTORY: Final = "https://acme-v02.api.letsencrypt.org/directory"


@dataclass(frozen=True, slots=True)
class AcmeAccount:
    """Account at an ACME server. ``email`` may be empty."""

    directory_url: str
    email: str


@dataclass(frozen=True, slots=True)
class IngressServer:
    """Node that serves a host.

    ``recipient`` is the public key of the node ("" while unknown), ``tokens`` are the challenges that it serves,
    ``requests`` its signing requests by id.
    """

    node: str
    reachable: bool
    recipient: str
    tokens: frozenset[str]
    requests: Mapping[str, pb.SigningRequest]


@dataclass(frozen=True, slots=True)
class CertificateDemand:
    """Demand for the certificate of one host. ``account`` None: no certificate is to be ordered.

    ``servers`` are sorted by name. ``named``: the configuration of the environment names the host, or may do so.
    """

    host: str
    servers: Sequence[IngressServer] = ()
    account: AcmeAccount | None = None
    named: bool = False


@dataclass(frozen=True, slots=True)
class CertificateDemands:
    """Demands by host: all hosts named, served or with a record. ``recipients``: public keys of the nodes."""

    hosts: Mapping[str, CertificateDemand]
    recipients: frozenset[str]


@dataclass(frozen=True, slots=True)
class _ServedIngress:
    """Node with its ingress and the release of the ingress."""

    server: IngressServer
    ingress: workload_pb2.Ingress
    hosts: tuple[str, ...]
    release: int


@dataclass(frozen=True, slots=True)
class _Share:
    """Nodes that serve a host, and the account to order its certificate."""

    servers: Sequence[IngressServer]
    account: AcmeAccount | None


def concerned(snapshot: EnvironmentSnapshot) -> bool:
    """Return whether the environment has an ingress or a certificate at all; a cheap check."""
    return bool(snapshot.certificates) or _has_ingress(snapshot.release) or _has_ingress(snapshot.fallback)


def demands(snapshot: EnvironmentSnapshot) -> CertificateDemands | None:
    """Return the demands; None while the environment cannot be read, so that nothing begins and nothing is deleted."""
    environment = snapshot.environment
    if environment is not None and environment.message is None:
        return None
    attached = frozenset(environment.message.nodes) if environment is not None and environment.message else frozenset()
    recipients: set[str] = set()
    # Nodes by their hosts. Most nodes serve the same hosts, so many nodes with many hosts stay cheap.
    groups: dict[tuple[str, ...], list[_ServedIngress]] = {}
    for view in snapshot.nodes:
        recipient, serving = view.recall("certificates", (), partial(_see, view))
        if serving is not None:
            groups.setdefault(serving.hosts, []).append(serving)
        if serving is not None or view.name in attached:
            recipients.add(recipient)
    by_host = {
        host: CertificateDemand(host, named=True, servers=share.servers, account=share.account)
        for host, share in _shares(groups)
    }
    unserved = snapshot.certificates.keys() - by_host.keys()
    if unserved:
        named = _named(snapshot)
        by_host |= {host: CertificateDemand(host, named=named is None or host in named) for host in unserved}
    return CertificateDemands(dict(sorted(by_host.items())), frozenset(recipients - {""}))


def _shares(groups: Mapping[tuple[str, ...], list[_ServedIngress]]) -> Iterator[tuple[str, _Share]]:
    """Yield each host with its nodes; the ingress of the newest release decides on the account."""
    by_host: dict[str, tuple[tuple[str, ...], ...]] = {}
    for hosts in groups:
        for host in hosts:
            by_host[host] = (*by_host.get(host, ()), hosts)
    shares: dict[tuple[tuple[str, ...], ...], _Share] = {}
    for host, several in by_host.items():
        if several not in shares:
            members = sorted((node for hosts in several for node in groups[hosts]), key=lambda node: node.server.node)
            newest = max(members, key=lambda node: node.release)
            shares[several] = _Share([node.server for node in members], _account(newest.ingress))
        yield host, shares[several]


def recipient_of(view: NodeView) -> str:
    """Return the public key of the registered machine; "" if unknown."""
    node = message_of(view.node)
    beat = message_of(view.heartbeat)
    return node_recipient(node, beat) if node is not None else ""


def _see(view: NodeView) -> tuple[str, _ServedIngress | None]:
    return recipient_of(view), _serving(view)


def _serving(view: NodeView) -> _ServedIngress | None:
    assignment = message_of(view.assignment)
    if assignment is None or assignment.removed or not assignment.HasField("ingress"):
        return None
    status = message_of(view.status)
    # Reports of an earlier machine of that name do not count.
    reported = status.ingress if status is not None and status.node_uid == assignment.node_uid else pb.IngressStatus()
    server = IngressServer(
        view.name,
        view.is_reachable,
        recipient_of(view),
        frozenset(reported.challenges),
        {request.id: request for request in reported.signing_requests},
    )
    return _ServedIngress(server, assignment.ingress, tuple(hosts_of(assignment.ingress)), assignment.release)


def _account(ingress: workload_pb2.Ingress) -> AcmeAccount | None:
    if ingress.tls_mode != workload_pb2.Ingress.AUTO:
        return None
    return AcmeAccount(ingress.tls_ca_directory_url or DEFAULT_DIRECTORY, ingress.tls_email)


def _named(snapshot: EnvironmentSnapshot) -> frozenset[str] | None:
    """Return the hosts named by the releases of the environment; None if a record cannot be read."""
    if any(view.assignment is not None and view.assignment.message is None for view in snapshot.nodes):
        return None
    environment = message_of(snapshot.environment)
    if environment is None or environment.latest_release == 0:
        return frozenset()
    needed = [snapshot.release]
    if snapshot.fallback_number:
        needed.append(snapshot.fallback)
    if any(record is None or record.message is None for record in needed):
        return None
    return frozenset(host for record in needed for host in _hosts(record))


def _hosts(record: Record[pb.Release] | None) -> Iterator[str]:
    if record is not None and record.message is not None:
        yield from hosts_of(record.message.ingress)


def _has_ingress(record: Record[pb.Release] | None) -> bool:
    return record is not None and record.message is not None and record.message.HasField("ingress")
