from __future__ import annotations

import json

import pytest

from devopsellence.cli.output import CliError, Finding, NextAction, Output


def printed(capsys: pytest.CaptureFixture[str]) -> tuple[list[dict[str, object]], str]:
    out, err = capsys.readouterr()
    return [json.loads(line) for line in out.splitlines()], err


def test_a_result_is_one_document_with_the_common_fields(capsys: pytest.CaptureFixture[str]) -> None:
    Output(json=True).result("node list", "for a person", nodes=[])
    documents, err = printed(capsys)
    assert documents == [
        {"schema_version": 1, "operation": "node list", "event": "result", "ok": True, "nodes": [], "next_actions": []}
    ]
    assert err == ""


def test_a_streaming_command_prints_one_object_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    output = Output(json=True)
    output.event("deploy", "started")
    output.progress("deploy", "building", stage="build")
    output.result("deploy", None, release=1)
    documents, _ = printed(capsys)
    assert [document["event"] for document in documents] == ["started", "progress", "result"]
    assert documents[1]["message"] == "building"
    assert documents[1]["stage"] == "build"


def test_text_shows_results_and_progress_and_no_events(capsys: pytest.CaptureFixture[str]) -> None:
    output = Output()
    output.event("deploy", "started")
    output.progress("deploy", "building", stage="build")
    output.line("a line")
    output.result("deploy", "done", release=1)
    assert capsys.readouterr() == ("building\na line\ndone\n", "")


def test_quiet_leaves_results_and_warnings(capsys: pytest.CaptureFixture[str]) -> None:
    output = Output(quiet=True)
    output.progress("deploy", "building")
    output.line("a line")
    output.warning("look")
    output.result("deploy", "done")
    assert capsys.readouterr() == ("done\n", "Warning: look\n")


def test_lines_are_not_printed_into_json(capsys: pytest.CaptureFixture[str]) -> None:
    Output(json=True).line("a line")
    assert capsys.readouterr().out == ""


def test_output_is_not_live_without_a_terminal() -> None:
    output = Output()
    assert (output.is_tty, output.live, output.color) == (False, False, False)


@pytest.mark.parametrize(
    ("environ", "color"), [({}, True), ({"NO_COLOR": "1"}, False), ({"NO_COLOR": ""}, True), ({"TERM": "dumb"}, False)]
)
def test_colour_on_a_terminal(environ: dict[str, str], color: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    assert Output(environ=environ).color is color
    assert Output(json=True, environ=environ).color is False


ERROR = CliError(
    "config_invalid",
    "two problems",
    exit_code=2,
    findings=[
        Finding("config_invalid", "a.yml:1:1: x is required"),
        Finding("slow", "it is slow", "warning", "seen\ntwice", (NextAction("speed up", "make fast"),)),
    ],
    next_actions=[NextAction("check", "devopsellence config validate")],
)


def test_an_error_in_json_has_the_documented_shape(capsys: pytest.CaptureFixture[str]) -> None:
    output = Output(json=True)
    output.operation = "config validate"
    output.error(ERROR)
    documents, err = printed(capsys)
    assert documents == [
        {
            "schema_version": 1,
            "operation": "config validate",
            "event": "error",
            "ok": False,
            "error": {
                "code": "config_invalid",
                "message": "two problems",
                "exit_code": 2,
                "findings": [
                    {
                        "severity": "error",
                        "code": "config_invalid",
                        "message": "a.yml:1:1: x is required",
                        "evidence": "",
                        "next_actions": [],
                    },
                    {
                        "severity": "warning",
                        "code": "slow",
                        "message": "it is slow",
                        "evidence": "seen\ntwice",
                        "next_actions": [{"label": "speed up", "command": "make fast"}],
                    },
                    {
                        "severity": "error",
                        "code": "config_invalid",
                        "message": "two problems",
                        "evidence": "",
                        "next_actions": [{"label": "check", "command": "devopsellence config validate"}],
                    },
                ],
            },
            "next_actions": [
                {"label": "check", "command": "devopsellence config validate"},
                {"label": "speed up", "command": "make fast"},
            ],
        }
    ]
    assert err.startswith("Error: two problems\n")


def test_result_names_each_next_action_once(capsys: pytest.CaptureFixture[str]) -> None:
    deploy = NextAction("apply the change", "devopsellence deploy")
    Output(json=True).result("ingress set", None, next_actions=[deploy, deploy], changed=True)
    (document,), _ = printed(capsys)
    assert document["next_actions"] == [{"label": "apply the change", "command": "devopsellence deploy"}]
    assert document["changed"] is True


def test_colour_needs_a_terminal_and_no_flag_against_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    plain = Output(environ={"TERM": "xterm"})
    plain.no_color = True
    by_environment = Output(environ={"TERM": "xterm", "NO_COLOR": "1"})
    coloured = Output(environ={"TERM": "xterm"})
    assert [output.color for output in (coloured, plain, by_environment)] == [True, False, False]


def test_error_text_has_problem_place_and_fix() -> None:
    assert ERROR.text() == (
        "Error: two problems\n"
        "  a.yml:1:1: x is required\n"
        "  it is slow\n"
        "    seen\n"
        "    twice\n"
        "    speed up: make fast\n"
        "  check: devopsellence config validate"
    )


def test_finding_equal_to_error_is_printed_once() -> None:
    error = CliError("c", "one thing", findings=[Finding("c", "one thing", next_actions=(NextAction("do", "it"),))])
    assert error.text() == "Error: one thing\n    do: it"


def test_error_without_findings_is_a_single_finding() -> None:
    document = CliError("busy", "too busy").document()
    assert [each["message"] for each in document["findings"]] == ["too busy"]
