"""Text from hostile nodes through the real renderers and the real output, in a pipe and on a terminal."""

from __future__ import annotations

import json
from collections.abc import Callable
from copy import deepcopy
from typing import Final

import pytest
from rich.text import Text

from devopsellence.api.v1.agent_pb2 import DiagnoseAnswer
from devopsellence.api.v1.audit_pb2 import AuditEntry
from devopsellence.api.v1.stored_pb2 import Event
from devopsellence.cli.agent import diagnose
from devopsellence.cli.agent.log_line import OutputLine
from devopsellence.cli.agent.log_render import JsonRenderer, TextRenderer
from devopsellence.cli.audit import render
from devopsellence.cli.commands.app import events
from devopsellence.cli.output import CheckResult, CliError, Finding, NextAction, Output
from devopsellence.cli.render import screen
from devopsellence.cli.render import text as status_text
from devopsellence.cli.render.lines import LineReporter
from devopsellence.cli.store.snapshot import Snapshot
from devopsellence.cli.util.text import columns
from tests.support.hostile import TEXT, fill, unsafe
from tests.unit.cli.render.snapshots import NOW, snapshot

STEP: Final = NextAction(TEXT, TEXT)
ERROR: Final = CliError(TEXT, TEXT, next_actions=[STEP], findings=[Finding(TEXT, f"x{TEXT}", "error", TEXT, (STEP,))])
Print = Callable[[Output], None]


def hostile_snapshot() -> Snapshot:
    state = deepcopy(snapshot())
    for record in (state.release, state.rollout, *state.statuses.values()):
        if record is not None:
            fill(record)
    return state


def status(output: Output) -> None:
    output.result("status", status_text.status(hostile_snapshot(), NOW))


def live_status(output: Output) -> None:
    output.console().print(screen.status(hostile_snapshot(), NOW, 100, everything=True))


def followed_rollout(output: Output) -> None:
    LineReporter(output, "deploy", whole=True, everything=True).show(hostile_snapshot(), 2)


def diagnosis(output: Output) -> None:
    answer = DiagnoseAnswer()
    fill(answer)
    output.result("node diagnose", diagnose.text(answer))


def table_of_events(output: Output) -> None:
    event = Event()
    fill(event)
    output.result("events", columns(("A", "B", "C", "D", "E"), [events._cells(event)]))


def table_of_audit_entries(output: Output) -> None:
    entry = AuditEntry()
    fill(entry)
    output.result("audit", columns(render.HEADER, [render.row(entry)]))


def text_that_nobody_made_safe(output: Output) -> None:
    output.line(TEXT)
    output.progress("deploy", TEXT)
    output.warning(TEXT)
    output.note(TEXT)
    output.result("status", TEXT)
    output.console().print(Text(TEXT), TEXT)


def checks(output: Output) -> None:
    results = [CheckResult(TEXT, severity, TEXT, TEXT, (STEP,)) for severity in ("ok", "warning", "error")]
    output.result("doctor", "\n".join(result.text() for result in results))


CASES: Final[list[Print]] = [
    status,
    live_status,
    followed_rollout,
    diagnosis,
    table_of_events,
    table_of_audit_entries,
    text_that_nobody_made_safe,
    checks,
    lambda output: output.error(ERROR),
]


@pytest.mark.parametrize("on_terminal", [False, True])
@pytest.mark.parametrize("case", CASES)
def test_terminal_gets_no_control_characters_of_a_record(
    case: Print, on_terminal: bool, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    if on_terminal:
        monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    case(Output(environ={"TERM": "xterm-256color"}))
    out, err = capsys.readouterr()
    assert out + err
    assert not unsafe(out, coloured=on_terminal)
    assert not unsafe(err)
    # A colour of the record itself, which would hide what follows.
    assert "\x1b[8m" not in out


def test_message_of_a_record_makes_no_line_of_its_own() -> None:
    assert len(ERROR.text().splitlines()) == 4 + len(TEXT.splitlines())
    assert len(CheckResult("a", "error", TEXT).text().splitlines()) == 1


def test_json_has_the_value_and_no_control_characters(capsys: pytest.CaptureFixture[str]) -> None:
    output = Output(json=True)
    output.event("status", "progress", message=TEXT)
    output.result("status", None, reason=TEXT)
    output.error(ERROR)
    out, _ = capsys.readouterr()
    assert not unsafe(out)
    assert [json.loads(line).get("message") for line in out.splitlines()] == [TEXT, None, None]


@pytest.mark.parametrize("terminal", [False, True])
def test_prefix_of_a_log_line_has_no_control_characters(terminal: bool) -> None:
    line = OutputLine("n1", TEXT, "c", False, 0, b"text")
    shown = TextRenderer([], prefix=True, terminal=terminal, color=False, timestamps=False)(line).decode()
    assert not unsafe(shown)
    assert not unsafe(JsonRenderer("logs")(line).decode())
