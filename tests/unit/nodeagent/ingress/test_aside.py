"""What is asked of a process, how often, and what becomes of its answer."""

from __future__ import annotations

import json

from devopsellence.age import Identity
from devopsellence.nodeagent.ingress.crypto_main import answered
from devopsellence.nodeagent.ingress.crypto_worker import (
    Answer,
    Aside,
    AsideFailed,
    Made,
    Pair,
    Question,
    Request,
    Said,
    Verdict,
)
from tests.unit.nodeagent.ingress.certificates import UNTIL, make

HOST = "app.example.com"
NODE = Identity.generate()
GOOD, OTHER = (Pair(*make(HOST)[1:]) for _ in range(2))
MIXED = Pair(GOOD.chain_pem, OTHER.key_pem)
REQUEST = Request("ab", HOST, (NODE.recipient,))
VALID = Answer(Verdict(UNTIL.timestamp()))


class Process:
    """Answers as the real one, or not at all; remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[Said] = []
        self.works = True

    async def __call__(self, said: Said) -> Said:
        self.asked.append(json.loads(json.dumps(said)))
        if not self.works:
            raise AsideFailed("no process could be started for it")
        return answered(self.asked[-1])


async def test_many_questions_are_one_process_and_each_has_its_answer() -> None:
    process = Process()
    questions = [Question(GOOD), Question(), Question(MIXED, REQUEST), Question(GOOD), Question(OTHER)]
    first, none, mixed, same, other = await Aside(process).ask(questions)
    assert (first, none, same, other) == (VALID, Answer(), VALID, VALID)
    assert mixed.verdict == Verdict(problem="its key belongs to another certificate")
    assert mixed.made is not None
    assert mixed.made.csr_pem.startswith("-----BEGIN CERTIFICATE REQUEST-----")
    assert b"PRIVATE KEY" in NODE.open(mixed.made.key_age)
    (asked,) = process.asked
    assert (len(asked["certificates"]), len(asked["requests"])) == (3, 1)


async def test_what_was_found_of_a_certificate_is_remembered_and_a_key_is_not() -> None:
    process = Process()
    aside = Aside(process)
    for _ in range(2):
        assert await aside.ask([Question(GOOD), Question(MIXED)]) == [
            VALID,
            Answer(Verdict(problem="its key belongs to another certificate")),
        ]
    assert len(process.asked) == 1
    keys = [(await aside.ask([Question(request=REQUEST)]))[0].made for _ in range(2)]
    assert keys[0] != keys[1]
    assert len(process.asked) == 3
    assert await aside.ask([]) == []
    assert len(process.asked) == 3


async def test_without_an_answer_nothing_is_known_and_it_is_asked_again() -> None:
    process = Process()
    aside = Aside(process)
    await aside.ask([Question(OTHER)])
    process.works = False
    why = "no process could be started for it"
    assert await aside.ask([Question(GOOD, REQUEST), Question(OTHER)]) == [
        Answer(Verdict(problem=why, failed=True), Made(problem=why, failed=True)),
        VALID,
    ]
    process.works = True
    assert await aside.ask([Question(GOOD)]) == [VALID]


def test_a_private_key_is_in_no_repr() -> None:
    assert "PRIVATE" not in repr(Question(GOOD, REQUEST))
