"""Short names of commands."""

from __future__ import annotations

import click
import pytest
from click.testing import CliRunner

from devopsellence.cli.groups import ALIASES, CommandGroup
from devopsellence.cli.main import main
from tests.unit.cli.tree import commands

GROUPS = {words: command for words, command in commands().items() if isinstance(command, click.Group)}
SHORT = [
    (f"{words} {alias}", f"{words} {name}")
    for words, group in GROUPS.items()
    for alias, names in ALIASES.items()
    for name in names
    if name in group.commands and alias not in group.commands
]


def test_every_group_accepts_short_names() -> None:
    assert [words for words, group in GROUPS.items() if not isinstance(group, CommandGroup)] == []
    called = {short for short, _ in SHORT}
    assert {"node ls", "node rm", "secret ls", "secret rm", "ingress cert rm", "release ls", "task ls"} <= called


@pytest.mark.parametrize(("short", "words"), SHORT)
def test_short_name_calls_the_command_under_its_own_name(short: str, words: str) -> None:
    expected = CliRunner().invoke(main, [*words.split(), "--help"]).output
    assert CliRunner().invoke(main, [*short.split(), "--help"]).output == expected
    assert f"Usage: devopsellence {words} " in expected


@pytest.mark.parametrize("words", GROUPS)
def test_short_names_are_not_listed(words: str) -> None:
    listed = CliRunner().invoke(main, [*words.split(), "--help"]).output.partition("Commands:\n")[2]
    assert {line.split()[0] for line in listed.splitlines() if line.startswith("  ") and line[2:3].strip()} <= {
        *GROUPS[words].commands,
        "Global",
        "devopsellence",
    }


def test_unknown_command_of_a_group_is_a_usage_error() -> None:
    result = CliRunner().invoke(main, ["task", "rm", "x"])
    assert result.exit_code == 2
    assert "No such command 'rm'" in result.stderr
