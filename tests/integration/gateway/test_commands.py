"""Every command through a controller's gateway: as an operator with all rights, and as one of a single environment."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from devopsellence.access.rights import Rights, record_of
from devopsellence.access.roles import Role
from devopsellence.api.v1 import stored_pb2 as pb
from devopsellence.certificates.approval import approve_node
from devopsellence.store.codec import encode
from devopsellence.store.etcd import Etcd, KeyValue
from devopsellence.store.identities import USER_OPERATOR, user_of_operator
from devopsellence.store.keys import EnvironmentRef
from devopsellence.store.settings import Settings
from tests.integration.cli.secret_operator import Operator
from tests.support.agent import AgentNode
from tests.support.authority import Authority, settings_with
from tests.support.cli import REF
from tests.support.controller import ControllerProcess
from tests.support.images import IMAGE, small_image
from tests.support.need import need_docker
from tests.support.ports import free_port
from tests.support.until import eventually, until

pytestmark = [pytest.mark.docker, pytest.mark.etcd]

STAGING = EnvironmentRef("acme", "Shop", "staging")
CONFIG = """\
schema_version: 1
organization: acme
project: Shop
services:
  jobs:
    image: IMAGE
    command: [/bin/sh, -c, "echo ready; exec sleep 100000"]
    env: {TEXT: one}
    secret_refs: [{name: TOKEN, secret: TOKEN}]
    stop_grace_period: 0s
tasks:
  hello: {service: jobs, command: [/bin/echo, hello]}
environments:
  staging: {}
"""


class Shop:
    """A controller with a gateway, a node with an agent, and the app's folder."""

    def __init__(
        self, etcd: Etcd, settings: Settings, authority: Authority, controller: ControllerProcess, address: str
    ) -> None:
        self.etcd, self.direct, self.authority, self.controller = etcd, settings, authority, controller
        self.folder = Path.cwd()
        self.through = replace(settings, endpoints=(address,))

    def caller(self, common_name: str) -> Settings:
        return settings_with(self.through, self.authority.issue(common_name))

    def operator(self, name: str, *environments: str, nodes: bool = False) -> Operator:
        """Return the command line of an operator, once the gateway knows of the access."""
        cli = Operator(self.caller(user_of_operator(name)), self.folder, self.folder.parent / f"{name}.age")
        cli.direct = self.direct
        access = pb.OperatorAccess(name=name, environments=environments, nodes=nodes)
        return self.admitted(cli, name, access)

    def with_role(self, role: Role, *environments: str) -> Operator:
        """Return the command line of an operator with one role, who is called like it."""
        cli = Operator(self.caller(user_of_operator(role.value)), self.folder, self.folder.parent / f"{role}.age")
        cli.direct = self.direct
        rights = Rights(frozenset((role, pattern) for pattern in environments))
        return self.admitted(cli, role.value, record_of(role.value, rights))

    def admitted(self, cli: Operator, name: str, access: pb.OperatorAccess) -> Operator:
        cli.write(lambda etcd: etcd.keys.operator_access(name), access)
        until(f"{name} is admitted", lambda: cli.run("node", "list").exit_code == 0)
        return cli

    def refusals(self) -> set[str]:
        """Return the reasons of refusals to operators, but for those before the gateway knew of their access."""
        lines = [line for line in self.controller.lines("refused") if line["caller"].startswith("operator:")]
        reasons = {str(line["reason"]) for line in lines if line["kind"] != "not_now"}
        return {reason for reason in reasons if "granted no access" not in reason}

    def stored(self) -> tuple[KeyValue, ...]:
        """Return all records but heartbeats."""

        async def read() -> tuple[KeyValue, ...]:
            async with Etcd(self.direct) as etcd:
                items = (await etcd.list(etcd.keys.prefix)).items
                return tuple(item for item in items if not item.key.startswith(etcd.keys.heartbeats_prefix))

        return asyncio.run(read())


