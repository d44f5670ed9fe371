"""Questions that need the cryptography library, asked of a short-lived process (``keys``): the agent itself never
imports it.

All questions of one moment go into one process, and what was found of a certificate is remembered, so that a process
runs for what is new only. Private keys go in by its standard input, and are in no argument, variable, log or error.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import subprocess
import sys
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

#: A process that takes longer hangs; a busy machine is given time.
LIMIT_SECONDS: Final = 60.0
#: Not from the agent's working folder, which may be anybody's.
_COMMAND: Final = (sys.executable, "-P", "-m", "devopsellence.nodeagent.ingress.crypto_main")
_REMEMBERED: Final = 1024
#: Certificates (chain and key, PEM) and requests (id, host, recipients), as ``keys.answered`` takes and answers them.
Said: TypeAlias = Mapping[str, list[Any]]


class AsideFailed(Exception):
    """No answer; says why, and holds nothing of the question."""


@dataclass(frozen=True, slots=True)
class Pair:
    """A certificate's chain and private key, both PEM."""

    chain_pem: str
    key_pem: str = field(repr=False)

    @property
    def digest(self) -> bytes:
        """The same for the same pair only."""
        found = hashlib.sha256(self.chain_pem.encode() + b"\0")
        found.update(self.key_pem.encode())
        return found.digest()


@dataclass(frozen=True, slots=True)
class Request:
    """A request for a key, as ``stored_pb2.KeyRequest``."""

    id: str
    host: str
    recipients: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Question:
    """What is to be found out about one part of an ingress."""

    pair: Pair | None = None
    request: Request | None = None


@dataclass(frozen=True, slots=True)
class Verdict:
    """``until``: how long the certificate is valid (seconds since the epoch); ``problem``: why it cannot be served.
    ``failed``: it is not known, and may be asked again."""

    until: float = 0.0
    problem: str = ""
    failed: bool = False


@dataclass(frozen=True, slots=True)
class Made:
    """A request to certify a new key, and that key, sealed; ``problem`` and ``failed`` as for :class:`Verdict`."""

    csr_pem: str = ""
    key_age: str = ""
    problem: str = ""
    failed: bool = False


@dataclass(frozen=True, slots=True)
class Answer:
    """To a :class:`Question`: what it did not ask is None."""

    verdict: Verdict | None = None
    made: Made | None = None


async def run(said: Said, command: Sequence[str] = _COMMAND, limit: float = LIMIT_SECONDS) -> Said:
    """Ask a process of its own, which ends with this call whatever becomes of it. ``limit`` is in seconds.

    Raises:
        AsideFailed: it could not be run, did not answer in time, or ended without an answer.
    """
    try:
        # Not asyncio's own: cancelled while it starts one, it waits for ever. To start one takes about a millisecond.
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)  # noqa: ASYNC220
    except OSError as error:
        raise AsideFailed(f"no process could be started for it: {error.strerror}") from error
    try:
        out, said_last = await asyncio.to_thread(_communicate, process, json.dumps(said).encode(), limit)
    except subprocess.TimeoutExpired:
        # Not "from": that holds what it had answered by then.
        raise AsideFailed(f"the process for it took longer than {limit:g} s") from None
    finally:
        process.kill()
        process.wait()
    try:
        found: Said = json.loads(out)
    except ValueError:
        # Not "from": that would hold what was answered.
        last = said_last.decode(errors="replace").strip().rpartition("\n")[2]
        raise AsideFailed(f"the process for it ended with {process.returncode}: {last or 'no word'}") from None
    return found


def _communicate(process: subprocess.Popen[bytes], said: bytes, limit: float) -> tuple[bytes, bytes]:
    """What it writes until it ends, which it does with this call. TimeoutExpired."""
    with process:
        try:
            return process.communicate(said, limit)
        except BaseException:
            process.kill()
            raise


class Aside:
    """Asks, and remembers what certificates turned out to be. ``run`` is what asks."""

    def __init__(self, run: Callable[[Said], Awaitable[Said]] = run) -> None:
        self._run = run
        self._known: OrderedDict[bytes, Verdict] = OrderedDict()

    async def ask(self, questions: Sequence[Question]) -> list[Answer]:
        """The answers, in the same order."""
        pairs = {question.pair.digest: question.pair for question in questions if question.pair is not None}
        new = {digest: pair for digest, pair in pairs.items() if digest not in self._known}
        requests = list(dict.fromkeys(question.request for question in questions if question.request is not None))
        verdicts, made = dict(self._known), dict[Request, Made]()
        if new or requests:
            said: Said = {
                "certificates": [(each.chain_pem, each.key_pem) for each in new.values()],
                "requests": [(request.id, request.host, request.recipients) for request in requests],
            }
            try:
                found = await self._run(said)
            except AsideFailed as error:
                verdicts |= dict.fromkeys(new, Verdict(problem=str(error), failed=True))
                made = dict.fromkeys(requests, Made(problem=str(error), failed=True))
            else:
                judged = dict(zip(new, map(_verdict, found["certificates"]), strict=True))
                self._remember(judged)
                verdicts |= judged
                made = dict(zip(requests, map(_made, found["requests"]), strict=True))
        return [
            Answer(
                verdicts[question.pair.digest] if question.pair is not None else None,
                made[question.request] if question.request is not None else None,
            )
            for question in questions
        ]

    def _remember(self, judged: Mapping[bytes, Verdict]) -> None:
        self._known |= judged
        while len(self._known) > _REMEMBERED:
            self._known.popitem(last=False)


def _verdict(outcome: Mapping[str, Any]) -> Verdict:
    if "found" in outcome:
        return Verdict(until=outcome["found"])
    return Verdict(problem=outcome["unusable"])


def _made(outcome: Mapping[str, Any]) -> Made:
    if "found" in outcome:
        csr_pem, key_age = outcome["found"]
        return Made(csr_pem, key_age)
    return Made(problem=outcome["unusable"])
