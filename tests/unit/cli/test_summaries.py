"""Summaries of commands: complete sentences on a single line of an 80-column terminal, beginning with a verb."""

from __future__ import annotations

import re
from importlib import import_module

import click
import pytest
from click.testing import CliRunner

from devopsellence.cli.main import COMMANDS, SECTIONS, main

VERBS = {
    *("add", "approve", "deny", "grant", "revoke"),
    *("attach", "build", "check", "configure", "cordon", "create", "delete", "detach", "encrypt", "install", "list"),
    *(
        "print",
        "register",
        "remove",
        "rename",
        "replace",
        "resume",
        "roll",
        "run",
        "set",
        "show",
        "start",
        "stop",
        "use",
    ),
    "validate",
}
COLUMNS = 80


def commands() -> dict[str, click.Command]:
    """All commands and groups below the root, by the words that call them."""
    found: dict[str, click.Command] = {}

    def walk(words: str, command: click.Command) -> None:
        found[words] = command
        if isinstance(command, click.Group):
            for name, child in command.commands.items():
                walk(f"{words} {name}", child)

    for name, (where, _) in COMMANDS.items():
        module, _, attribute = where.partition(":")
        walk(name, getattr(import_module(module), attribute))
    return found


def summary(command: click.Command) -> str:
    """First paragraph of a command's help."""
    return " ".join((command.help or "").partition("\n\n")[0].split())


GROUPS = ["", *(words for words, command in commands().items() if isinstance(command, click.Group))]


@pytest.mark.parametrize(("words", "command"), commands().items(), ids=str)
def test_summary_is_a_sentence_beginning_with_a_verb(words: str, command: click.Command) -> None:
    text = summary(command)
    assert text.split()[0].rstrip(",").lower() in VERBS
    assert re.fullmatch(r"[A-Z]((?!\. ).)*\.", text), f"{words}: not one sentence"


@pytest.mark.parametrize("name", COMMANDS)
def test_root_help_agrees_with_help_of_command(name: str) -> None:
    assert summary(commands()[name]) == COMMANDS[name][1]


@pytest.mark.parametrize("words", GROUPS)
def test_summaries_fit_into_group_help_at_80_columns(words: str) -> None:
    result = CliRunner().invoke(main, [*words.split(), "--help"], env={"COLUMNS": str(COLUMNS)})
    lines = result.output.splitlines()
    assert max(map(len, lines)) <= COLUMNS or words  # examples are not wrapped
    if words:
        group = commands()[words]
        assert isinstance(group, click.Group)
        children = {name: summary(child) for name, child in group.commands.items()}
    else:
        children = {name: text for name, (_, text) in COMMANDS.items()}
    for name, text in children.items():
        assert any(re.fullmatch(rf"  {re.escape(name)} +{re.escape(text)}", line) for line in lines), name


def test_root_help_has_sections() -> None:
    output = CliRunner().invoke(main, ["--help"]).output
    positions = [output.index(f"\n{section}:\n") for section in ("Getting started", "Deploy", "Cluster")]
    assert positions == sorted(positions)
    assert list(SECTIONS) == ["Getting started", "Deploy", "Cluster"]


@pytest.mark.parametrize(("words", "command"), commands().items(), ids=str)
def test_options_have_help_ending_with_a_period(words: str, command: click.Command) -> None:
    options = [param for param in command.params if isinstance(param, click.Option) and not param.hidden]
    texts = [re.sub(r"  \[(env|default): .*\]$", "", option.help or "") for option in options]
    assert [text for text in texts if not re.fullmatch(r"[A-Za-z].*\.", text)] == []
