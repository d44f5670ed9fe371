from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from devopsellence.cli.main import COMMANDS, main
from devopsellence.cli.options import add_global_options, global_flags
from devopsellence.cli.output import CliError, Output, pass_output
from devopsellence.cli.util.version import installed_version


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, list(arguments))


def everything() -> list[tuple[str, click.Command]]:
    """All commands with the words that call them, those of the local cluster left to their own tests."""
    found: list[tuple[str, click.Command]] = []

    def walk(words: str, command: click.Command) -> None:
        found.append((words, command))
        if isinstance(command, click.Group):
            for name, child in command.commands.items():
                walk(f"{words} {name}", child)

    for name, (where, _) in COMMANDS.items():
        if name != "dev":
            module, _, attribute = where.partition(":")
            walk(name, getattr(import_module(module), attribute))
    return found


@pytest.mark.parametrize("words", [words for words, _ in everything()])
@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_every_command_has_help_with_an_example_that_uses_it(words: str, flag: str) -> None:
    result = run(*words.split(), flag)
    assert result.exit_code == 0
    assert f"Usage: devopsellence {words}" in result.output
    example = result.output.partition("Example:")[2]
    assert f"devopsellence {words}" in example


GROUPS = [words for words, command in everything() if isinstance(command, click.Group)]


@pytest.mark.parametrize("words", ["", *GROUPS])
@pytest.mark.parametrize("flags", [[], ["-q"], ["-o", "json"]])
def test_group_without_command_prints_its_help(words: str, flags: list[str]) -> None:
    result = run(*words.split(), *flags)
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout == run(*words.split(), "--help").stdout


@pytest.mark.parametrize("words", ["", *(words for words, _ in everything())])
def test_help_command_prints_the_help_of_the_option(words: str) -> None:
    result = run("help", *words.split())
    assert (result.exit_code, result.stdout) == (0, run(*words.split(), "--help").stdout)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("deplyo", "No such command 'deplyo'. Did you mean deploy?"),
        ("node regster", "No such command 'regster'. Did you mean 'register'?"),
        ("deploy now", "devopsellence deploy has no subcommands."),
    ],
)
def test_help_of_an_unknown_command_is_a_usage_error(words: str, message: str) -> None:
    result = run("help", *words.split())
    assert (result.exit_code, result.stdout) == (2, "")
    assert message in result.stderr


def test_version_command_prints_the_version_of_the_option() -> None:
    line = run("--version").stdout
    assert line.startswith("devopsellence ")
    assert run("version").stdout == line
    assert json.loads(run("version", "-o", "json").stdout)["version"] == installed_version()


VALID = "schema_version: 1\norganization: acme\nproject: shop\nservices: {job: {image: redis}}\n"


def test_configuration_is_read_from_stdin() -> None:
    runner = CliRunner()
    assert runner.invoke(main, ["config", "validate", "-"], input=VALID).stdout.startswith(
        "stdin is valid: services job"
    )
    assert "image: redis" in runner.invoke(main, ["config", "resolve", "-"], input=VALID).stdout
    refused = runner.invoke(main, ["config", "validate", "-"], input=VALID.replace("image", "imgae"))
    assert refused.exit_code == 2
    assert 'stdin:4:18: services.job.imgae is not a known key; did you mean "image"?' in refused.stderr


@pytest.mark.parametrize("command", ["validate", "resolve"])
def test_missing_configuration_has_its_own_code(tmp_path: Path, command: str) -> None:
    result = run("config", command, str(tmp_path / "missing.yml"), "-o", "json")
    error = json.loads(result.stdout)["error"]
    assert (result.exit_code, error["code"]) == (2, "config_missing")
    assert "missing.yml:1:1: file not found" in error["message"]


def test_root_help_lists_every_command_with_summary() -> None:
    result = run("--help")
    assert result.exit_code == 0
    for name, (_, sentence) in COMMANDS.items():
        assert f"  {name} " in result.output
        assert sentence in result.output


def test_completion_offers_commands_without_importing_them() -> None:
    ctx = click.Context(main)
    offered = main.shell_complete(ctx, "st")
    assert [(each.value, each.help) for each in offered] == [("status", COMMANDS["status"][1])]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["doctr"], "No such command 'doctr'. Did you mean doctor?"),
        (["zzz"], "No such command 'zzz'."),
        (["deploy", "--no-such-flag"], "No such option"),
        (["-o", "yaml", "status"], "'yaml' is not one of 'text', 'json'"),
        (["node", "register"], "Missing argument 'NAME'"),
        (["release", "show", "zero"], "'zero' is not a valid integer"),
        (["completion", "tcsh"], "'tcsh' is not one of"),
    ],
)
def test_usage_errors_are_exit_code_2_on_stderr(arguments: list[str], message: str) -> None:
    result = run(*arguments)
    assert result.exit_code == 2
    assert message in result.stderr
    assert result.stdout == ""
    assert "Traceback" not in result.output


