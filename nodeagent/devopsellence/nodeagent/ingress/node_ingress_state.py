"""State of one ingress part (a host, or the peers): from the message in etcd to the inputs in use. Pure but for keys.

An unusable field leaves the former state in place. A message is processed in three steps, because the middle step runs
in another process: :func:`read_part`, ``CryptoWorker.run_tasks``, :func:`next_state`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Final

from devopsellence.agent_identity import server_name
from devopsellence.api.v1 import stored_pb2
from devopsellence.nodeagent.envoy.model import RouterPeer, TlsCertificate
from devopsellence.nodeagent.ingress.crypto_worker import CertificatePair, CryptoResult, CryptoTask, CsrRequest
from devopsellence.nodeagent.ingress.routing import HostInputs, IngressInputs
from devopsellence.nodeagent.secrets import SecretDecrypter, SecretError
from devopsellence.store.keys import PEERS

EMPTY_PART: Final = stored_pb2.NodeIngress()


@dataclass(frozen=True, slots=True)
class PartState:
    """A part in use.

    ``source``: the message last read, None if unusable as a whole. ``stored``: the message on disk, which is the source
    with the served certificate and without the key request. ``not_after``: expiry in seconds since the epoch, infinite
    while unknown. ``signing_request``: response to the key request. ``retry``: a cryptographic task failed and is due
    again. ``deleted``: the part is no longer in etcd.
    """

    source: stored_pb2.NodeIngress | None
    stored: stored_pb2.NodeIngress
    certificate: TlsCertificate | None = None
    not_after: float = 0.0
    signing_request: stored_pb2.SigningRequest | None = None
    problem: str = ""
    retry: bool = False
    deleted: bool = False


@dataclass(frozen=True, slots=True)
class PartInput:
    """A message with the cryptographic task for everything new in it.

    ``problem``: why the certificate's key cannot be decrypted.
    """

    message: stored_pb2.NodeIngress
    task: CryptoTask
    problem: str = ""


def read_part(message: stored_pb2.NodeIngress, before: PartState | None, decrypter: SecretDecrypter) -> PartInput:
    """Decrypt a message's key if new; ``before``: the state so far. Takes a millisecond: for a thread."""
    pair, problem = None, ""
    unchanged = before is not None and _serves(before, message) and not before.retry
    if message.HasField("certificate") and not unchanged:
        try:
            pair = CertificatePair(message.certificate.chain_pem, decrypter.private_key(message.certificate.key_age))
        except SecretError as error:
            problem = f"its key cannot be used: {error}"
    request = None
    if (
        message.HasField("key_request")
        and message.key_request.host == message.part
        and not _known_signing_request(message, before)
    ):
        key_request = message.key_request
        request = CsrRequest(key_request.id, key_request.host, tuple(key_request.recipients))
    return PartInput(message, CryptoTask(pair, request), problem)


def next_state(part: PartInput, before: PartState | None, result: CryptoResult, *, on_disk: bool = False) -> PartState:
    """Return the state after ``part`` and the result of its task. ``on_disk``: written to disk by an earlier agent."""
    message = part.message
    problems: list[str] = []
    certificate, not_after = _certificate(part, before, result, problems, on_disk=on_disk)
    stored = stored_pb2.NodeIngress()
    stored.CopyFrom(message)
    stored.ClearField("key_request")
    if problems:
        # The next agent must not find an unusable certificate on disk.
        stored.ClearField("certificate")
        if certificate is not None and before is not None:
            stored.certificate.CopyFrom(before.stored.certificate)
    signing_request = _signing_request(message, before, result, problems)
    retry = any(outcome is not None and outcome.failed for outcome in (result.verdict, result.csr))
    return PartState(message, stored, certificate, not_after, signing_request, "; ".join(problems), retry)


def _serves(before: PartState, message: stored_pb2.NodeIngress) -> bool:
    """Return whether the message's certificate is the certificate served already."""
    return before.certificate is not None and before.stored.certificate == message.certificate