@pytest.fixture
async def shop(
    etcd: Etcd, settings: Settings, authority: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Shop]:
    need_docker()
    small_image()
    (tmp_path / ".git").mkdir()
    (tmp_path / "app").mkdir()
    monkeypatch.chdir(tmp_path / "app")
    (tmp_path / "app" / "devopsellence.yml").write_text(CONFIG.replace("IMAGE", IMAGE))
    files, address = authority.issue_server("controller"), f"127.0.0.1:{free_port()}"
    certificate = (f"--gateway-cert={files.certificate}", f"--gateway-key={files.key}")
    options = (f"--gateway-listen={address}", *certificate, f"--gateway-ca-cert={files.authority}")
    controller = ControllerProcess(settings, tmp_path / "controller.log", *options)
    try:
        await controller.logged("gateway started")
        yield Shop(etcd, settings, authority, controller, address)
    finally:
        controller.end()


@pytest.fixture
async def agent(shop: Shop, tmp_path: Path) -> AsyncIterator[AgentNode]:
    """Agent of node n1, which is registered and attached to both environments."""
    node = AgentNode(shop.etcd, shop.through, tmp_path)
    node.settings = settings_with(shop.through, shop.authority.issue_agent(node.uid))
    record = pb.Node(name="n1", uid=node.uid, labels=["web", "worker"])
    approve_node(shop.caller(USER_OPERATOR), record)
    await shop.etcd.put(shop.etcd.keys.node("n1"), encode(record))
    for ref in (REF, STAGING):
        environment = pb.Environment(
            organization=ref.organization, project=ref.project, environment=ref.environment, nodes=["n1"]
        )
        await shop.etcd.put(shop.etcd.keys.environment(ref), encode(environment))
    node.start("--api-listen", "127.0.0.1:0")
    try:
        await eventually("the agent is ready", node.heartbeat, lambda beat: beat is not None)
        yield node
    finally:
        await asyncio.to_thread(node.clean)