@pytest.mark.parametrize(
    "arguments",
    [
        ["node", "register", "-o", "json"],
        ["-o", "json", "node", "register"],
        ["node", "-o", "json", "register"],
        # The parser stops here before any option takes effect.
        ["node", "register", "--no-such", "-o", "json"],
        ["node", "register", "--no-such", "--output=json"],
    ],
)
def test_usage_error_in_json_is_an_object_on_stdout(arguments: list[str]) -> None:
    result = run(*arguments)
    assert result.exit_code == 2
    document = json.loads(result.stdout)
    assert (document["event"], document["ok"], document["error"]["code"]) == ("error", False, "usage")
    assert document["error"]["exit_code"] == 2


def command(callback_error: Exception | None = None) -> click.Group:
    """A root with one command under a group, wired as the real ones are."""

    @click.group()
    def root() -> None: ...

    @root.group()
    def outer() -> None: ...

    @outer.command()
    @pass_output
    @click.pass_context
    def inner(ctx: click.Context, output: Output) -> None:
        if callback_error:
            raise callback_error
        output.result(output.operation, f"quiet={output.quiet} said={global_flags(ctx)}", said=global_flags(ctx))

    add_global_options(root)
    return root


@pytest.mark.parametrize(
    "arguments",
    [
        ["--env", "staging", "-q", "outer", "inner"],
        ["outer", "--env", "staging", "-q", "inner"],
        ["outer", "inner", "--env", "staging", "-q"],
        ["--env", "production", "outer", "-q", "inner", "--env", "staging"],
    ],
)
def test_global_flags_count_anywhere_and_the_last_wins(arguments: list[str]) -> None:
    result = CliRunner().invoke(command(), arguments)
    assert result.output == "quiet=True said={'environment': 'staging'}\n"


def test_connection_flags_are_stored_by_variable() -> None:
    result = CliRunner().invoke(
        command(), ["outer", "inner", "--etcd-endpoints", "a:1", "--prefix", "/x/", "-o", "json"]
    )
    assert json.loads(result.stdout)["said"] == {
        "DEVOPSELLENCE_ETCD_ENDPOINTS": "a:1",
        "DEVOPSELLENCE_PREFIX": "/x/",
    }
    assert json.loads(result.stdout)["operation"] == "outer inner"


def test_command_keeps_its_own_flags() -> None:
    @click.command()
    @click.option("--env", default="mine")
    def own(env: str) -> None:
        click.echo(env)

    add_global_options(own)
    assert CliRunner().invoke(own, ["--env", "other"]).output == "other\n"
    assert [param.name for param in own.params].count("env") == 1


def broken(error: BaseException, *arguments: str, monkeypatch: pytest.MonkeyPatch) -> Result:
    @click.command()
    def status() -> None:
        raise error

    add_global_options(status)
    monkeypatch.setitem(main.commands, "status", status)
    return run("status", *arguments)


def test_error_has_message_and_exit_code(monkeypatch: pytest.MonkeyPatch) -> None:
    result = broken(CliError("busy", "too busy", exit_code=3), monkeypatch=monkeypatch)
    assert (result.exit_code, result.stderr, result.stdout) == (3, "Error: too busy\n", "")


def test_unexpected_error_shows_traceback_only_with_debug(monkeypatch: pytest.MonkeyPatch) -> None:
    result = broken(ZeroDivisionError("oh"), monkeypatch=monkeypatch)
    assert result.exit_code == 1
    assert "unexpected ZeroDivisionError: oh" in result.stderr
    assert "Traceback" not in result.stderr
    result = broken(ZeroDivisionError("oh"), "--debug", monkeypatch=monkeypatch)
    assert "Traceback" in result.stderr


def test_error_in_json_names_the_operation(monkeypatch: pytest.MonkeyPatch) -> None:
    result = broken(CliError("busy", "too busy"), "-o", "json", monkeypatch=monkeypatch)
    document = json.loads(result.stdout)
    assert (document["operation"], document["error"]["code"]) == ("status", "busy")
    assert "too busy" in result.stderr


@pytest.mark.parametrize("error", [KeyboardInterrupt(), click.Abort()])
def test_interrupt_is_exit_code_130(error: BaseException, monkeypatch: pytest.MonkeyPatch) -> None:
    assert broken(error, monkeypatch=monkeypatch).exit_code == 130