def _certificate(
    part: PartInput, before: PartState | None, result: CryptoResult, problems: list[str], *, on_disk: bool
) -> tuple[TlsCertificate | None, float]:
    message, pair, verdict = part.message, part.task.pair, result.verdict
    if not message.HasField("certificate"):
        return None, 0.0
    if pair is None and not part.problem and before is not None:
        return before.certificate, before.not_after
    served = before is not None and _serves(before, message)
    if pair is not None and verdict is not None:
        certificate = TlsCertificate(message.certificate.serial, pair.chain_pem, pair.key_pem)
        if not verdict.problem:
            return certificate, verdict.not_after
        if verdict.failed and (on_disk or served):
            # The certificate was checked before it was written to disk or served.
            return certificate, math.inf
    problem = part.problem or (verdict.problem if verdict is not None else "")
    if verdict is not None and verdict.failed:
        problem += " (the check will be retried)"
    former = before if before is not None and before.certificate is not None and not served else None
    still_served = "; the previous certificate is still served" if former is not None else ""
    problems.append(
        f"the certificate {message.certificate.serial} for {message.part} cannot be served: {problem}{still_served}"
    )
    return (former.certificate, former.not_after) if former is not None else (None, 0.0)


def _known_signing_request(
    message: stored_pb2.NodeIngress, before: PartState | None
) -> stored_pb2.SigningRequest | None:
    """Return the existing response to the message's key request, if there is one."""
    request, known = message.key_request, before.signing_request if before is not None else None
    if known is not None and (known.id, list(known.recipients)) == (request.id, list(request.recipients)):
        return known
    return None


def _signing_request(
    message: stored_pb2.NodeIngress, before: PartState | None, result: CryptoResult, problems: list[str]
) -> stored_pb2.SigningRequest | None:
    if not message.HasField("key_request"):
        return None
    request, csr = message.key_request, result.csr
    beginning = f"the key request for {message.part} cannot be fulfilled"
    if csr is None:
        if request.host != message.part:
            problems.append(f"{beginning}: it is about {request.host!r}")
        return _known_signing_request(message, before)
    if csr.problem:
        problems.append(f"{beginning}: {csr.problem}{' (it will be retried)' if csr.failed else ''}")
        return None
    return stored_pb2.SigningRequest(
        id=request.id, csr_pem=csr.csr_pem, key_age=csr.key_age, recipients=request.recipients
    )


def state_when_deleted(before: PartState | None) -> PartState | None:
    """Return the state of a part deleted in etcd: only the certificate stays in use. None: nothing stays."""
    if before is None or before.certificate is None:
        return None
    stored = stored_pb2.NodeIngress()
    stored.CopyFrom(before.stored)
    stored.ClearField("challenges")
    return replace(before, source=None, stored=stored, signing_request=None, problem="", deleted=True)


def state_when_unusable(before: PartState | None, problem: str) -> PartState:
    """Return the state of a part with an unusable message: as before, with the problem."""
    if before is None:
        return PartState(None, EMPTY_PART, problem=problem)
    return replace(before, source=None, problem=problem)


def ingress_inputs(parts: Mapping[str, PartState]) -> IngressInputs:
    """Return all parts of an environment as inputs of the routing; keys are hosts, or ``PEERS``."""
    hosts = {
        part: HostInputs(
            state.certificate,
            state.not_after,
            tuple((challenge.token, challenge.key_authorization) for challenge in state.stored.challenges),
        )
        for part, state in parts.items()
        if part != PEERS
    }
    signing_requests = [state.signing_request for state in parts.values() if state.signing_request is not None]
    return IngressInputs(
        hosts=hosts,
        peers=_peers(parts[PEERS].stored.peers) if PEERS in parts else (),
        forwarders=_forwarders(parts[PEERS].stored) if PEERS in parts else (),
        held_hosts=tuple(parts[PEERS].stored.held_hosts) if PEERS in parts else (),
        taken_hosts=dict(parts[PEERS].stored.taken_hosts) if PEERS in parts else {},
        signing_requests=tuple(sorted(signing_requests, key=lambda request: request.id)),
        problems=tuple(parts[part].problem for part in sorted(parts) if parts[part].problem),
    )


def _forwarders(stored: stored_pb2.NodeIngress) -> tuple[str, ...] | None:
    """Return the names in the certificates of the nodes that forward requests here.

    None: the part is from a controller that does not write them. The part without peers is no longer in etcd.
    """
    if stored.forwarders:
        return tuple(sorted(server_name(uid) for uid in stored.forwarders))
    return None if stored.peers else ()


def _peers(stored: Iterable[stored_pb2.RouterPeer]) -> tuple[RouterPeer, ...]:
    peers = []
    for peer in stored:
        host, _, port = peer.address.rpartition(":")
        if peer.uid and host and port.isascii() and port.isdigit():
            peers.append(RouterPeer(peer.node, server_name(peer.uid), host.strip("[]"), int(port)))
    return tuple(sorted(peers))
