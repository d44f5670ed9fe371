"""Choice of the cluster, and the commands of contexts as people run them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from devopsellence.cli import context, reach
from devopsellence.cli.contexts import file
from devopsellence.cli.dev import state
from devopsellence.cli.dev import up as dev_up
from devopsellence.cli.main import main
from devopsellence.cli.output import CliError
from devopsellence.cli.ssh.host import SshHost
from devopsellence.store.settings import Settings

ENDPOINTS = "DEVOPSELLENCE_ETCD_ENDPOINTS"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in (ENDPOINTS, "DEVOPSELLENCE_CONTEXT", "DEVOPSELLENCE_TOKEN", "DEVOPSELLENCE_PREFIX"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("DEVOPSELLENCE_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "home"


def run(*arguments: str, **environ: str) -> Result:
    return CliRunner(env=environ).invoke(main, list(arguments))


def document(*arguments: str, **environ: str) -> dict[str, Any]:
    result = run(*arguments, "-o", "json", **environ)
    assert result.exit_code == 0, result.output
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def error(*arguments: str, **environ: str) -> dict[str, Any]:
    result = run(*arguments, "-o", "json", **environ)
    found: dict[str, Any] = json.loads(result.stdout)["error"]
    assert result.exit_code == found["exit_code"]
    return found


def chosen(*arguments: str, **environ: str) -> tuple[str, str, list[str]]:
    """Return source, context and endpoints of the cluster of a command."""
    shown = document(*arguments, "context", "show", **environ)
    return shown["source"], shown["context"] or "", shown["endpoints"]


@pytest.fixture
def contexts() -> None:
    for name, address in (("prod", "10.0.0.1:2381"), ("staging", "10.0.1.1:2381")):
        document("context", "add", name, "--etcd-endpoints", address)


@pytest.fixture
def local(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state, "settings", lambda: Settings(endpoints=("127.0.0.1:12381",)))


@pytest.mark.usefixtures("contexts", "local")
def test_local_cluster_stays_the_default() -> None:
    assert chosen() == ("local", "", ["127.0.0.1:12381"])


@pytest.mark.usefixtures("contexts", "local")
def test_context_is_chosen_by_flag_then_variable_then_use() -> None:
    document("context", "use", "prod")
    assert chosen() == ("context", "prod", ["10.0.0.1:2381"])
    assert chosen(DEVOPSELLENCE_CONTEXT="staging") == ("context", "staging", ["10.0.1.1:2381"])
    assert chosen("--context", "prod", DEVOPSELLENCE_CONTEXT="staging") == ("context", "prod", ["10.0.0.1:2381"])
    document("context", "use", "--none")
    assert chosen()[0] == "local"


@pytest.mark.usefixtures("contexts", "local")
def test_flags_and_variables_win_over_a_context() -> None:
    document("context", "use", "prod")
    environ = {ENDPOINTS: "10.9.9.9:2379", "DEVOPSELLENCE_CONTEXT": "staging"}
    assert chosen(**environ) == ("variables", "", ["10.9.9.9:2379"])
    assert chosen("--etcd-endpoints", "10.8.8.8:2379", **environ) == ("flags", "", ["10.8.8.8:2379"])


@pytest.mark.usefixtures("contexts")
def test_flag_beside_another_choice_is_refused() -> None:
    """The command line would name a cluster that the command does not use."""
    for arguments, environ in (
        (["--etcd-endpoints", "10.8.8.8:2379"], {}),
        (["--etcd-cert", "tls.crt"], {}),
        ([], {ENDPOINTS: "10.9.9.9:2379"}),
    ):
        refused = error("--context", "prod", *arguments, "status", **environ)
        assert (refused["code"], refused["exit_code"]) == ("settings_invalid", 2)
        assert "--context cannot be given beside" in refused["message"]


@pytest.mark.usefixtures("contexts")
def test_damaged_token_is_no_reason_to_use_the_context() -> None:
    document("context", "use", "prod")
    assert error("status", DEVOPSELLENCE_TOKEN="x")["code"] == "token_invalid"


@pytest.mark.usefixtures("contexts")
def test_prefix_of_the_command_replaces_that_of_the_context() -> None:
    assert document("--context", "prod", "--prefix", "/other/", "context", "show")["prefix"] == "/other/"
    assert document("--context", "prod", "context", "show", DEVOPSELLENCE_PREFIX="/x/")["prefix"] == "/x/"


@pytest.mark.usefixtures("contexts")
def test_unknown_context_is_refused() -> None:
    for arguments, environ in ((["--context", "test"], {}), ([], {"DEVOPSELLENCE_CONTEXT": "test"})):
        refused = error(*arguments, "status", **environ)
        assert (refused["code"], refused["exit_code"]) == ("context_unknown", 2)
    assert error("--context", "../x", "status")["code"] == "invalid_name"


def test_damaged_file_fails_commands_that_need_it() -> None:
    file.change(lambda contexts: contexts)
    file.path().write_text("{")
    for words in ("status", "context list", "context use prod", "context add x --etcd-endpoints 10.0.0.1:1"):
        refused = error(*words.split())
        assert (refused["code"], refused["exit_code"]) == ("contexts_unusable", 2), words
    assert file.path().read_text() == "{"
    assert chosen(**{ENDPOINTS: "10.9.9.9:2379"})[0] == "variables"


def test_no_cluster_names_the_ways_to_one() -> None:
    refused = error("status")
    assert refused["code"] == "etcd_unavailable"
    steps = [step["command"] for step in refused["findings"][0]["next_actions"]]
    assert "devopsellence context add --help" in steps


@pytest.mark.usefixtures("contexts")
def test_start_of_the_local_cluster_warns_of_a_context_in_use(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise CliError("etcd_failed", "not in this test")

    monkeypatch.setattr(dev_up, "bring_up", fail)
    assert "Warning" not in run("dev", "up").stderr
    document("context", "use", "prod")
    warning = "Warning: commands use context prod, because devopsellence context use prod chose it; for the local"
    assert run("dev", "up").stderr.startswith(warning)


@pytest.mark.usefixtures("contexts")
def test_show_says_why() -> None:
    document("context", "use", "prod")
    assert "Context prod, because devopsellence context use prod chose it.\n" in run("context", "show").stdout
    assert "Context staging, because --context is given." in run("--context", "staging", "context", "show").stdout
    assert document("context", "show", "staging")["in_use"] is False


def folder_of(tmp_path: Path) -> Path:
    folder = tmp_path / "ann"
    folder.mkdir()
    for name in ("ca.crt", "tls.crt", "tls.key"):
        (folder / name).write_text("x")
    return folder


def test_add_takes_the_folder_of_an_operator(tmp_path: Path) -> None:
    folder = folder_of(tmp_path)
    added = document("context", "add", "prod", "--certificates", "ann", "--etcd-endpoints", "10.0.0.1:2381", "--use")
    assert [added[name] for name in ("ca_cert", "cert", "key")] == [
        str(folder / name) for name in ("ca.crt", "tls.crt", "tls.key")
    ]
    assert document("context", "list")["current"] == "prod"


def test_add_takes_the_variables_of_the_shell(tmp_path: Path) -> None:
    folder = folder_of(tmp_path)
    environ = {
        ENDPOINTS: "10.0.0.1:2381",
        "DEVOPSELLENCE_ETCD_CA_CERT": "ann/ca.crt",
        "DEVOPSELLENCE_ETCD_CERT": "ann/tls.crt",
        "DEVOPSELLENCE_ETCD_KEY": "ann/tls.key",
    }
    assert document("context", "add", "prod", **environ)["cert"] == str(folder / "tls.crt")


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ([], "--etcd-endpoints"),
        (["--etcd-endpoints", "10.0.0.1"], "is not address:port"),
        (["--etcd-endpoints", "10.0.0.1:2381", "--certificates", "nowhere"], "cannot read"),
        (["--etcd-endpoints", "10.0.0.1:2381", "--etcd-cert", "x"], "belong together"),
    ],
)
def test_add_refuses_settings_that_cannot_work(arguments: list[str], problem: str) -> None:
    refused = error("context", "add", "prod", *arguments)
    assert (refused["code"], refused["exit_code"]) == ("settings_invalid", 2)
    assert problem in refused["message"]
    assert not file.path().exists()


@pytest.mark.parametrize("host", ["-oProxyCommand=x", "a b", "a\nb", "x@-y", "a;b", "$(id)", "a@b@", "h:0", "h:x", ""])
def test_add_refuses_hosts_that_ssh_could_mistake(host: str) -> None:
    result = run("context", "add", "prod", "--etcd-endpoints", "10.0.0.1:2381", "--ssh", host)
    assert result.exit_code == 2
    assert "is not an ssh host" in result.stderr
    assert not file.path().exists()


def test_context_through_ssh_is_never_the_local_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same address is on another machine there."""
    local = Settings(endpoints=("127.0.0.1:12381",))
    monkeypatch.setattr(state, "settings", lambda: local)
    assert context.is_dev(local)
    assert not context.is_dev(reach.through(local, SshHost("bastion")))


