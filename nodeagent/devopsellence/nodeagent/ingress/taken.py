"""One part of an ingress, from what was read to what is used: what cannot be used of it stays as it was."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Final

from devopsellence.api.v1 import stored_pb2
from devopsellence.nodeagent.ingress.keys import Unusable, answer, opened
from devopsellence.nodeagent.ingress.model import RouterPeer, TlsCertificate
from devopsellence.nodeagent.ingress.site import Given, HostPart
from devopsellence.nodeagent.secrets import Vault
from devopsellence.peers import server_name
from devopsellence.store.keys import PEERS

EMPTY: Final = stored_pb2.NodeIngress()


@dataclass(frozen=True, slots=True)
class Taken:
    """One part as it is used.

    ``source`` is what was read, None if that cannot be used at all; ``kept`` what is on disk: as read, but with the
    certificate that is served and without the request for a key. ``gone``: etcd has none.
    """

    source: stored_pb2.NodeIngress | None
    kept: stored_pb2.NodeIngress
    certificate: TlsCertificate | None = None
    not_after: float = 0.0
    answer: stored_pb2.SigningRequest | None = None
    problem: str = ""
    gone: bool = False


def take(message: stored_pb2.NodeIngress, before: Taken | None, vault: Vault) -> Taken:
    """A part as it is used from now on; ``before``: as it was used so far. Takes milliseconds: for a thread."""
    problems: list[str] = []
    certificate, not_after = _certificate(message, before, vault, problems)
    kept = stored_pb2.NodeIngress()
    kept.CopyFrom(message)
    kept.ClearField("key_request")
    if problems:
        # The next agent must not find what this one could not use.
        kept.ClearField("certificate")
        if before is not None and before.kept.HasField("certificate"):
            kept.certificate.CopyFrom(before.kept.certificate)
    answered = _answer(message, before, problems)
    return Taken(message, kept, certificate, not_after, answered, "; ".join(problems))


def _certificate(
    message: stored_pb2.NodeIngress, before: Taken | None, vault: Vault, problems: list[str]
) -> tuple[TlsCertificate | None, float]:
    if not message.HasField("certificate"):
        return None, 0.0
    if before is not None and before.certificate is not None and before.kept.certificate == message.certificate:
        return before.certificate, before.not_after
    try:
        return opened(message.certificate, vault)
    except Unusable as error:
        served = "; the one before it is served on" if before is not None and before.certificate is not None else ""
        problems.append(
            f"the certificate {message.certificate.serial} for {message.part} cannot be served: {error}{served}"
        )
    return (before.certificate, before.not_after) if before is not None else (None, 0.0)


def _answer(
    message: stored_pb2.NodeIngress, before: Taken | None, problems: list[str]
) -> stored_pb2.SigningRequest | None:
    if not message.HasField("key_request"):
        return None
    request, known = message.key_request, before.answer if before is not None else None
    if known is not None and (known.id, list(known.recipients)) == (request.id, list(request.recipients)):
        return known
    said = f"the request for a key for {message.part} cannot be answered"
    if request.host != message.part:
        problems.append(f"{said}: it is about {request.host!r}")
        return None
    try:
        return answer(request)
    except Unusable as error:
        problems.append(f"{said}: {error}")
    return None


def left(before: Taken | None) -> Taken | None:
    """A part that etcd has no more: its certificate is all that stays."""
    if before is None or before.certificate is None:
        return None
    kept = stored_pb2.NodeIngress()
    kept.CopyFrom(before.kept)
    kept.ClearField("challenges")
    return replace(before, source=None, kept=kept, answer=None, problem="", gone=True)


def refused(before: Taken | None, problem: str) -> Taken:
    """A part that cannot be used as a whole: it stays as it was."""
    if before is None:
        return Taken(None, EMPTY, problem=problem)
    return replace(before, source=None, problem=problem)


def given(parts: Mapping[str, Taken]) -> Given:
    """All parts of an environment together."""
    hosts = {
        part: HostPart(
            taken.certificate,
            taken.not_after,
            tuple((each.token, each.key_authorization) for each in taken.kept.challenges),
        )
        for part, taken in parts.items()
        if part != PEERS
    }
    answers = [taken.answer for taken in parts.values() if taken.answer is not None]
    return Given(
        hosts=hosts,
        peers=_peers(parts[PEERS].kept.peers) if PEERS in parts else (),
        answers=tuple(sorted(answers, key=lambda each: each.id)),
        problems=tuple(parts[part].problem for part in sorted(parts) if parts[part].problem),
    )


def _peers(stored: Iterable[stored_pb2.RouterPeer]) -> tuple[RouterPeer, ...]:
    found = []
    for each in stored:
        host, _, port = each.address.rpartition(":")
        if each.uid and host and port.isascii() and port.isdigit():
            found.append(RouterPeer(each.node, server_name(each.uid), host.strip("[]"), int(port)))
    return tuple(sorted(found))
