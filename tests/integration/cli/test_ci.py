"""The workflows of docs/ci.md, run step by step with a token: gateways, an agent and Docker are real."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from devopsellence.cli.access_token import TOKEN, Token
from tests.integration.cli.actions import Runner, commit, workflow_of
from tests.integration.cli.running_cluster import RunningCluster
from tests.support.cli import NO_DEV_CLUSTER, Cli
from tests.support.images import IMAGE, small_image
from tests.support.need import need_docker
from tests.support.project import PROJECT

pytestmark = [pytest.mark.etcd, pytest.mark.docker, pytest.mark.timeout(180)]

PAGE = PROJECT / "docs" / "ci.md"
CONFIG = """\
schema_version: 1
organization: acme
project: ci-{project}
services:
  web:
    command: [/bin/httpd, -f, -p, "3000", -h, /www]
    ports: [{{name: http, port: 3000}}]
    healthcheck: {{path: /up, interval: 1s}}
    stop_grace_period: 0s
    secret_refs: [{{name: GREETING, secret: GREETING}}]
"""
BROKEN = CONFIG.replace("[/bin/httpd", "[/bin/false, /bin/httpd")
# The installation downloads the project's dependencies, which are here already.
MAKEFILE = "python:\n\t@ln -s {} .venv\n"
# Not a builder that a test could not remove again; records what the variables of a child process are.
DOCKER = '#!/bin/sh\nenv >> {record}; ls -l /proc/$$/fd >> {record}\nexec {docker} "$@"\n'


@dataclass
class Project:
    """Repository of an app, the repository of the command line, and a token in the secrets of the CI."""

    cluster: RunningCluster
    folder: Path
    token: str
    name: str
    runs: int = 0

    @property
    def root(self) -> Cli:
        return self.cluster.as_party("root")

    @property
    def children(self) -> Path:
        """File with the variables and open files of all docker commands."""
        return self.folder / "children"

    def push(self, config: str) -> None:
        files = {"devopsellence.yml": config.format(project=self.name), "Dockerfile": f"FROM {IMAGE}\n"}
        commit(self.folder / "app.git", files)

    def run(self, workflow: str, **inputs: str) -> tuple[bool, str]:
        """Run a workflow of the guide on a new runner."""
        self.runs += 1
        folder = self.folder / f"runner-{self.runs}"
        folder.mkdir()
        context = {f"inputs.{name}": value for name, value in inputs.items()}
        context["secrets.DEVOPSELLENCE_TOKEN"] = self.token
        runner = Runner(folder, self.folder / "app.git", f"{self.folder}/bin:{os.environ['PATH']}", context)
        done = runner.job(workflow_of(PAGE, workflow), {"DEVOPSELLENCE_SOURCE": f"file://{self.folder}/source.git"})
        self.check_unseen(folder, done[1])
        return done

    def check_unseen(self, folder: Path, output: str) -> None:
        """Check that a run left its token in no file, no output, and with no child."""
        if not self.token:
            return
        token = Token.parse(self.token)
        files = [path.read_bytes() for path in folder.rglob("*") if path.is_file() and ".venv" not in path.parts]
        seen = b"\n".join([output.encode(), self.children.read_bytes(), *files])
        for private in (self.token, token.key.splitlines()[1], token.identity.splitlines()[-1], "memfd"):
            assert private.encode() not in seen

    def release(self) -> dict[str, Any]:
        release: dict[str, Any] = self.root.json("status", "--env", f"acme/ci-{self.name}/production")["release"]
        return release


@pytest.fixture
def project(started: RunningCluster, tmp_path: Path) -> Iterator[Project]:
    need_docker()
    small_image()
    name = tmp_path.parent.name[-8:].replace("_", "-").strip("-") + str(os.getpid())
    folder = tmp_path / "ci"
    (folder / "bin").mkdir(parents=True)
    project = Project(started, folder, "", name)
    docker = folder / "bin" / "docker"
    docker.write_text(DOCKER.format(record=project.children, docker=shutil.which("docker")))
    docker.chmod(0o755)
    commit(folder / "source.git", {"Makefile": MAKEFILE.format(Path(sys.executable).parents[1])}, tag="v0.1.0")
    project.push(CONFIG)
    (started.cli.folder / "devopsellence.yml").write_text(CONFIG.format(project=name))
    document = project.root.json("node", "register", "n1", "--address", "127.0.0.1", "--pki", str(started.pki))
    with started.agent(document, tmp_path / "agent"):
        project.root.ok("node", "attach", "n1")
        words = ("--env", "production", "--role", "deployer", "--expires", "1h")
        project.token = started.cli.json(
            "operator",
            "token",
            "create",
            "ci",
            *words,
            "--pki",
            str(started.pki),
            "--etcd-endpoints",
            started.endpoints,
        )["token"]
        yield project


def test_workflow_deploys_and_rolls_back_with_a_token_of_its_environment(project: Project) -> None:
    root = project.root
    root.environ["DEVOPSELLENCE_IDENTITY"] = str(project.folder / "root.age")
    root.ok("secret", "set", "GREETING", "--service", "web", "--value", "hello")
    done, output = project.run("Deploy")
    assert done, output
    release = project.release()
    assert (release["number"], release["message"]) == (1, "run 7 of ann")
    assert release["created_by"].startswith("ci@")
    assert not release["revision"].endswith("-dirty")

    # The agent decides as the gateways do: logs are a deployer's, commands and tasks are not.
    ci = project.cluster.as_party("root")
    ci.environ = {"DEVOPSELLENCE_HOME": NO_DEV_CLUSTER, TOKEN: project.token}
    assert ci.run("logs", "web").exit_code == 0
    assert "lacks the role exec" in ci.error("exec", "web", "--", "true")["message"]
    assert ci.error("deploy", "--env", "staging")["code"] == "environment_elsewhere"

    project.push(CONFIG.replace("1s}", "2s}"))
    assert project.run("Deploy")[0]
    done, output = project.run("Roll back", release="")
    assert done, output
    assert (project.release()["number"], project.release()["rollback_of"]) == (3, 1)

    project.push(BROKEN)
    done, output = project.run("Deploy")
    assert not done
    assert "release 3 runs again" in output, output
    assert output.rstrip().endswith("devopsellence release list, devopsellence release rollback"), output

    serial = root.json("operator", "token", "list")["tokens"][0]["serial"]
    root.ok("operator", "deny", serial, "-y")
    done, output = project.run("Deploy")
    assert not done
    assert "access denied: the certificate of operator:ci" in output
    assert project.release()["number"] == 4


def test_job_without_the_secret_is_told_so(project: Project) -> None:
    project.token = ""
    done, output = project.run("Deploy")
    assert not done
    assert "Error: DEVOPSELLENCE_TOKEN is empty: the job has no token, such as for a pull request of a fork" in output


@pytest.mark.parametrize("name", ["Deploy", "Roll back"])
def test_workflows_wait_for_one_another_and_are_never_cancelled(name: str) -> None:
    workflow = workflow_of(PAGE, name)
    assert workflow["concurrency"] == {"group": "deploy-production", "cancel-in-progress": False}
    assert workflow["permissions"] == {"contents": "read"}
