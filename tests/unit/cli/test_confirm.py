"""One rule for all commands that destroy something, over the whole tree of commands."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from devopsellence.cli.confirm import ConfirmOption, confirm, destroys
from devopsellence.cli.main import main
from devopsellence.cli.options import add_global_options
from devopsellence.cli.output import CliError, Output
from tests.unit.cli.tree import leaves


@dataclass(frozen=True)
class Destroyer:
    """Arguments with which a command destroys something, and with which it does not (None: there are none)."""

    arguments: str
    harmless: str | None = None


#: Every command that destroys something: its data, its access or its evidence cannot be had back.
DESTROYERS = {
    "secret delete": Destroyer("TOKEN --service web"),
    "ingress cert remove": Destroyer("app.example.com"),
    "node register": Destroyer("n1 --replace", "n1"),
    "node detach": Destroyer("n1"),
    "node remove": Destroyer("n1", "n1 --dry-run"),
    "env delete": Destroyer("acme/shop/review", "acme/shop/review --dry-run"),
    "operator remove": Destroyer("ann", "ann --dry-run"),
    "operator deny": Destroyer("1f2e", "1f2e --undo"),
    "operator token revoke": Destroyer("ci", "ci --dry-run"),
    "cluster init": Destroyer("--etcd e1=10.0.0.1 --force", "--etcd e1=10.0.0.1"),
    "cluster issue": Destroyer("controller --force", "controller"),
    "dev down": Destroyer("--purge", ""),
    "context remove": Destroyer("prod"),
}
#: Those that need no cluster.
WITHOUT_CLUSTER = {"dev down", "cluster init", "cluster issue", "context remove"}
#: Commands that ask only if the cluster says so: the release task is run by hand, there are new recipients, an operator
#: has not followed.
LATE = {"task run", "operator recipients approve", "cluster ca rotate"}
#: Every other command. A new command belongs here only if all that it changes can be changed back.
HARMLESS = {
    *("operator add", "operator grant", "operator list", "operator revoke"),
    *("operator token create", "operator token list", "operator recipients list"),
    *("init", "dev up", "dev status", "dev env", "config validate", "config resolve", "completion", "help", "version"),
    *("deploy", "status", "logs", "exec", "events", "doctor", "audit", "task list"),
    *("secret set", "secret list", "secret reencrypt"),
    *("ingress set", "ingress show", "ingress check", "ingress cert install", "ingress cert list"),
    *("release list", "release show", "release rollback"),
    *("node list", "node attach", "node cordon", "node uncordon", "node drain", "node diagnose"),
    *("node label set", "node label remove", "node label list"),
    *("env list", "cluster certificates"),
    *("context add", "context list", "context use", "context show", "context rename"),
}


def option_of(command: click.Command) -> ConfirmOption | None:
    return next((param for param in command.params if isinstance(param, ConfirmOption)), None)


def run(words: str, *flags: str) -> Result:
    # No cluster: a command that gets past the confirmation fails at the connection.
    environ = {"DEVOPSELLENCE_HOME": "/nonexistent/devopsellence", "DEVOPSELLENCE_ETCD_ENDPOINTS": ""}
    return CliRunner(env=environ).invoke(main, [*words.split(), *flags])


def code(result: Result) -> str:
    return str(json.loads(result.stdout.splitlines()[-1]).get("error", {}).get("code", ""))


def test_every_command_is_known_to_destroy_or_not() -> None:
    assert set(leaves()) == DESTROYERS.keys() | LATE | HARMLESS


def test_exactly_the_commands_that_destroy_have_the_flag() -> None:
    assert {words for words, command in leaves().items() if option_of(command)} == DESTROYERS.keys() | LATE
    for words in DESTROYERS.keys() | LATE:
        option = option_of(leaves()[words])
        assert option is not None
        assert option.opts == ["-y", "--yes"]


def test_no_other_flag_is_called_yes() -> None:
    for words, command in leaves().items():
        others = [param for param in command.params if {"-y", "--yes"} & set(param.opts)]
        assert others == [param for param in (option_of(command),) if param is not None], words


@pytest.mark.parametrize("words", DESTROYERS)
def test_destroying_without_terminal_is_refused_before_anything_else(words: str) -> None:
    result = run(f"{words} {DESTROYERS[words].arguments}", "-o", "json")
    assert (result.exit_code, code(result)) == (2, "confirmation_required")
    assert f"devopsellence {words}" in result.stderr
    assert "-y" in result.stderr
    for argument in DESTROYERS[words].arguments.split():
        # An argument may be a value that is secret.
        assert argument.startswith("--") or argument not in result.stderr


@pytest.mark.parametrize(
    ("words", "harmless"), [(words, each.harmless) for words, each in DESTROYERS.items() if each.harmless]
)
def test_harmless_use_needs_no_confirmation(words: str, harmless: str) -> None:
    assert code(run(f"{words} {harmless}", "--pki", "/dev/null/x", "-o", "json")) != "confirmation_required"


@pytest.mark.parametrize("flag", ["-y", "--yes"])
@pytest.mark.parametrize("words", sorted(DESTROYERS.keys() - WITHOUT_CLUSTER))
def test_confirmed_command_goes_on_to_the_cluster(words: str, flag: str) -> None:
    result = run(f"{words} {DESTROYERS[words].arguments}", flag, "-o", "json")
    assert code(result) == "etcd_unavailable"


@pytest.mark.parametrize(
    ("words", "question"),
    [
        ("node register", "The machine that is now node n1 loses access to the cluster"),
        ("cluster init", "This replaces the CA and all certificates"),
        ("dev down", "This permanently deletes the volumes of the apps"),
    ],
)
def test_command_asks_before_it_destroys(
    words: str, question: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("devopsellence.cli.confirm._can_ask", lambda _: True)
    # An address suffices: nothing is sent before the answer.
    environ = {"DEVOPSELLENCE_HOME": str(tmp_path), "DEVOPSELLENCE_ETCD_ENDPOINTS": "127.0.0.1:1"}
    arguments = [*words.split(), *DESTROYERS[words].arguments.split()]
    result = CliRunner(env=environ).invoke(main, arguments, input="n\n")
    assert question in result.stdout
    assert (result.exit_code, result.stderr) == (1, "Error: not confirmed; nothing was changed\n")
    assert list(tmp_path.iterdir()) == []


def example(asked: list[str]) -> click.Command:
    """A command that destroys something, wired as the real ones are."""

    @click.command()
    @destroys("deletes everything", unless="dry_run")
    @click.option("--dry-run", is_flag=True)
    @click.pass_context
    def wipe(ctx: click.Context, dry_run: bool) -> None:
        if not dry_run:
            confirm(ctx, "This deletes everything.")
        asked.append("done")

    add_global_options(wipe)
    return wipe


@pytest.fixture
def on_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("devopsellence.cli.confirm._can_ask", lambda output: not output.json)


@pytest.mark.usefixtures("on_terminal")
@pytest.mark.parametrize(("answer", "exit_code", "done"), [("y\n", 0, ["done"]), ("n\n", 1, []), ("\n", 1, [])])
def test_question_on_a_terminal_decides(answer: str, exit_code: int, done: list[str]) -> None:
    asked: list[str] = []
    result = CliRunner().invoke(example(asked), [], input=answer, obj=Output())
    assert (result.exit_code, asked) == (exit_code, done)
    assert "This deletes everything. Continue? [y/N]" in result.output


@pytest.mark.usefixtures("on_terminal")
@pytest.mark.parametrize("flags", [["-y"], ["--yes"], ["--dry-run"]])
def test_confirmed_command_and_dry_run_ask_nothing(flags: list[str]) -> None:
    asked: list[str] = []
    result = CliRunner().invoke(example(asked), flags, obj=Output())
    assert (result.exit_code, result.output, asked) == (0, "", ["done"])


@pytest.mark.usefixtures("on_terminal")
def test_json_on_a_terminal_is_refused_instead_of_asked() -> None:
    asked: list[str] = []
    result = CliRunner().invoke(example(asked), ["-o", "json"], obj=Output())
    assert (result.exit_code, asked) == (2, [])


@pytest.mark.parametrize("stream", ["stdin", "stdout"])
def test_closed_stream_counts_as_no_terminal(stream: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, stream, None)
    with (
        click.Context(click.Command("wipe"), obj=Output()) as ctx,
        pytest.raises(CliError, match="needs the flag -y") as refused,
    ):
        confirm(ctx, "This deletes everything.")
    assert (refused.value.code, refused.value.exit_code) == ("confirmation_required", 2)
