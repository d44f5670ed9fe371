"""The process that knows the cryptography library: it answers, and is never left behind."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import psutil
import pytest

from devopsellence.age import Identity
from devopsellence.nodeagent.ingress.crypto_worker import (
    Aside,
    AsideFailed,
    Pair,
    Question,
    Request,
    Said,
    Verdict,
    run,
)
from tests.integration.nodeagent.harness import soon
from tests.unit.nodeagent.ingress.certificates import UNTIL, make

HOST = "app.example.com"
NOTHING: Said = {"certificates": [], "requests": []}
HANGS = (sys.executable, "-c", "import time; time.sleep(3600)")


async def test_it_judges_two_hundred_certificates_and_makes_a_key() -> None:
    node = Identity.generate()
    _, chain, key = make(HOST)
    pairs = [Pair(chain + "\n" * number, key) for number in range(200)]
    request = Request("ab", HOST, (node.recipient,))
    answers = await Aside().ask([*map(Question, pairs), Question(Pair("none", key), request)])
    assert [each.verdict for each in answers[:-1]] == [Verdict(UNTIL.timestamp())] * 200
    assert answers[-1].verdict == Verdict(problem="it is no certificate in PEM")
    assert answers[-1].made is not None
    assert b"PRIVATE KEY" in node.open(answers[-1].made.key_age)


def hanging() -> list[psutil.Process]:
    return [child for child in psutil.Process().children() if _hangs(child)]


def _hangs(child: psutil.Process) -> bool:
    try:
        return tuple(child.cmdline()) == HANGS
    except (psutil.NoSuchProcess, psutil.ZombieProcess):
        # Somebody else's, left behind.
        return False


async def test_one_that_hangs_is_ended() -> None:
    with pytest.raises(AsideFailed, match=r"^the process for it took longer than 0\.2 s$"):
        await run(NOTHING, HANGS, 0.2)
    assert not hanging()


async def test_one_that_nobody_waits_for_any_more_is_ended() -> None:
    task = asyncio.create_task(run(NOTHING, HANGS))

    async def runs() -> bool:
        return bool(hanging())

    await soon("it runs", runs, seconds=60)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not hanging()


@pytest.mark.parametrize(
    ("program", "why"),
    [
        ("import nothing_of_that_name", "ended with 1: ModuleNotFoundError: No module named 'nothing_of_that_name'"),
        ("raise SystemExit(3)", "ended with 3: no word"),
        ("print('half')", "ended with 0: no word"),
    ],
    ids=["cannot be imported", "ends", "no answer"],
)
async def test_one_that_does_not_answer_says_why(program: str, why: str) -> None:
    with pytest.raises(AsideFailed) as raised:
        await run({"certificates": [["chain", "s3cret"]], "requests": []}, (sys.executable, "-c", program))
    assert str(raised.value) == f"the process for it {why}"
    assert raised.value.__cause__ is None


async def test_one_that_cannot_be_started(tmp_path: Path) -> None:
    with pytest.raises(AsideFailed, match=r"^no process could be started for it: No such file or directory$"):
        await run(NOTHING, (str(tmp_path / "python"),))
