"""``secret`` on a terminal: a value is asked for without echo, a deletion is asked about."""

from __future__ import annotations

from devopsellence.age import AgeIdentity
from tests.integration.cli.secret_operator import Operator
from tests.integration.cli.test_terminal import Terminal


def test_typed_secret_is_asked_twice_and_hidden(ann: Operator) -> None:
    terminal = Terminal(ann, "secret", "set", "DATABASE_URL", "--service", "web")
    terminal.read_until(b"Value")
    terminal.type(b"hunter2\r")
    terminal.read_until(b"Repeat")
    terminal.type(b"hunter3\r")
    # What does not agree is asked for again.
    terminal.read_until(b"do not match")
    for word in (b"Value", b"Repeat"):
        terminal.read_until(word, times=2)
        terminal.type(b"hunter2\r")
    terminal.read_until(b"is set: version 1")
    assert terminal.end() == 0
    assert b"hunter" not in terminal.seen
    secret = ann.stored("DATABASE_URL")
    assert secret is not None
    assert AgeIdentity(ann.path.read_text()).decrypt(secret.versions[0].age) == b"hunter2"


def test_control_c_while_typing_writes_nothing(ann: Operator) -> None:
    terminal = Terminal(ann, "secret", "set", "DATABASE_URL", "--service", "web")
    terminal.read_until(b"Value")
    terminal.type(b"hunt\x03")
    assert terminal.end() == 130
    assert b"Traceback" not in terminal.seen
    assert ann.stored("DATABASE_URL") is None


def test_secret_deletion_asks_for_confirmation(ann: Operator) -> None:
    ann.set("DATABASE_URL", b"value")
    for answer, stays in ((b"n\r", True), (b"y\r", False)):
        terminal = Terminal(ann, "secret", "delete", "DATABASE_URL", "--service", "web")
        terminal.read_until(b"[y/N]")
        terminal.type(answer)
        terminal.end()
        assert (ann.stored("DATABASE_URL") is not None) == stays
