"""docs/cli.md keeps up with the commands."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from devopsellence.cli.main import COMMANDS
from devopsellence.cli.options import CONNECTION_FLAGS
from tests.unit.cli.test_main import everything

PROJECT = Path(__file__).parents[3]
DOCS = (PROJECT / "docs" / "cli.md").read_text()
SOURCES = "\n".join(
    path.read_text()
    for path in sorted((PROJECT / "cli/devopsellence/cli").glob("**/*.py"))
    if "dev" not in (path.stem, path.parent.name)
)


@pytest.mark.parametrize("words", [words for words, command in everything() if not hasattr(command, "commands")])
def test_every_command_has_an_example(words: str) -> None:
    assert f"devopsellence {words}" in DOCS


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_is_in_the_overview(name: str) -> None:
    assert f"`{name}" in DOCS.partition("\n## ")[0]


@pytest.mark.parametrize("flag", [flag for flag, *_ in CONNECTION_FLAGS])
def test_every_connection_flag_is_named(flag: str) -> None:
    assert f"`{flag}`" in DOCS


@pytest.mark.parametrize("code", sorted(set(re.findall(r'CliError\(\s*"([a-z_]+)"', SOURCES))))
def test_every_error_code_is_named(code: str) -> None:
    assert f"`{code}`" in DOCS
