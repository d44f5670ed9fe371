"""One name for one thing: flags over the whole tree of commands."""

from __future__ import annotations

import json
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from devopsellence.cli.main import main
from devopsellence.cli.options import AliasedOption, add_global_options, global_flags, note_problem
from devopsellence.cli.output import Output, pass_output
from tests.unit.cli.tree import commands, leaves


def option(words: str, name: str) -> click.Option:
    return next(param for param in leaves()[words].params if isinstance(param, click.Option) and name in param.opts)


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, list(arguments))


#: Commands whose ``--environment`` has patterns of environments.
WITH_PATTERNS = {"operator add", "operator grant", "operator revoke", "operator token create"}


@pytest.mark.parametrize("words", commands())
@pytest.mark.parametrize("flag", ["--env", "--environment", "--no-color", "--quiet", "--output", "--etcd-endpoints"])
def test_every_command_takes_the_global_flags(words: str, flag: str) -> None:
    (found,) = [param for param in commands()[words].params if flag in param.opts]
    assert found.expose_value is (words in WITH_PATTERNS and flag in ("--env", "--environment"))


@pytest.mark.parametrize("words", commands())
def test_help_of_every_command_points_to_the_global_flags(words: str) -> None:
    assert "Global options, such as --quiet" in run(*words.split(), "--help").output


ALIASES = [
    ("ingress set", "--tls", "--tls-mode"),
    ("ingress set", "--email", "--tls-email"),
    ("ingress set", "--ca-directory-url", "--acme-ca"),
    ("init", "--organization", "--org"),
    ("init", "--env", "--environment"),
    ("logs", "--lines", "--tail"),
]


@pytest.mark.parametrize(("words", "name", "alias"), ALIASES)
def test_alias_is_the_same_option_and_not_in_the_help(words: str, name: str, alias: str) -> None:
    found = option(words, name)
    assert isinstance(found, AliasedOption)
    assert alias in found.opts
    shown = run(*words.split(), "--help").output
    assert name in shown
    assert f"{alias} " not in shown


@pytest.mark.parametrize("flag", ["--lines", "-n", "--tail"])
def test_value_of_an_alias_is_that_of_the_option(flag: str) -> None:
    result = run("logs", flag, "many")
    assert result.exit_code == 2
    assert "'many' is neither a number of lines nor 'all'" in result.stderr


@pytest.mark.parametrize("flag", ["--env", "--environment"])
def test_environment_has_one_value_under_both_names(flag: str) -> None:
    @click.command()
    @click.pass_context
    def show(ctx: click.Context) -> None:
        click.echo(global_flags(ctx)["environment"])

    add_global_options(show)
    assert CliRunner().invoke(show, [flag, "staging"], obj=Output()).output == "staging\n"


def test_no_color_is_heard_by_the_output() -> None:
    @click.command()
    @pass_output
    def show(output: Output) -> None:
        click.echo(output.no_color)

    add_global_options(show)
    assert CliRunner().invoke(show, ["--no-color"], obj=Output()).output == "True\n"
    assert CliRunner().invoke(show, [], obj=Output()).output == "False\n"


@pytest.mark.parametrize("words", ["node label set", "node label remove"])
def test_labels_are_given_in_the_same_way(words: str) -> None:
    assert option(words, "--labels")
    assert [param.name for param in leaves()[words].params if isinstance(param, click.Argument)] == ["name", "more"]
    result = run(*words.split(), "n1")
    assert result.exit_code == 2
    assert "Give at least one label" in result.stderr


CONFIG = """\
schema_version: 1
organization: acme
project: shop
services:
  web:
    ports: [{name: http, port: 3000}]
    healthcheck: {path: /up}
"""


def test_ingress_takes_the_option_names_of_earlier_tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    written = []
    for options in (
        "--host a.example.com --host b.example.com --tls auto --email o@example.com --ca-directory-url https://ca.test/d",
        "--host a.example.com,b.example.com --tls-mode auto --tls-email o@example.com --acme-ca https://ca.test/d",
    ):
        (tmp_path / "devopsellence.yml").write_text(CONFIG)
        result = run("ingress", "set", *options.split(), "-o", "json")
        assert result.exit_code == 0, result.output
        assert [step["command"] for step in json.loads(result.stdout)["next_actions"]] == ["devopsellence deploy"]
        written.append((tmp_path / "devopsellence.yml").read_text())
    assert written[0] == written[1]
    assert "b.example.com" in written[0]


@pytest.mark.parametrize("mode", [[], ["--mode", "solo"], ["--mode", "shared"]])
def test_init_takes_the_option_names_of_earlier_tools(
    mode: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = run("init", "--org", "acme", "--project", "shop", "--env", "staging", "--non-interactive", *mode)
    assert result.exit_code == 0, result.output
    text = (tmp_path / "devopsellence.yml").read_text()
    assert "organization: acme" in text
    assert "default_environment: staging" in text


def test_init_takes_the_environment_before_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert run("--env", "staging", "init", "--org", "acme").exit_code == 0
    assert "default_environment: staging" in (tmp_path / "devopsellence.yml").read_text()


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", ""),
        ("new search, größer 👩‍💻", ""),
        ("x" * 500, ""),
        ("x" * 501, "it has 501 characters; a note has at most 500"),
        ("two\nlines", "it has the control character U+000A; a note is one line of text"),
        ("a\ttab", "it has the control character U+0009; a note is one line of text"),
        ("\x1b[31mred", "it has the control character U+001B; a note is one line of text"),
        ("c1\x9b31m", "it has the control character U+009B; a note is one line of text"),
        ("two\u2028lines", "it has the control character U+2028; a note is one line of text"),
        ("\udcff", "it has the control character U+DCFF; a note is one line of text"),
    ],
)
def test_note_is_one_line_of_bounded_text(text: str, problem: str) -> None:
    assert note_problem(text) == problem


@pytest.mark.parametrize("words", ["deploy", "release rollback"])
def test_note_of_several_lines_is_refused_before_anything_else(words: str) -> None:
    result = CliRunner().invoke(main, [*words.split(), "-m", "two\nlines", "-o", "json"])
    assert result.exit_code == 2
    assert "one line of text" in result.stderr
