"""Batches of cryptographic tasks, cached verdicts, and failures of the process."""

from __future__ import annotations

import json

from devopsellence.age import AgeIdentity
from devopsellence.nodeagent.ingress.crypto_main import run_tasks
from devopsellence.nodeagent.ingress.crypto_worker import (
    CertificatePair,
    CertificateVerdict,
    CryptoResult,
    CryptoTask,
    CryptoWorker,
    CryptoWorkerFailed,
    CsrRequest,
    CsrResult,
    Payload,
)
from tests.support.host_certificates import EXPIRY, make_certificate

HOST = "app.example.com"
NODE = AgeIdentity.generate()
GOOD, OTHER = (CertificatePair(*make_certificate(HOST)[1:]) for _ in range(2))
MIXED = CertificatePair(GOOD.chain_pem, OTHER.key_pem)
REQUEST = CsrRequest("ab", HOST, (NODE.recipient,))
VALID = CryptoResult(CertificateVerdict(EXPIRY.timestamp()))


class FakeProcess:
    """Runs tasks in this process, or fails; records its payloads."""

    def __init__(self) -> None:
        self.payloads: list[Payload] = []
        self.works = True

    async def __call__(self, payload: Payload) -> Payload:
        self.payloads.append(json.loads(json.dumps(payload)))
        if not self.works:
            raise CryptoWorkerFailed("the cryptography process could not be started")
        return run_tasks(self.payloads[-1])


async def test_tasks_of_a_batch_share_a_process() -> None:
    process = FakeProcess()
    tasks = [CryptoTask(GOOD), CryptoTask(), CryptoTask(MIXED, REQUEST), CryptoTask(GOOD), CryptoTask(OTHER)]
    first, none, mixed, same, other = await CryptoWorker(process).run_tasks(tasks)
    assert (first, none, same, other) == (VALID, CryptoResult(), VALID, VALID)
    assert mixed.verdict == CertificateVerdict(problem="its key belongs to another certificate")
    assert mixed.csr is not None
    assert mixed.csr.csr_pem.startswith("-----BEGIN CERTIFICATE REQUEST-----")
    assert b"PRIVATE KEY" in NODE.decrypt(mixed.csr.key_age)
    (payload,) = process.payloads
    assert (len(payload["certificates"]), len(payload["requests"])) == (3, 1)


async def test_certificate_results_are_cached_and_keys_are_not() -> None:
    process = FakeProcess()
    worker = CryptoWorker(process)
    for _ in range(2):
        assert await worker.run_tasks([CryptoTask(GOOD), CryptoTask(MIXED)]) == [
            VALID,
            CryptoResult(CertificateVerdict(problem="its key belongs to another certificate")),
        ]
    assert len(process.payloads) == 1
    keys = [(await worker.run_tasks([CryptoTask(request=REQUEST)]))[0].csr for _ in range(2)]
    assert keys[0] != keys[1]
    assert len(process.payloads) == 3
    assert await worker.run_tasks([]) == []
    assert len(process.payloads) == 3


async def test_failed_process_is_retried() -> None:
    process = FakeProcess()
    worker = CryptoWorker(process)
    await worker.run_tasks([CryptoTask(OTHER)])
    process.works = False
    problem = "the cryptography process could not be started"
    assert await worker.run_tasks([CryptoTask(GOOD, REQUEST), CryptoTask(OTHER)]) == [
        CryptoResult(CertificateVerdict(problem=problem, failed=True), CsrResult(problem=problem, failed=True)),
        VALID,
    ]
    process.works = True
    assert await worker.run_tasks([CryptoTask(GOOD)]) == [VALID]


def test_repr_hides_private_keys() -> None:
    assert "PRIVATE" not in repr(CryptoTask(GOOD, REQUEST))
