"""``cluster certificates``: every certificate of the cluster that is known here, with its end and who renews it.

Sources: records of what the gateways have signed, heartbeats, candidates, and certificate files on this machine.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from devopsellence import input_file
from devopsellence.access.certificate import serial_number, validity
from devopsellence.access.denied import denial_of
from devopsellence.api.v1.stored_pb2 import Candidate, DenyList, Heartbeat, IssuedCertificate, Node
from devopsellence.certificates.life import CertificateState, Life
from devopsellence.cli.cluster.folder import ClusterFolder
from devopsellence.cli.store.author import operator_name
from devopsellence.cli.store.reader import Reader
from devopsellence.cli.store.snapshot import UnreadableKey
from devopsellence.store.etcd import Etcd
from devopsellence.store.identities import (
    USER_CONTROLLER,
    USER_OPERATOR,
    user_of_node,
    user_of_operator,
    user_of_router,
)

_ITSELF: Final = "itself"
#: For certificates that end when they were meant to.
_NOBODY: Final = "nobody"
#: For whom ``cluster init`` renews: nothing does so unattended.
RENEWED_BY_INIT: Final = "cluster init"
#: Identity of the authority that signs, among certificates.
ISSUING: Final = "issuing authority"
_NODE: Final = "node "
_EPOCH: Final = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
_BEGIN: Final = b"-----BEGIN CERTIFICATE-----"
_ORDER: Final = tuple(CertificateState)[::-1]


@dataclass(frozen=True)
class LocalCertificate:
    """Certificate in a file on this machine."""

    identity: str
    file: Path
    pem: bytes
    renewed_by: str = RENEWED_BY_INIT


@dataclass(frozen=True)
class CertificateFacts:
    """Input of :func:`known_certificates`; ``nodes`` and ``heartbeats`` are by name of the node."""

    issued: Sequence[IssuedCertificate] = ()
    nodes: Mapping[str, Node] = field(default_factory=dict)
    heartbeats: Mapping[str, Heartbeat] = field(default_factory=dict)
    candidates: Sequence[Candidate] = ()
    local: Sequence[LocalCertificate] = ()
    denied: DenyList = field(default_factory=DenyList)


@dataclass(frozen=True)
class KnownCertificate:
    """A certificate. ``used_by``: where it was seen in use; "" if it was not. ``signed_for``: who had it signed."""

    identity: str
    serial: str
    expires: datetime.datetime
    state: CertificateState
    used_by: str = ""
    renewed_by: str = _ITSELF
    signed_for: str = ""

    @property
    def is_of_agent(self) -> bool:
        """True if an agent was seen to use it."""
        return self.used_by.startswith(_NODE)

    def document(self) -> dict[str, Any]:
        return {
            "identity": self.identity,
            "serial": self.serial,
            "expires_at": self.expires.isoformat(),
            "state": self.state.value,
            "used_by": self.used_by,
            "renewed_by": self.renewed_by,
            "signed_for": self.signed_for,
        }


def known_certificates(facts: CertificateFacts, now: datetime.datetime) -> list[KnownCertificate]:
    """Return all certificates, those that need attention first. Pure."""
    issued = {record.serial: record for record in facts.issued}
    found = [*_of_nodes(facts, issued, now), *_of_controllers(facts, now), *_of_files(facts, now)]
    seen = {certificate.serial for certificate in found}
    found += [_of_record(record, facts.denied, now) for record in facts.issued if record.serial not in seen]
    return sorted(found, key=lambda known: (_ORDER.index(known.state), known.identity, known.expires, known.serial))


def _of_nodes(
    facts: CertificateFacts, issued: Mapping[str, IssuedCertificate], now: datetime.datetime
) -> Iterable[KnownCertificate]:
    for name, node in facts.nodes.items():
        beat = facts.heartbeats.get(name)
        if beat is None or beat.uid != node.uid or not beat.HasField("certificate_expires_at"):
            continue
        used = [(user_of_node(node.uid), beat.certificate_serial, beat.certificate_expires_at, f"{_NODE}{name}")]
        tls = beat.router_tls
        if tls.HasField("certificate_expires_at") and tls.certificate_serial != beat.certificate_serial:
            identity = user_of_router(node.uid)
            used.append((identity, tls.certificate_serial, tls.certificate_expires_at, f"{_NODE}{name}'s router"))
        for identity, serial, end, place in used:
            ends, record = _time(end), issued.get(serial)
            life = Life(_time(record.not_before), ends) if record is not None else Life.ending(ends)
            state = _state(facts.denied, identity, serial, life, now)
            by = record.issued_by if record is not None else ""
            yield KnownCertificate(identity, serial, ends, state, place, signed_for=by)


def _of_controllers(facts: CertificateFacts, now: datetime.datetime) -> Iterable[KnownCertificate]:
    for candidate in facts.candidates:
        if candidate.HasField("certificate_expires_at"):
            ends = _time(candidate.certificate_expires_at)
            state = Life.ending(ends).state(now)
            yield KnownCertificate(USER_CONTROLLER, "", ends, state, f"controller {candidate.identity}")


def _of_files(facts: CertificateFacts, now: datetime.datetime) -> Iterable[KnownCertificate]:
    for local in facts.local:
        with suppress(ValueError):
            life, serial = Life(*validity(local.pem)), serial_number(local.pem)
            state = _state(facts.denied, local.identity, serial, life, now)
            yield KnownCertificate(local.identity, serial, life.ends, state, str(local.file), local.renewed_by)


def _of_record(record: IssuedCertificate, denied: DenyList, now: datetime.datetime) -> KnownCertificate:
    life = Life(_time(record.not_before), _time(record.not_after))
    state = _state(denied, record.identity, record.serial, life, now)
    if record.fixed_term and state in (CertificateState.RENEWAL_DUE, CertificateState.EXPIRES_SOON):
        # As it was meant to.
        state = CertificateState.OK
    by = _NOBODY if record.fixed_term else _ITSELF
    return KnownCertificate(record.identity, record.serial, life.ends, state, "", by, record.issued_by)


def _state(denied: DenyList, identity: str, serial: str, life: Life, now: datetime.datetime) -> CertificateState:
    state = life.state(now)
    is_denied = state is not CertificateState.EXPIRED and bool(denial_of(denied, identity, serial))
    return CertificateState.DENIED if is_denied else state


def _time(stamp: Any) -> datetime.datetime:
    moment: datetime.datetime = stamp.ToDatetime(datetime.UTC)
    # A node may report any, also one that nothing can be subtracted from.
    return max(moment, _EPOCH)


async def read_facts(etcd: Etcd, folder: ClusterFolder) -> tuple[CertificateFacts, Sequence[UnreadableKey]]:
    """Return what is known, and the records that are unreadable.

    Records that the operator may not read are left out.
    """
    reader, keys = Reader(etcd), etcd.keys
    issued = await reader.get_prefix(keys.issued_certificates_prefix, IssuedCertificate)
    nodes = await reader.get_prefix(keys.nodes_prefix, Node)
    heartbeats = await reader.get_prefix(keys.heartbeats_prefix, Heartbeat)
    candidates = await reader.get_prefix(keys.election_prefix, Candidate)
    denied = await reader.get(keys.denied, DenyList)
    facts = CertificateFacts(
        list(issued.values()),
        {node.name: node for node in nodes.values()},
        {beat.node: beat for beat in heartbeats.values()},
        list(candidates.values()),
        local_certificates(etcd, folder),
        denied or DenyList(),
    )
    return facts, reader.problems


def local_certificates(etcd: Etcd, folder: ClusterFolder) -> list[LocalCertificate]:
    """Return the certificates in files on this machine: the operator's own, the authorities, etcd's members."""
    settings, found = etcd.settings, list[LocalCertificate]()
    if settings.cert is not None and settings.ca_cert is not None:
        operator = operator_name(etcd)
        identity = user_of_operator(operator) if operator else USER_OPERATOR
        chain = _certificates(settings.cert)
        found += [LocalCertificate(identity, settings.cert, pem, _ITSELF) for pem in chain[:1]]
        found += [LocalCertificate(ISSUING, settings.cert, pem) for pem in chain[1:]]
        found += [LocalCertificate("root authority", settings.ca_cert, pem) for pem in _certificates(settings.ca_cert)]
    for name in folder.control_plane().members if folder.record.exists() else ():
        file = folder.member(name).certificate
        found += [LocalCertificate(f"etcd member {name}", file, pem) for pem in _certificates(file)[:1]]
    return found


def _certificates(file: Path) -> list[bytes]:
    """Return the certificates in a PEM file; none if it cannot be read, which ``doctor`` reports."""
    try:
        return [_BEGIN + part for part in input_file.read(file).split(_BEGIN)[1:]]
    except OSError:
        return []
