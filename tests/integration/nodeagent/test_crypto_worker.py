"""Process for cryptography: ends after its work, and is never left behind."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import psutil
import pytest

from devopsellence.age import AgeIdentity
from devopsellence.nodeagent.ingress.crypto_worker import (
    CertificatePair,
    CertificateVerdict,
    CryptoTask,
    CryptoWorker,
    CryptoWorkerFailed,
    CsrRequest,
    Payload,
    run_process,
)
from tests.support.host_certificates import EXPIRY, make_certificate
from tests.support.until import eventually

HOST = "app.example.com"
NOTHING: Payload = {"certificates": [], "requests": []}
HANGS = (sys.executable, "-c", "import time; time.sleep(3600)")


async def test_worker_checks_two_hundred_certificates_and_creates_a_key() -> None:
    node = AgeIdentity.generate()
    _, chain, key = make_certificate(HOST)
    pairs = [CertificatePair(chain + "\n" * number, key) for number in range(200)]
    request = CsrRequest("ab", HOST, (node.recipient,))
    results = await CryptoWorker().run_tasks(
        [*map(CryptoTask, pairs), CryptoTask(CertificatePair("none", key), request)]
    )
    assert [result.verdict for result in results[:-1]] == [CertificateVerdict(EXPIRY.timestamp())] * 200
    assert results[-1].verdict == CertificateVerdict(problem="it is not a certificate in PEM format")
    assert results[-1].csr is not None
    assert b"PRIVATE KEY" in node.decrypt(results[-1].csr.key_age)


def hanging() -> list[psutil.Process]:
    return [child for child in psutil.Process().children() if _hangs(child)]


def _hangs(child: psutil.Process) -> bool:
    try:
        return tuple(child.cmdline()) == HANGS
    except (psutil.NoSuchProcess, psutil.ZombieProcess):
        # Somebody else's, left behind.
        return False


async def test_hanging_worker_is_killed() -> None:
    with pytest.raises(CryptoWorkerFailed, match=r"0\.2 s"):
        await run_process(NOTHING, HANGS, 0.2)
    assert not hanging()


async def test_abandoned_worker_is_killed() -> None:
    task = asyncio.create_task(run_process(NOTHING, HANGS))

    async def runs() -> bool:
        return bool(hanging())

    await eventually("it runs", runs, seconds=60)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not hanging()


@pytest.mark.parametrize(
    ("program", "reason"),
    [
        (
            "import nothing_of_that_name",
            "exited with status 1: ModuleNotFoundError: No module named 'nothing_of_that_name'",
        ),
        ("raise SystemExit(3)", "exited with status 3: no message"),
        ("print('half')", "exited with status 0: no message"),
    ],
    ids=["cannot be imported", "ends", "no answer"],
)
async def test_failed_worker_reports_the_reason(program: str, reason: str) -> None:
    with pytest.raises(CryptoWorkerFailed) as raised:
        await run_process({"certificates": [["chain", "s3cret"]], "requests": []}, (sys.executable, "-c", program))
    assert str(raised.value) == f"the cryptography process {reason}"
    assert raised.value.__cause__ is None


async def test_unstartable_worker_is_reported(tmp_path: Path) -> None:
    with pytest.raises(CryptoWorkerFailed, match="No such file or directory"):
        await run_process(NOTHING, (str(tmp_path / "python"),))
