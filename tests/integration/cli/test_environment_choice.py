"""Choice of the environment, with and without a configuration."""

from __future__ import annotations

import pytest

from tests.support.cli import Cli

CONFIG = """\
schema_version: 1
organization: acme
project: Shop
default_environment: live
services: {web: {image: "x:1", ports: [{name: http, port: 1}], healthcheck: {}}}
"""


def meant(cli: Cli, *arguments: str) -> str:
    environment = cli.json("status", *arguments)["environment"]
    return "/".join(environment[name] for name in ("organization", "project", "environment"))


def test_configuration_names_environment_unless_flag_or_variable(cli: Cli) -> None:
    (cli.folder / "devopsellence.yml").write_text(CONFIG)
    assert meant(cli) == "acme/Shop/live"
    assert meant(cli, "--env", "staging") == "acme/Shop/staging"
    cli.environ["DEVOPSELLENCE_ENVIRONMENT"] = "test"
    assert meant(cli) == "acme/Shop/test"
    assert meant(cli, "--env", "staging") == "acme/Shop/staging"


def test_configuration_in_parent_folder_is_found(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    (cli.folder / "devopsellence.yml").write_text(CONFIG)
    below = cli.folder / "lib"
    below.mkdir()
    monkeypatch.chdir(below)
    assert meant(cli) == "acme/Shop/live"


def test_environment_of_another_project_is_refused_for_writes(cli: Cli) -> None:
    (cli.folder / "devopsellence.yml").write_text(CONFIG)
    error = cli.error("deploy", "--env", "other/Shop/live")
    assert (error["code"], error["exit_code"]) == ("environment_elsewhere", 2)


def test_missing_configuration_uses_the_clusters_environment(cli: Cli) -> None:
    assert cli.error("status")["code"] == "environment_unknown"
    cli.ok("node", "register", "n1")
    cli.ok("node", "attach", "n1", "--env", "acme/Shop/production")
    assert meant(cli) == "acme/Shop/production"
    cli.ok("node", "attach", "n1", "--env", "acme/Shop/staging")
    error = cli.error("status")
    assert error["code"] == "environment_unknown"
    commands = [action["command"] for finding in error["findings"] for action in finding["next_actions"]]
    assert commands == ["--env acme/Shop/production", "--env acme/Shop/staging"]
    assert meant(cli, "--env", "staging") == "acme/Shop/staging"
    assert meant(cli, "--env", "acme/Shop/other") == "acme/Shop/other"


def test_deploy_without_a_configuration_says_what_to_do(cli: Cli) -> None:
    result = cli.run("deploy")
    assert result.exit_code == 2
    assert "devopsellence init" in result.stderr


def test_missing_cluster_is_reported_without_traceback(cli: Cli) -> None:
    del cli.environ["DEVOPSELLENCE_ETCD_ENDPOINTS"]
    error = cli.error("node", "list")
    assert error["code"] == "etcd_unavailable"
    assert "devopsellence dev up" in str(error["findings"])
    assert cli.error("node", "list", "--etcd-ca-cert", "x.pem")["code"] == "settings_invalid"
