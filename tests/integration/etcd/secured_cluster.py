"""Cluster set up by docs/etcd.md: three members of etcd, two controllers with gateways, an agent.

All programs start with the files of ``cluster init`` and ``node register``. Two members run in
network namespaces, so that one member can be cut off from the others but not from clients.
"""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

from devopsellence.store.settings import Settings
from tests.integration.etcd.link import Link
from tests.integration.etcd.member import Member
from tests.support.cli import NO_DEV_CLUSTER, Cli
from tests.support.docker import docker, remove_node_objects
from tests.support.images import IMAGE
from tests.support.ports import free_port, free_ports
from tests.support.process import Program, python_environ
from tests.support.project import PROJECT
from tests.support.run import run
from tests.support.until import until

SCRIPT = PROJECT / "deploy" / "etcd" / "etcd.sh"
CONTROLLER, AGENT = "devopsellence.controller", "devopsellence.nodeagent"
# `steady` never changes; `probe` is replaced by every release.
CONFIG = """\
schema_version: 1
organization: acme
project: {project}
services:
  steady:
    image: {image}
    command: [/bin/httpd, -f, -p, "3000", -h, /www]
    ports: [{{name: http, port: 3000}}]
    healthcheck: {{path: /up, interval: 1s}}
    stop_grace_period: 0s
  probe:
    image: {image}
    command: [/bin/sleep, "100000"]
    env: {{TEXT: "{text}"}}
    stop_grace_period: 0s
"""