def process(cli: Operator, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a command as a process of its own, because it writes bytes to the real stdout."""
    command = [sys.executable, "-m", "devopsellence.cli", *arguments]
    return subprocess.run(
        command, env=cli.process_environ(), capture_output=True, text=True, check=False, timeout=60, cwd=cli.folder
    )


def use_environment(cli: Operator, author: str) -> None:
    """Run every command about the environment of the configuration, except those that only root or all may run."""
    config = cli.folder / "devopsellence.yml"
    cli.set("TOKEN", b"one", service="jobs")
    assert cli.versions("TOKEN", "jobs") == [1]
    cli.ok("deploy", "--message", "first")
    config.write_text(config.read_text().replace("TEXT: one", "TEXT: two"))
    cli.ok("deploy", "--dry-run")
    cli.ok("deploy")
    assert cli.json("status")["rollout"]["phase"] == "settled"
    assert cli.json_lines("status", "--watch")[-1]
    assert [release["number"] for release in cli.json("release", "list")["releases"]] == [2, 1]
    assert cli.json("release", "show", "1")["release"]["created_by"].partition("@")[0] == author
    cli.ok("release", "rollback")
    cli.set("TOKEN", b"two", "--apply", service="jobs")
    assert [secret["set_by"].partition("@")[0] for secret in cli.json("secret", "list")["secrets"]] == [author]
    cli.ok("secret", "reencrypt")
    ran = process(cli, "exec", "jobs", "--", "sh", "-c", "echo $TOKEN")
    assert (ran.returncode, ran.stdout) == (0, "two\n"), ran.stderr
    assert "ready" in process(cli, "logs", "jobs").stdout
    ran = process(cli, "task", "run", "hello")
    assert (ran.returncode, ran.stdout) == (0, "hello\n"), ran.stderr
    assert [task["name"] for task in cli.json("task", "list")["tasks"]] == ["hello"]
    messages = [event["message"] for event in cli.json("events")["events"] if event["source"] == "cli"]
    assert len(messages) >= 4
    assert all(message.startswith(f"{author}@") for message in messages)
    cli.ok("ingress", "cert", "list")
    cli.ok("node", "list")
    cli.ok("node", "diagnose", "n1")
    cli.ok("node", "detach", "n1", "-y", "--wait")
    cli.ok("node", "attach", "n1")
    cli.ok("secret", "delete", "TOKEN", "--service", "jobs", "--force", "-y")
    cli.ok("env", "delete", "-y", "--detach", "production")


def completed(cli: Operator, *words: str) -> list[str]:
    """Return the words that the shell's completion offers after ``words``."""
    environ = {"_DEVOPSELLENCE_COMPLETE": "bash_complete", "COMP_WORDS": " ".join(("devopsellence", *words)) + " "}
    environ["COMP_CWORD"] = str(len(words) + 1)
    command = [sys.executable, "-m", "devopsellence.cli"]
    done = subprocess.run(
        command, env=cli.process_environ() | environ, capture_output=True, text=True, check=True, timeout=30
    )
    return [line.partition(",")[2] for line in done.stdout.splitlines()]


def test_operator_with_all_rights_can_run_every_command(shop: Shop, agent: AgentNode) -> None:
    ann = shop.operator("ann", "*", nodes=True)
    assert [found["environment"] for found in ann.json("env", "list")["environments"]] == [str(REF), str(STAGING)]
    assert completed(ann, "node", "cordon") == ["n1"]
    use_environment(ann, "ann")
    assert ann.json("node", "register", "n2", "--labels", "worker")["uid"]
    ann.ok("node", "label", "set", "n2", "--labels", "web,worker")
    ann.ok("node", "cordon", "n2")
    ann.ok("node", "uncordon", "n2")
    ann.ok("node", "drain", "n2")
    node = ann.read(lambda etcd: etcd.keys.node("n2"), pb.Node)
    assert node is not None
    assert node.drain.requested_by.partition("@")[0] == "ann"
    assert ann.json("node", "register", "n2", "--replace", "-y")["replaced"] == node.uid
    ann.ok("node", "remove", "n2", "-y")
    checks = {check["name"]: check for check in doctor(ann)}
    address = shop.through.endpoints[0]
    assert checks["etcd"]["message"].partition(" ")[2].startswith(f"behind the gateway {address};")
    assert [check for check in checks.values() if check["severity"] == "error"] == []
    assert shop.refusals() == set()


def doctor(cli: Operator) -> list[dict[str, Any]]:
    document = json.loads(cli.run("doctor", "-o", "json").stdout)
    found: list[dict[str, Any]] = document["checks"] if document["ok"] else document["error"]["findings"]
    return found


def test_operator_of_one_environment_can_use_it_and_nothing_else(shop: Shop, agent: AgentNode) -> None:
    ben = shop.operator("ben", str(REF))
    assert [found["environment"] for found in ben.json("env", "list")["environments"]] == [str(REF)]
    about_staging = [
        ["deploy"],
        ["deploy", "--dry-run"],
        ["status"],
        ["status", "--watch"],
        ["events"],
        ["logs"],
        ["exec", "jobs", "true"],
        ["task", "run", "hello"],
        ["task", "list"],
        ["release", "list"],
        ["release", "show", "1"],
        ["release", "rollback"],
        ["secret", "list"],
        ["secret", "delete", "TOKEN", "--service", "jobs", "-y"],
        ["secret", "reencrypt"],
        ["ingress", "show"],
        ["ingress", "check"],
        ["ingress", "cert", "list"],
        ["node", "attach", "n1"],
        ["node", "detach", "n1", "-y"],
        ["env", "delete", "staging", "--detach", "-y"],
    ]
    about_nodes = [
        ["node", "register", "n2"],
        ["node", "register", "n1", "--replace", "-y"],
        ["node", "cordon", "n1"],
        ["node", "label", "set", "n1", "--labels", "web", "--force"],
        ["node", "drain", "n1"],
        ["node", "remove", "n1", "--force", "-y"],
    ]
    before = shop.stored()
    for arguments in about_staging:
        message = denied(ben, "--env", "staging", *arguments)
        lacks = r"(has no role|lacks the role [a-z ]+)"
        assert re.fullmatch(rf"access denied: operator ben {lacks} in the environment {STAGING}", message), arguments
    for arguments in about_nodes:
        message = denied(ben, *arguments)
        assert re.fullmatch(r"access denied: operator[: ]ben may not .*\bn[12].*", message), arguments
    assert shop.stored() == before
    use_environment(ben, "ben")
    # Keys of nodes that the operator would have copied into their records, and the commands about nodes.
    assert all("ben may not write" in reason and "/nodes/n" in reason for reason in shop.refusals())


def test_every_role_runs_its_commands_and_no_others(shop: Shop, agent: AgentNode) -> None:
    viewer, deployer, execs = (shop.with_role(role, str(REF)) for role in (Role.VIEWER, Role.DEPLOYER, Role.EXEC))
    admin = shop.with_role(Role.ADMIN, "*")
    deployer.set("TOKEN", b"one", service="jobs")
    deployer.ok("deploy")
    reading = [["status"], ["release", "list"], ["release", "show", "1"], ["events"], ["task", "list"], ["env", "list"]]
    reading += [["node", "list"], ["node", "diagnose", "n1"], ["ingress", "cert", "list"], ["operator", "list"]]
    deploying = [["deploy"], ["secret", "list"], ["secret", "delete", "TOKEN", "--service", "jobs", "-y"], ["logs"]]
    deploying += [["release", "rollback"], ["env", "delete", "production", "--detach", "-y"]]
    executing = [["exec", "jobs", "true"], ["task", "run", "hello"]]
    nodes = [
        ["node", "cordon", "n1"],
        ["node", "remove", "n1", "--force", "-y"],
        ["operator", "remove", "viewer", "-y"],
    ]
    for cli in (viewer, deployer, execs, admin):
        for arguments in reading:
            cli.ok(*arguments)
    for cli, refused in (
        (viewer, [*deploying, *executing, *nodes]),
        (deployer, [*executing, *nodes]),
        (execs, [*deploying, *nodes]),
        (admin, [["deploy"], ["logs"], *executing, ["secret", "delete", "TOKEN", "--service", "jobs", "-y"]]),
    ):
        for arguments in refused:
            assert re.search("lacks the role|may not", denied(cli, *arguments)), arguments
    ran = process(execs, "exec", "jobs", "--", "sh", "-c", "echo $TOKEN")
    assert (ran.returncode, ran.stdout) == (0, "one\n"), ran.stderr
    ran = process(execs, "task", "run", "hello")
    assert (ran.returncode, ran.stdout) == (0, "hello\n"), ran.stderr
    assert "ready" in process(deployer, "logs", "jobs").stdout
    assert [secret["name"] for secret in admin.json("secret", "list")["secrets"]] == ["TOKEN"]
    admin.ok("node", "register", "n2", "--labels", "worker")
    admin.ok("node", "label", "set", "n2", "--labels", "web,worker")
    admin.ok("node", "drain", "n2")
    admin.ok("node", "detach", "n1", "-y", "--wait")
    removed = admin.json_lines("node", "remove", "n1", "--force", "-y")[-1]
    assert [secret["name"] for secret in removed["secrets_seen"]] == ["TOKEN"]
    assert admin.json("operator", "remove", "exec", "-y")["removed"]
    assert "is denied" in denied(execs, "node", "list")


def denied(cli: Operator, *arguments: str) -> str:
    """Run a command that must be refused; return the message."""
    result = cli.run("-o", "json", *arguments)
    error = json.loads(result.stdout.splitlines()[-1])["error"]
    assert (error["code"], error["exit_code"], result.exit_code) == ("etcd_permission_denied", 1, 1), arguments
    return str(error["message"])


def test_operator_without_access_is_told_so(shop: Shop) -> None:
    cli = Operator(shop.caller(user_of_operator("eve")), shop.folder, shop.folder / "eve.age")
    assert denied(cli, "node", "list") == "access denied: operator 'eve' has been granted no access"
