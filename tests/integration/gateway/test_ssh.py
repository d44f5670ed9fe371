"""Contexts with an ssh host: the commands have no network, and reach gateways and agents through an sshd alone."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from devopsellence.access.roles import Role
from devopsellence.cli.cluster.folder import ClusterFolder
from devopsellence.server_certificate import CertificateFiles
from devopsellence.store.settings import Settings
from tests.integration.gateway.key_classes import OWN
from tests.integration.gateway.test_audit_command import history, other  # noqa: F401 - fixtures
from tests.integration.gateway.test_commands import Shop, agent, shop  # noqa: F401 - fixtures
from tests.support.agent import AgentNode
from tests.support.controller import ControllerProcess
from tests.support.gateway import RunningGateway
from tests.support.gateway_cluster import gateway_options
from tests.support.ports import free_port
from tests.support.process import python_environ
from tests.support.sshd import ALIAS, Sshd, own_network
from tests.support.until import until

pytestmark = [pytest.mark.etcd, pytest.mark.usefixtures("quiet")]


class Far:
    """Command line without a network, and with contexts of clusters behind an sshd."""

    def __init__(self, sshd: Sshd, folder: Path, home: Path) -> None:
        self.sshd = sshd
        self.folder = folder
        self._before = own_network()
        self.environ = {**python_environ(), **sshd.environ, "DEVOPSELLENCE_HOME": str(home)}

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        command = [*self._before, sys.executable, "-m", "devopsellence.cli", *arguments]
        pipe = subprocess.PIPE
        return subprocess.Popen(
            command, env=self.environ, cwd=self.folder, stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe, text=True
        )

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        process = self.start(*arguments)
        stdout, stderr = process.communicate(timeout=60)
        return subprocess.CompletedProcess(arguments, process.returncode, stdout, stderr)

    def ok(self, *arguments: str) -> str:
        """Run a command that must succeed; return stdout."""
        done = self.run(*arguments)
        assert done.returncode == 0, (arguments, done.stderr, done.stdout)
        return done.stdout

    def json(self, *arguments: str) -> dict[str, Any]:
        """Run a command that must succeed; return the last JSON document."""
        document: dict[str, Any] = json.loads(self.ok(*arguments, "-o", "json").splitlines()[-1])
        return document

    def error(self, *arguments: str) -> dict[str, Any]:
        """Run a command that must fail; return the error."""
        done = self.run(*arguments, "-o", "json")
        assert done.returncode != 0
        found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])["error"]
        return found

    def add(self, settings: Settings, name: str = "prod", host: str = ALIAS) -> None:
        """Add a context, and use it."""
        files = ["--etcd-ca-cert", str(settings.ca_cert), "--etcd-cert", str(settings.cert)]
        files += ["--etcd-key", str(settings.key)]
        where = ["--etcd-endpoints", ",".join(settings.endpoints), "--prefix", settings.prefix, "--ssh", host]
        self.ok("context", "add", name, *where, *files, "--use")


@pytest.fixture
def sshd() -> Iterator[Sshd]:
    with Sshd() as running:
        yield running


@pytest.fixture
async def cluster(gateway: RunningGateway) -> Settings:
    """Settings of an operator at the gateway."""
    await gateway.grant("ann", str(OWN), roles=[Role.DEPLOYER, Role.EXEC])
    return gateway.operator("ann")


@pytest.fixture
async def far(cluster: Settings, sshd: Sshd, tmp_path: Path) -> Far:
    """Command line with a context of the cluster."""
    line = Far(sshd, tmp_path, tmp_path / "home")
    await asyncio.to_thread(line.add, cluster)
    return line


async def ok(line: Far, *arguments: str) -> str:
    return await asyncio.to_thread(line.ok, *arguments)


async def error(line: Far, *arguments: str) -> dict[str, Any]:
    return await asyncio.to_thread(line.error, *arguments)


async def test_gateway_is_reached_through_ssh_alone(far: Far, cluster: Settings) -> None:
    assert "No environments yet" in await ok(far, "env", "list")
    shown = await asyncio.to_thread(far.json, "context", "show")
    assert (shown["ssh"], shown["endpoints"]) == (ALIAS, list(cluster.endpoints))
    await asyncio.to_thread(far.json, "context", "use", "--none")
    directly = await asyncio.to_thread(
        far.run, "env", "list", "--etcd-endpoints", cluster.endpoints[0], *certificate(cluster)
    )
    assert directly.returncode == 1


def certificate(settings: Settings) -> list[str]:
    """Return the options for the files of a certificate."""
    files = {"--etcd-ca-cert": settings.ca_cert, "--etcd-cert": settings.cert, "--etcd-key": settings.key}
    return [word for option, path in files.items() for word in (option, str(path))]


async def test_next_command_uses_the_kept_connection(far: Far) -> None:
    for _ in range(3):
        await ok(far, "env", "list")
    assert far.sshd.logins == 1
    assert len(far.sshd.masters()) == 1


async def test_commands_at_once_share_a_connection(far: Far) -> None:
    commands = [far.start("env", "list") for _ in range(4)]
    for command in commands:
        _, stderr = await asyncio.to_thread(command.communicate, timeout=60)
        assert command.returncode == 0, stderr
    assert far.sshd.logins == 1


async def test_sockets_are_those_of_this_user_alone(far: Far) -> None:
    await ok(far, "env", "list")
    run = far.sshd.folder / "run"
    assert len(far.sshd.sockets()) == 2
    for path in (run / "devopsellence").rglob("*"):
        assert path.stat().st_mode & 0o077 == 0, path


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGSTOP])
async def test_lost_connection_is_made_again(number: signal.Signals, far: Far) -> None:
    await ok(far, "env", "list")
    (master,) = far.sshd.masters()
    os.kill(master, number)
    if number is not signal.SIGSTOP:
        await asyncio.to_thread(until, "the connection has ended", lambda: not far.sshd.masters())
    await ok(far, "env", "list")
    assert far.sshd.logins == 2
    if number is signal.SIGSTOP:
        os.kill(master, signal.SIGKILL)
    assert len(set(far.sshd.masters()) - {master}) == 1


async def test_deleted_socket_is_made_again_by_the_same_connection(far: Far) -> None:
    await ok(far, "env", "list")
    for path in far.sshd.sockets():
        if path.name != "m":
            path.unlink()
    await ok(far, "env", "list")
    assert far.sshd.logins == 1


async def test_connection_ends_by_itself(cluster: Settings, tmp_path: Path) -> None:
    with Sshd(persist=6) as sshd:
        far = Far(sshd, tmp_path, tmp_path / "home")
        await asyncio.to_thread(far.add, cluster)
        await ok(far, "env", "list")
        await asyncio.to_thread(until, "the connection has ended", lambda: not sshd.masters())
        await asyncio.to_thread(far.add, cluster, "other", "other")
        (socket,) = sshd.sockets()
        await error(far, "env", "list")
        assert not socket.exists(), "the start of another connection sweeps"


HOSTS = [
    ("unknown", "Host key verification failed", "confirm the host's key once, by hand"),
    ("stranger", "Permission denied", "load the key into the agent"),
    ("broken", "closed by", "see that this works"),
]


@pytest.mark.parametrize(("host", "reason", "step"), HOSTS)
async def test_failing_ssh_is_reported_with_its_words(
    host: str, reason: str, step: str, far: Far, cluster: Settings
) -> None:
    await asyncio.to_thread(far.add, cluster, host, f"ops@{host}")
    done = await asyncio.to_thread(far.run, "env", "list")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"Error: ssh cannot connect to ops@{host}: ")
    assert reason in done.stderr
    assert step in done.stderr
    assert f"ssh ops@{host}\n" in done.stderr
    assert (await error(far, "env", "list"))["code"] == "ssh_failed"
    assert far.sshd.masters() == []
    assert (await error(far, "doctor"))["message"] == "failed checks: ssh"


async def test_missing_ssh_is_reported(far: Far, tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "unshare").symlink_to("/usr/bin/unshare")
    far.environ["PATH"] = str(tmp_path / "bin")
    assert (await error(far, "env", "list"))["code"] == "ssh_missing"


async def test_gateway_out_of_reach_of_the_host_is_reported_with_the_words_of_ssh(far: Far, cluster: Settings) -> None:
    away = f"127.0.0.1:{free_port()}"
    await asyncio.to_thread(far.add, replace(cluster, endpoints=(away,)), "away")
    done = await asyncio.to_thread(far.run, "env", "list")
    assert done.returncode == 1
    assert f"etcd at {away} through ssh {ALIAS} does not answer" in done.stderr
    assert done.stderr.count("ssh: open failed: connect failed: Connection refused") == 1


async def test_audit_reaches_every_gateway_through_ssh(
    history: RunningGateway,  # noqa: F811
    other: RunningGateway,  # noqa: F811
    sshd: Sshd,
    tmp_path: Path,
) -> None:
    far = Far(sshd, tmp_path, tmp_path / "home")
    await asyncio.to_thread(far.add, history.root())
    answer = await asyncio.to_thread(far.json, "audit", "--by", "ann")
    assert answer["complete"]
    assert len(answer["entries"]) >= 2
    assert len(sshd.sockets()) == 3
    both = replace(history.root(), endpoints=(history.address, other.address))
    await asyncio.to_thread(far.add, both, "both")
    assert (await asyncio.to_thread(far.json, "audit", "--by", "ann"))["complete"]
    assert sshd.logins == 1


@pytest.mark.docker
async def test_app_is_deployed_and_used_through_ssh(shop: Shop, agent: AgentNode, sshd: Sshd) -> None:  # noqa: F811
    """The agent's API is reached through the tunnel as well."""
    ann = await asyncio.to_thread(lambda: shop.operator("ann", "*", nodes=True))
    await asyncio.to_thread(lambda: ann.set("TOKEN", b"one", service="jobs"))
    far = Far(sshd, shop.folder, shop.folder.parent / "home")
    far.environ["DEVOPSELLENCE_IDENTITY"] = ann.environ["DEVOPSELLENCE_IDENTITY"]
    await asyncio.to_thread(far.add, ann.settings)
    await ok(far, "deploy")
    assert (await asyncio.to_thread(far.json, "status"))["rollout"]["phase"] == "settled"
    assert await ok(far, "exec", "jobs", "--", "sh", "-c", "echo $TOKEN") == "one\n"
    assert "ready" in await ok(far, "logs", "jobs")
    assert await ok(far, "task", "run", "hello") == "hello\n"
    await ok(far, "node", "diagnose", "n1")
    assert sshd.logins == 1


async def test_root_reaches_its_cluster_as_the_context_does(settings: Settings, sshd: Sshd, tmp_path: Path) -> None:
    far = Far(sshd, tmp_path, tmp_path / "home")
    await ok(far, "cluster", "init", "--no-passphrase", "--etcd", "e1=192.0.2.1", "--prefix", settings.prefix)
    folder = ClusterFolder(tmp_path / "home" / "cluster")
    bundle, root, port = folder.controller, folder.root_operator, free_port()
    files = CertificateFiles(bundle.authority, bundle.certificate, bundle.key)
    controller = ControllerProcess(settings, tmp_path / "controller.log", *gateway_options(files, port))
    try:
        await controller.logged("gateway started")
        through = replace(settings, endpoints=(f"127.0.0.1:{port}",))
        access = replace(through, ca_cert=root.authority, cert=root.certificate, key=root.key)
        await asyncio.to_thread(far.add, access)
        assert "Operator ben: " in await ok(far, "operator", "add", "ben", "--role", "viewer")
        operators = (await asyncio.to_thread(far.json, "operator", "list"))["operators"]
        assert [found["operator"] for found in operators] == ["ben"]
    finally:
        controller.end()
