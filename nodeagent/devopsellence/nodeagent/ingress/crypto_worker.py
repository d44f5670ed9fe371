"""Cryptography in a short-lived process (``crypto_main``): the agent itself never imports the cryptography library.

All tasks of a batch go into a single process. Results of certificate checks are cached, so that a process runs for new
certificates only. Private keys are passed by standard input, never as arguments, in variables, logs or errors.
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

#: Longer than any busy machine needs: a process that takes longer hangs.
LIMIT_SECONDS: Final = 60.0
#: ``-P``: modules are not imported from the agent's working directory, which anyone may write to.
_COMMAND: Final = (sys.executable, "-P", "-m", "devopsellence.nodeagent.ingress.crypto_main")
_CACHE_SIZE: Final = 1024
#: Input and output of ``crypto_main.run_tasks``: lists under "certificates" (in: chain and key, PEM) and "requests"
#: (in: id, host, recipients).
Payload: TypeAlias = Mapping[str, list[Any]]


class CryptoWorkerFailed(Exception):
    """The process gave no result; says why, without any of the input."""


@dataclass(frozen=True, slots=True)
class CertificatePair:
    """A certificate's chain and private key, in PEM."""

    chain_pem: str
    key_pem: str = field(repr=False)

    @property
    def digest(self) -> bytes:
        """SHA-256 of chain and key."""
        digest = hashlib.sha256(self.chain_pem.encode() + b"\0")
        digest.update(self.key_pem.encode())
        return digest.digest()


@dataclass(frozen=True, slots=True)
class CsrRequest:
    """Request for a new key and its CSR, as in ``stored_pb2.KeyRequest``."""

    id: str
    host: str
    recipients: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class CryptoTask:
    """Tasks for one part of an ingress: check a certificate, create a key, or neither."""

    pair: CertificatePair | None = None
    request: CsrRequest | None = None


@dataclass(frozen=True, slots=True)
class CertificateVerdict:
    """Result of a certificate check.

    ``not_after``: expiry, in seconds since the epoch. ``problem``: why the certificate cannot be served. ``failed``:
    the check itself failed and may be retried.
    """

    not_after: float = 0.0
    problem: str = ""
    failed: bool = False


@dataclass(frozen=True, slots=True)
class CsrResult:
    """CSR for a new key, and the encrypted key; ``problem`` and ``failed`` as in :class:`CertificateVerdict`."""

    csr_pem: str = ""
    key_age: str = ""
    problem: str = ""
    failed: bool = False


@dataclass(frozen=True, slots=True)
class CryptoResult:
    """Results of a :class:`CryptoTask`; None for anything not asked for."""

    verdict: CertificateVerdict | None = None
    csr: CsrResult | None = None


async def run_process(payload: Payload, command: Sequence[str] = _COMMAND, limit: float = LIMIT_SECONDS) -> Payload:
    """Run ``crypto_main`` on ``payload`` for at most ``limit`` seconds; the process never outlives the call.

    Raises:
        CryptoWorkerFailed: the process did not start, took too long, or ended without a result.
    """
    try:
        # Not asyncio's own subprocess: cancelled during the start, it waits for ever. A start takes a millisecond.
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)  # noqa: ASYNC220
    except OSError as error:
        raise CryptoWorkerFailed(f"the cryptography process could not be started: {error.strerror}") from error
    try:
        output, errors = await asyncio.to_thread(_communicate, process, json.dumps(payload).encode(), limit)
    except subprocess.TimeoutExpired:
        # Not "from": the exception holds the output so far.
        raise CryptoWorkerFailed(f"the cryptography process took longer than {limit:g} s") from None
    finally:
        process.kill()
        process.wait()
    try:
        results: Payload = json.loads(output)
    except ValueError:
        # Not "from": the exception would hold the output.
        last_line = errors.decode(errors="replace").strip().rpartition("\n")[2]
        raise CryptoWorkerFailed(
            f"the cryptography process exited with status {process.returncode}: {last_line or 'no message'}"
        ) from None
    return results


def _communicate(process: subprocess.Popen[bytes], payload: bytes, limit: float) -> tuple[bytes, bytes]:
    """Return the process's output and errors, and end the process. Raises TimeoutExpired."""
    with process:
        try:
            return process.communicate(payload, limit)
        except BaseException:
            process.kill()
            raise


class CryptoWorker:
    """Runner of cryptographic tasks with a cache of certificate checks. ``run`` is the process, or a fake in tests."""

    def __init__(self, run: Callable[[Payload], Awaitable[Payload]] = run_process) -> None:
        self._run = run
        self._cache: OrderedDict[bytes, CertificateVerdict] = OrderedDict()

    async def run_tasks(self, tasks: Sequence[CryptoTask]) -> list[CryptoResult]:
        """Return the results of ``tasks``, in the same order."""
        pairs = {task.pair.digest: task.pair for task in tasks if task.pair is not None}
        new = {digest: pair for digest, pair in pairs.items() if digest not in self._cache}
        requests = list(dict.fromkeys(task.request for task in tasks if task.request is not None))
        verdicts, csrs = dict(self._cache), dict[CsrRequest, CsrResult]()
        if new or requests:
            payload: Payload = {
                "certificates": [(pair.chain_pem, pair.key_pem) for pair in new.values()],
                "requests": [(request.id, request.host, request.recipients) for request in requests],
            }
            try:
                results = await self._run(payload)
            except CryptoWorkerFailed as error:
                verdicts |= dict.fromkeys(new, CertificateVerdict(problem=str(error), failed=True))
                csrs = dict.fromkeys(requests, CsrResult(problem=str(error), failed=True))
            else:
                checked = dict(zip(new, map(_verdict, results["certificates"]), strict=True))
                self._remember(checked)
                verdicts |= checked
                csrs = dict(zip(requests, map(_csr_result, results["requests"]), strict=True))
        return [
            CryptoResult(
                verdicts[task.pair.digest] if task.pair is not None else None,
                csrs[task.request] if task.request is not None else None,
            )
            for task in tasks
        ]

    def _remember(self, verdicts: Mapping[bytes, CertificateVerdict]) -> None:
        self._cache |= verdicts
        while len(self._cache) > _CACHE_SIZE:
            self._cache.popitem(last=False)


def _verdict(outcome: Mapping[str, Any]) -> CertificateVerdict:
    if "result" in outcome:
        return CertificateVerdict(not_after=outcome["result"])
    return CertificateVerdict(problem=outcome["unusable"])


def _csr_result(outcome: Mapping[str, Any]) -> CsrResult:
    if "result" in outcome:
        csr_pem, key_age = outcome["result"]
        return CsrResult(csr_pem, key_age)
    return CsrResult(problem=outcome["unusable"])