class SecuredCluster:
    """Members, controllers and agent, and the actions of an operator."""

    def __init__(self, folder: Path, link: Link, extra: Mapping[str, str]) -> None:
        self.folder, self.link = folder, link
        self.project = f"etcd-{uuid.uuid4().hex[:8]}"
        self.app = folder / "app"
        self.app.mkdir()
        (folder / ".git").mkdir()
        self.pki = folder / "pki"
        self._release = 0
        addresses = dict(zip(("e1", "e2", "e3"), link.addresses.values(), strict=True))
        bare = Cli(Settings(("127.0.0.1:1",)), self.app)
        bare.environ = {"DEVOPSELLENCE_HOME": NO_DEV_CLUSTER}
        members = (f"--etcd={name}={address}" for name, address in addresses.items())
        bare.ok("cluster", "init", "--no-passphrase", "--pki", str(self.pki), *members, "--controller=127.0.0.1")
        self.client_port, peer, *gateways = free_ports(4)
        self.gateways = tuple(f"127.0.0.1:{port}" for port in gateways)
        self.members = [
            Member(
                name,
                address,
                self.pki / f"etcd-{name}",
                folder / f"data-{name}",
                (self.client_port, peer),
                ["ip", "netns", "exec", place] if place else [],
            )
            for (name, address), place in zip(addresses.items(), link.addresses, strict=True)
        ]
        for member in self.members:
            member.extra = dict(extra)
        root = self.pki / "root"
        self.settings = Settings(
            tuple(member.endpoint for member in self.members),
            ca_cert=root / "ca.crt",
            cert=root / "tls.crt",
            key=root / "tls.key",
        )
        #: Root's command line at etcd itself; ``cli`` is that through the gateways.
        self.cli_at_etcd = Cli(self.settings, self.app)
        self.cli = Cli(replace(self.settings, endpoints=self.gateways), self.app)
        for cli in (self.cli, self.cli_at_etcd):
            cli.environ |= {"DEVOPSELLENCE_IDENTITY": str(folder / "operator.age")}
        self._environ = python_environ(
            {key: value for key, value in os.environ.items() if not key.startswith("DEVOPSELLENCE_")}
        )
        self.controllers: list[Program] = []
        self.agent: Program | None = None
        self._uid = ""

    # -- etcd

    def ready(self, *, seconds: float = 40.0) -> None:
        """Return once all members are healthy."""
        for member in self.members:
            until(f"{member.name} serves", lambda member=member: self._serves(member), seconds=seconds, every=0.1)  # type: ignore[misc]

    def _serves(self, member: Member) -> bool:
        assert member.running, member.log.read_text()[-3000:]
        return self.etcdctl("endpoint", "health", at=[member], check=False).returncode == 0

    def etcdctl(
        self, *words: str, at: Sequence[Member] | None = None, check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        root = self.settings
        endpoints = ",".join(f"https://{member.endpoint}" for member in (self.members if at is None else at))
        command = ["etcdctl", f"--endpoints={endpoints}", f"--cacert={root.ca_cert}", f"--cert={root.cert}"]
        return run([*command, f"--key={root.key}", *words], check=check)

    def script(self, *words: str, check: bool = True, environ: Mapping[str, str] | None = None) -> str:
        """Run deploy/etcd/etcd.sh with root's certificate; return stdout, or stderr if the script fails."""
        root = self.settings
        etcdctl = {
            "ETCDCTL_ENDPOINTS": ",".join(f"https://{member.endpoint}" for member in self.members),
            "ETCDCTL_CACERT": str(root.ca_cert),
            "ETCDCTL_CERT": str(root.cert),
            "ETCDCTL_KEY": str(root.key),
        }
        home = {"DEVOPSELLENCE_HOME": str(self.folder)}
        reach = {**os.environ, **root.to_environ(), **etcdctl, **home, **(environ or {})}
        done = run([str(SCRIPT), *words], environ=reach, check=check)
        return done.stdout if done.returncode == 0 else done.stderr

    @property
    def leader(self) -> Member:
        """Return the member that leads."""

        def look() -> Member | None:
            for member in self.members:
                if member.running:
                    status_call = self.etcdctl("endpoint", "status", "--write-out=json", at=[member], check=False)
                    if status_call.returncode == 0:
                        status = json.loads(status_call.stdout)[0]["Status"]
                        if status["leader"] == status["header"]["member_id"]:
                            return member
            return None

        leader = until("a member leads", look, every=0.1)
        assert leader is not None
        return leader

    # -- controllers, agent, operator

    def prepare(self) -> None:
        """Start two controllers with gateways, and the agent."""
        own = self.pki / "controller"
        settings = replace(self.settings, ca_cert=own / "ca.crt", cert=own / "tls.crt", key=own / "tls.key")
        environ = {**self._environ, **settings.to_environ()}
        for number, gateway in enumerate(self.gateways, 1):
            command = [sys.executable, "-m", CONTROLLER, "--identity", f"c{number}", "--gateway-listen", gateway]
            self.controllers.append(Program(command, environ, self.folder / f"c{number}.log"))
            self.controllers[-1].start()
        until("the gateways answer", lambda: self.cli.run("node", "list").exit_code == 0, seconds=40, every=0.2)
        registered = self.cli.json(
            "node", "register", "n1", "--labels", "web,worker", "--address", "127.0.0.1", "--pki", str(self.pki)
        )
        self._uid = registered["uid"]
        port = free_port()
        command = registered["agent_command"]
        for default, value in (
            ("0.0.0.0:7443", f"127.0.0.1:{port}"),
            ("127.0.0.1:7443", f"127.0.0.1:{port}"),
            ("/etc/devopsellence", registered["bundle"]),
            ("/var/lib/devopsellence", str(self.folder / "agent")),
            ("127.0.0.1:2381", ",".join(self.gateways)),
        ):
            command = command.replace(default, value)
        words = [sys.executable, "-m", AGENT, *shlex.split(command)[1:]]
        self.agent = Program(words, self._environ, self.folder / "agent.log")
        self.agent.start()
        until("the agent is ready", lambda: self.cli.json("node", "list")["nodes"][0]["note"] == "", every=0.2)
        self.configure("")
        self.cli.ok("node", "attach", "n1")

    @property
    def programs(self) -> list[Program]:
        """Return controllers and agent."""
        assert self.agent is not None
        return [*self.controllers, self.agent]

    def configure(self, text: str) -> None:
        (self.app / "devopsellence.yml").write_text(CONFIG.format(project=self.project, image=IMAGE, text=text))

    def deploy(self, text: str) -> int:
        """Deploy a release whose ``probe`` has ``text`` and follow it until settled; return the number."""
        self.configure(text)
        self.cli.ok("deploy")
        until("the new probe runs alone", lambda: self.probe() == text)
        return int(self.cli.json("status")["release"]["number"])

    def steady(self) -> str:
        """Return id, start time and state of the container of ``steady``, which nothing may touch."""
        return self._inspect("steady", "{{.Id}} {{.State.StartedAt}} {{.State.Running}}")

    def probe(self) -> str:
        """Return the text of the running container of ``probe``; "" unless there is exactly one."""
        variables = self._inspect("probe", "{{range .Config.Env}}{{println .}}{{end}}").split("\n")
        texts = [line.removeprefix("TEXT=") for line in variables if line.startswith("TEXT=")]
        return texts[0] if len(texts) == 1 else ""

    def _inspect(self, service: str, template: str) -> str:
        running = ("--filter", "status=running", "--filter", f"label=devopsellence.service={service}")
        containers = docker("ps", "-q", *self._ours, *running).split()
        # A container may be removed between the two calls: the remaining ones are shown nevertheless.
        return docker("inspect", "-f", template, *containers, check=False) if containers else ""

    @property
    def _ours(self) -> tuple[str, str]:
        return "--filter", f"label=devopsellence.node_uid={self._uid}"

    def clean(self) -> None:
        """End all programs and remove the objects of the node."""
        for program in [*self.controllers, *([self.agent] if self.agent else [])]:
            program.end(signal.SIGTERM)
        for member in self.members:
            member.end()
        if self._uid:
            remove_node_objects(self._uid)


@contextmanager
def running_cluster(folder: Path, **extra: str) -> Iterator[SecuredCluster]:
    """Run a cluster with release 1 settled; ``extra`` are further variables of etcd."""
    with ExitStack() as stack:
        cluster = SecuredCluster(folder, stack.enter_context(Link()), extra)
        stack.callback(cluster.clean)
        previous = Path.cwd()
        os.chdir(cluster.app)
        stack.callback(os.chdir, previous)
        for member in cluster.members:
            member.start()
        cluster.prepare()
        cluster.deploy("first")
        yield cluster