def test_ssh_host_is_shown() -> None:
    document("context", "add", "prod", "--etcd-endpoints", "10.0.0.1:2381", "--ssh", "ops@bastion", "--use")
    assert document("context", "show")["ssh"] == "ops@bastion"
    assert "10.0.0.1:2381 through ssh ops@bastion" in run("context", "list").stdout


@pytest.mark.usefixtures("contexts")
def test_list_marks_the_context_in_use() -> None:
    document("context", "use", "staging")
    assert run("context", "ls").stdout.splitlines() == [
        "   CONTEXT  ENDPOINTS",
        "   prod     10.0.0.1:2381",
        "*  staging  10.0.1.1:2381",
    ]


@pytest.mark.usefixtures("contexts")
def test_rename_and_remove_change_the_file() -> None:
    document("context", "use", "prod")
    assert document("context", "rename", "prod", "production")["in_use"]
    assert error("context", "remove", "production")["code"] == "confirmation_required"
    assert "No context is in use." in run("context", "rm", "production", "-y").stdout
    assert [found["context"] for found in document("context", "list")["contexts"]] == ["staging"]


@pytest.mark.usefixtures("contexts")
def test_use_needs_a_name_or_none() -> None:
    assert run("context", "use").exit_code == 2
    assert run("context", "use", "prod", "--none").exit_code == 2
    result = run("context", "use", "prod", **{ENDPOINTS: "10.9.9.9:2379"})
    assert "this shell has variables that come first" in result.stderr
