"""Who serves which host, and for whom its key is sealed: read from what is stored about an environment. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

from devopsellence.age import node_recipient
from devopsellence.api.v1 import stored_pb2 as pb
from devopsellence.api.v1 import workload_pb2
from devopsellence.controller.ingress.rules import hosts_of
from devopsellence.controller.model.reachability import answers
from devopsellence.controller.model.snapshot import EnvironmentSnapshot, NodeView
from devopsellence.controller.rollout.target import fallback_number
from devopsellence.store.record import Record, message_of

#: The ACME directory of environments that name none: Let's Encrypt's for real certificates.
DEFAULT_DIRECTORY: Final = "https://acme-v02.api.letsencrypt.org/directory"


@dataclass(frozen=True, slots=True)
class AcmeAccount:
    """Whom certificates are ordered from, and as whom. ``email`` may be empty."""

    directory_url: str
    email: str


@dataclass(frozen=True, slots=True)
class IngressServer:
    """A node that serves a host, as far as its ingress goes.

    ``recipient`` is its public key ("" while it is not known), ``tokens`` are the challenges that it answers,
    ``requests`` its signing requests by id.
    """

    node: str
    answers: bool
    recipient: str
    tokens: frozenset[str]
    requests: Mapping[str, pb.SigningRequest]


@dataclass(frozen=True, slots=True)
class CertificateDemand:
    """What is asked for one host. ``account`` None: no certificate is to be ordered for it.

    ``servers`` are sorted by name. ``named``: the environment's configuration names it, or in doubt may do so.
    """

    host: str
    servers: Sequence[IngressServer] = ()
    account: AcmeAccount | None = None
    named: bool = False


@dataclass(frozen=True, slots=True)
class CertificateDemands:
    """``hosts``: all that are named, served or have a record, by name. ``recipients``: of the nodes."""

    hosts: Mapping[str, CertificateDemand]
    recipients: frozenset[str]


@dataclass(frozen=True, slots=True)
class _Serving:
    """A node with an ingress: which, and of which release."""

    server: IngressServer
    ingress: workload_pb2.Ingress
    hosts: tuple[str, ...]
    release: int


@dataclass(frozen=True, slots=True)
class _Share:
    """Who serves a host, and whom its certificate is ordered from."""

    servers: Sequence[IngressServer]
    account: AcmeAccount | None


def concerned(world: EnvironmentSnapshot) -> bool:
    """Whether there may be anything to do at all; costs nothing where no ingress is."""
    return bool(world.certificates) or _has_ingress(world.release) or _has_ingress(world.fallback)


def demands(world: EnvironmentSnapshot) -> CertificateDemands | None:
    """What is asked for; None while the environment cannot be read: nothing is begun, and nothing is taken away."""
    environment = world.environment
    if environment is not None and environment.message is None:
        return None
    attached = frozenset(environment.message.nodes) if environment is not None and environment.message else frozenset()
    recipients: set[str] = set()
    # By the hosts that they serve, which mostly are the same everywhere: so many nodes cost little with many hosts.
    groups: dict[tuple[str, ...], list[_Serving]] = {}
    for view in world.nodes:
        recipient, serving = view.recall("certificates", (), partial(_see, view))
        if serving is not None:
            groups.setdefault(serving.hosts, []).append(serving)
        if serving is not None or view.name in attached:
            recipients.add(recipient)
    found = {
        host: CertificateDemand(host, named=True, servers=one.servers, account=one.account)
        for host, one in _shares(groups)
    }
    unserved = world.certificates.keys() - found.keys()
    if unserved:
        named = _named(world)
        found |= {host: CertificateDemand(host, named=named is None or host in named) for host in unserved}
    return CertificateDemands(dict(sorted(found.items())), frozenset(recipients - {""}))


def _shares(groups: Mapping[tuple[str, ...], list[_Serving]]) -> Iterator[tuple[str, _Share]]:
    """Each host with those who serve it; whoever has the newest release says how."""
    by_host: dict[str, tuple[tuple[str, ...], ...]] = {}
    for hosts in groups:
        for host in hosts:
            by_host[host] = (*by_host.get(host, ()), hosts)
    shares: dict[tuple[tuple[str, ...], ...], _Share] = {}
    for host, several in by_host.items():
        if several not in shares:
            members = sorted((one for hosts in several for one in groups[hosts]), key=lambda one: one.server.node)
            newest = max(members, key=lambda one: one.release)
            shares[several] = _Share([one.server for one in members], _account(newest.ingress))
        yield host, shares[several]


def recipient_of(view: NodeView) -> str:
    """The public key of the machine that now is the node; "" when unknown."""
    node = message_of(view.node)
    beat = message_of(view.heartbeat)
    return node_recipient(node, beat) if node is not None else ""


def _see(view: NodeView) -> tuple[str, _Serving | None]:
    return recipient_of(view), _serving(view)


def _serving(view: NodeView) -> _Serving | None:
    assignment = message_of(view.assignment)
    if assignment is None or assignment.removed or not assignment.HasField("ingress"):
        return None
    status = message_of(view.status)
    # Of the machine that had the name before nothing counts.
    said = status.ingress if status is not None and status.node_uid == assignment.node_uid else pb.IngressStatus()
    server = IngressServer(
        view.name,
        answers(view),
        recipient_of(view),
        frozenset(said.challenges),
        {one.id: one for one in said.signing_requests},
    )
    return _Serving(server, assignment.ingress, tuple(hosts_of(assignment.ingress)), assignment.release)


def _account(ingress: workload_pb2.Ingress) -> AcmeAccount | None:
    if ingress.tls_mode != workload_pb2.Ingress.AUTO:
        return None
    return AcmeAccount(ingress.tls_ca_directory_url or DEFAULT_DIRECTORY, ingress.tls_email)


def _named(world: EnvironmentSnapshot) -> frozenset[str] | None:
    """The hosts that the environment's releases name; None: not everything that could name one can be read."""
    if any(view.assignment is not None and view.assignment.message is None for view in world.nodes):
        return None
    environment = message_of(world.environment)
    if environment is None or environment.latest_release == 0:
        return frozenset()
    needed = [world.release]
    if fallback_number(world):
        needed.append(world.fallback)
    if any(record is None or record.message is None for record in needed):
        return None
    return frozenset(host for record in needed for host in _hosts(record))


def _hosts(record: Record[pb.Release] | None) -> Iterator[str]:
    if record is not None and record.message is not None:
        yield from hosts_of(record.message.ingress)


def _has_ingress(record: Record[pb.Release] | None) -> bool:
    return record is not None and record.message is not None and record.message.HasField("ingress")
