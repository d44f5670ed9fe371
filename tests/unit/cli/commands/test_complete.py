"""Completion of names: which parameters have it, and what it offers from devopsellence.yml."""

from __future__ import annotations

from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from devopsellence.cli.main import main
from tests.support.cli import NO_DEV_CLUSTER
from tests.unit.cli.tree import commands, leaves

CONFIG = """\
schema_version: 1
organization: acme
project: shop
services:
  web:
    ports: [{name: http, port: 3000}]
    healthcheck: {path: /up}
    secret_refs: [{name: TOKEN, secret: WEB_TOKEN}]
  worker:
    secret_refs: [{name: TOKEN, secret: WORKER_TOKEN}]
tasks:
  report: {service: worker, command: [./report]}
ingress:
  hosts: [app.example.com]
  rules: [{match: {host: app.example.com}, target: {service: web, port: http}}]
registry: {repository: registry.example.com/shop, username: ann, password_secret: REGISTRY_PASSWORD}
environments:
  staging:
    ingress: {hosts: [staging.example.com]}
"""

#: Parameters that name a stored thing; a new command of this kind completes as well.
OPTIONS = {"--context", "--env", "--node", "--service", "--host", "--labels"}
ARGUMENTS = {
    "node attach": "names",
    **dict.fromkeys(
        [
            *("node register", "node detach", "node cordon", "node uncordon", "node drain"),
            *("node remove", "node diagnose", "node label set", "node label remove", "node label list"),
            *("secret set", "secret delete", "task run", "cluster issue"),
        ],
        "name",
    ),
    **dict.fromkeys(["context use", "context show", "context remove"], "name"),
    **dict.fromkeys(["release show", "release rollback"], "number"),
    "context rename": "old",
    "ingress cert remove": "host",
    "exec": "service",
    "logs": "services",
    "help": "command",
}


def complete(line: str, *, shell: str = "bash", **environ: str) -> tuple[list[str], str]:
    """Return the completions of ``line``, typed up to its end, and stderr."""
    words = line.split(" ")
    variables = {
        "DEVOPSELLENCE_HOME": NO_DEV_CLUSTER,
        "DEVOPSELLENCE_ETCD_ENDPOINTS": "",
        **environ,
        "_DEVOPSELLENCE_COMPLETE": f"{shell}_complete",
        "COMP_WORDS": line,
        "COMP_CWORD": words[-1] if shell == "fish" else str(len(words) - 1),
    }
    done = CliRunner(env=variables).invoke(main, [])
    assert done.exit_code == 0
    lines = done.stdout.splitlines()
    if shell == "zsh":  # three lines for each: type, value, description
        return lines[1::3], done.stderr
    return [line.partition(",")[2].partition("\t")[0] for line in lines if line], done.stderr


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "devopsellence.yml").write_text(CONFIG)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("words", commands())
def test_every_option_that_names_something_completes(words: str) -> None:
    for param in commands()[words].params:
        if isinstance(param, click.Option) and OPTIONS & set(param.opts) and words not in ("init", "dev up"):
            assert param._custom_shell_complete is not None, param.opts


@pytest.mark.parametrize("words", ARGUMENTS)
def test_every_argument_that_names_something_completes(words: str) -> None:
    (param,) = [param for param in leaves()[words].params if param.name == ARGUMENTS[words]]
    assert param._custom_shell_complete is not None


OFFERED = [
    ("devopsellence logs w", ["web", "worker"]),
    ("devopsellence exec wo", ["worker"]),
    ("devopsellence task run ", ["report"]),
    ("devopsellence deploy --env ", ["production", "staging"]),
    ("devopsellence --env st", ["staging"]),
    ("devopsellence secret set ", ["WEB_TOKEN", "WORKER_TOKEN", "REGISTRY_PASSWORD"]),
    ("devopsellence secret set --service worker ", ["WORKER_TOKEN"]),
    ("devopsellence secret delete --registry ", ["REGISTRY_PASSWORD"]),
    ("devopsellence secret set TOKEN --service w", ["web", "worker"]),
    ("devopsellence ingress set --host ", ["app.example.com", "staging.example.com"]),
    ("devopsellence ingress cert install --host st", ["staging.example.com"]),
    ("devopsellence node label set n1 --labels web,", ["web,worker"]),
    ("devopsellence node label remove n1 wo", ["worker"]),
    ("devopsellence help node la", ["label"]),
    ("devopsellence node dr", ["drain"]),
    # Without a cluster.
    ("devopsellence node drain ", []),
    ("devopsellence release show ", []),
    # Mistyped commands.
    ("devopsellence deplyo ", None),
    ("devopsellence node nope ", None),
]


@pytest.mark.parametrize(("line", "offered"), OFFERED)
@pytest.mark.usefixtures("shop")
def test_names_of_the_configuration_are_offered_silently(line: str, offered: list[str] | None) -> None:
    names, errors = complete(line)
    assert errors == ""
    assert offered is None or names == offered


@pytest.mark.parametrize("line", ["context use ", "context show ", "context rename ", "--context "])
def test_contexts_are_offered(line: str, tmp_path: Path) -> None:
    home = str(tmp_path)
    for name in ("prod", "staging"):
        added = ["context", "add", name, "--etcd-endpoints", "10.0.0.1:2381"]
        assert CliRunner(env={"DEVOPSELLENCE_HOME": home}).invoke(main, added).exit_code == 0
    assert complete(f"devopsellence {line}", DEVOPSELLENCE_HOME=home) == (["prod", "staging"], "")
    assert complete(f"devopsellence {line}st", DEVOPSELLENCE_HOME=home) == (["staging"], "")
    (tmp_path / "contexts.json").write_text("{")
    assert complete(f"devopsellence {line}", DEVOPSELLENCE_HOME=home) == ([], "")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
@pytest.mark.usefixtures("shop")
def test_every_shell_gets_the_same_names(shell: str) -> None:
    assert complete("devopsellence exec w", shell=shell) == (["web", "worker"], "")


def test_script_for_fish_keeps_whole_descriptions() -> None:
    script = CliRunner().invoke(main, ["completion", "fish"]).stdout
    assert 'string split --max 1 "," $completion' in script
    assert 'string split ","' not in script


@pytest.mark.parametrize("content", ["services: [a", "services: 3", "- x", "\x00", "tasks: {release_task: 1}"])
def test_broken_configuration_completes_nothing(shop: Path, content: str) -> None:
    (shop / "devopsellence.yml").write_text(content)
    for line in ("devopsellence exec ", "devopsellence deploy --env ", "devopsellence secret set "):
        _, errors = complete(line)
        assert errors == ""


@pytest.mark.usefixtures("shop")
def test_unusable_settings_complete_nothing() -> None:
    environ = {"DEVOPSELLENCE_ETCD_ENDPOINTS": "no address", "DEVOPSELLENCE_ETCD_CA_CERT": "/nonexistent"}
    assert complete("devopsellence node drain ", **environ) == ([], "")
