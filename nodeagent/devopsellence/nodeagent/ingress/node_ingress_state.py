"""One part of an ingress, from what was read to what is used: what cannot be used of it stays as it was.

A part is read in three steps, because the middle one is a process's: :func:`opened`, what ``aside`` answers to its
question, and :func:`take`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Final

from devopsellence.agent_identity import server_name
from devopsellence.api.v1 import stored_pb2
from devopsellence.nodeagent.envoy.model import RouterPeer, TlsCertificate
from devopsellence.nodeagent.ingress.crypto_worker import Answer, Pair, Question, Request
from devopsellence.nodeagent.ingress.site import Given, HostPart
from devopsellence.nodeagent.secrets import SecretError, Vault
from devopsellence.store.keys import PEERS

EMPTY: Final = stored_pb2.NodeIngress()


@dataclass(frozen=True, slots=True)
class Taken:
    """One part as it is used.

    ``source`` is what was read, None if that cannot be used at all; ``kept`` what is on disk: as read, but with the
    certificate that is served and without the request for a key. ``not_after`` is infinite while it is not known.
    ``again``: something of it could not be found out, and is to be asked again. ``gone``: etcd has none.
    """

    source: stored_pb2.NodeIngress | None
    kept: stored_pb2.NodeIngress
    certificate: TlsCertificate | None = None
    not_after: float = 0.0
    answer: stored_pb2.SigningRequest | None = None
    problem: str = ""
    again: bool = False
    gone: bool = False


@dataclass(frozen=True, slots=True)
class Opened:
    """A part as it was read. ``question``: what has to be known of what is new in it. ``problem``: why the key of its
    certificate cannot be opened."""

    message: stored_pb2.NodeIngress
    question: Question
    problem: str = ""


def opened(message: stored_pb2.NodeIngress, before: Taken | None, vault: Vault) -> Opened:
    """A part with what is sealed in it; ``before``: as it was used so far. Takes a millisecond: for a thread."""
    pair, problem = None, ""
    if message.HasField("certificate") and not (before is not None and _serves(before, message) and not before.again):
        try:
            pair = Pair(message.certificate.chain_pem, vault.key(message.certificate.key_age))
        except SecretError as error:
            problem = f"its key cannot be used: {error}"
    request = None
    if message.HasField("key_request") and message.key_request.host == message.part and not _known(message, before):
        asked = message.key_request
        request = Request(asked.id, asked.host, tuple(asked.recipients))
    return Opened(message, Question(pair, request), problem)


def take(found: Opened, before: Taken | None, answer: Answer, *, on_disk: bool = False) -> Taken:
    """A part as it is used from now on; ``answer``: to its question. ``on_disk``: another agent wrote it there."""
    message = found.message
    problems: list[str] = []
    certificate, not_after = _certificate(found, before, answer, problems, on_disk=on_disk)
    kept = stored_pb2.NodeIngress()
    kept.CopyFrom(message)
    kept.ClearField("key_request")
    if problems:
        # The next agent must not find what this one could not use.
        kept.ClearField("certificate")
        if certificate is not None and before is not None:
            kept.certificate.CopyFrom(before.kept.certificate)
    answered = _answer(message, before, answer, problems)
    again = any(each is not None and each.failed for each in (answer.verdict, answer.made))
    return Taken(message, kept, certificate, not_after, answered, "; ".join(problems), again)


def _serves(before: Taken, message: stored_pb2.NodeIngress) -> bool:
    """Whether it is the certificate of ``message`` that is served."""
    return before.certificate is not None and before.kept.certificate == message.certificate


def _certificate(
    found: Opened, before: Taken | None, answer: Answer, problems: list[str], *, on_disk: bool
) -> tuple[TlsCertificate | None, float]:
    message, pair, verdict = found.message, found.question.pair, answer.verdict
    if not message.HasField("certificate"):
        return None, 0.0
    if pair is None and not found.problem and before is not None:
        return before.certificate, before.not_after
    served = before is not None and _serves(before, message)
    if pair is not None and verdict is not None:
        made = TlsCertificate(message.certificate.serial, pair.chain_pem, pair.key_pem)
        if not verdict.problem:
            return made, verdict.until
        if verdict.failed and (on_disk or served):
            # Whoever wrote it had it judged.
            return made, math.inf
    problem = found.problem or (verdict.problem if verdict is not None else "")
    if verdict is not None and verdict.failed:
        problem += ", which is tried again"
    former = before if before is not None and before.certificate is not None and not served else None
    goes_on = "; the one before it is served on" if former is not None else ""
    problems.append(
        f"the certificate {message.certificate.serial} for {message.part} cannot be served: {problem}{goes_on}"
    )
    return (former.certificate, former.not_after) if former is not None else (None, 0.0)


def _known(message: stored_pb2.NodeIngress, before: Taken | None) -> stored_pb2.SigningRequest | None:
    """The answer that its request for a key has had already."""
    request, known = message.key_request, before.answer if before is not None else None
    if known is not None and (known.id, list(known.recipients)) == (request.id, list(request.recipients)):
        return known
    return None


def _answer(
    message: stored_pb2.NodeIngress, before: Taken | None, answer: Answer, problems: list[str]
) -> stored_pb2.SigningRequest | None:
    if not message.HasField("key_request"):
        return None
    request, made = message.key_request, answer.made
    said = f"the request for a key for {message.part} cannot be answered"
    if made is None:
        if request.host != message.part:
            problems.append(f"{said}: it is about {request.host!r}")
        return _known(message, before)
    if made.problem:
        problems.append(f"{said}: {made.problem}{', which is tried again' if made.failed else ''}")
        return None
    return stored_pb2.SigningRequest(
        id=request.id, csr_pem=made.csr_pem, key_age=made.key_age, recipients=request.recipients
    )


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
            tuple((challenge.token, challenge.key_authorization) for challenge in taken.kept.challenges),
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
