"""Cluster on whole machines: etcd, a controller and an agent on each, run by the project's units.

Installed by the commands of docs/install.md, docs/etcd.md and docs/agent.md.
"""

from __future__ import annotations

import json
import os
import sys
from functools import partial
from pathlib import Path
from typing import Any, Final

from devopsellence.cli.cluster.programs import CONTROLLER_HOME, GATEWAY_PORT
from tests.support.cluster.machine import environ
from tests.support.images import web_image
from tests.support.machines.bed import MachineBed
from tests.support.machines.machine import Machine
from tests.support.project import PROJECT
from tests.support.until import until

ETCD: Final = "devopsellence-etcd"
CONTROLLER: Final = "devopsellence-controller"
AGENT: Final = "devopsellence-agent"
RENEW: Final = "devopsellence-etcd-renew"
SNAPSHOT: Final = "devopsellence-etcd-snapshot"
PROGRAMS: Final = (ETCD, CONTROLLER, AGENT)
HOST: Final = "shop.test"
_SETTLE_SECONDS: Final = 90.0
#: Stricter than the units: a forbidden system call ends the program, instead of an error that it might not report.
_STRICT: Final = "[Service]\nSystemCallErrorNumber=\n"
#: There is no registry here.
_BUILT_IN: Final = "[Service]\nEnvironment=DEVOPSELLENCE_ENVOY_IMAGE=built-in\n"
_CONFIG: Final = """\
schema_version: 1
organization: acme
project: shop
services:
  web:
    image: {image}
    env: {{VERSION: "{version}"}}
    ports: [{{name: http, port: 3000}}]
    healthcheck: {{path: /up, port: 3000, interval: 500ms, retries: 2, start_period: 15s}}
ingress:
  hosts: [{host}]
  rules:
    - match: {{host: {host}}}
      target: {{service: web, port: http}}
  tls: {{mode: "off"}}
"""


class MachineCluster:
    """Cluster on all machines of a bed; ``folder`` holds the operator's files."""

    def __init__(self, bed: MachineBed, folder: Path) -> None:
        self.bed = bed
        self.machines = bed.machines
        self.home = folder / "home"
        self.app = folder / "app"
        self._variables: dict[str, str] = {}

    @property
    def pki(self) -> Path:
        """Folder of the cluster's authority."""
        return self.home / "cluster"

    def install(self) -> None:
        """Install and start everything; return once all agents are at work."""
        members = [f"--etcd={name}={machine.address}" for name, machine in self.machines.items()]
        self._variables = self.json("cluster", "init", "--no-passphrase", *members)["variables"]
        for machine in self.machines.values():
            self._install_etcd(machine)
        for machine in self.machines.values():
            self._install_controller(machine)
        until("a gateway answers", lambda: self.devopsellence("node", "list", check=False).returncode == 0, seconds=60)
        for machine in self.machines.values():
            self._install_agent(machine)
        self.wait()

    def _install_etcd(self, machine: Machine) -> None:
        machine.copy(PROJECT / "deploy", "/root/deploy")
        machine.copy(self.pki / f"etcd-{machine.name}", "/root/etcd")
        machine.copy(self.pki / "root", "/root/operator")
        for unit in (*PROGRAMS, RENEW, SNAPSHOT):
            self._drop_in(machine, unit, "strict", _STRICT)
        self._drop_in(machine, AGENT, "envoy", _BUILT_IN)
        # That of Debian's package, which starts at once.
        machine.ssh("systemctl disable --now etcd")
        machine.ssh("cd /root && deploy/etcd/etcd.sh install ./etcd --snapshots ./operator && rm -r etcd operator")

    def _install_controller(self, machine: Machine) -> None:
        machine.copy(self.pki / "controller", CONTROLLER_HOME)
        machine.ssh("cp /root/deploy/systemd/*.service /etc/systemd/system && systemctl daemon-reload")
        machine.ssh(f"systemctl enable --now {CONTROLLER}")

    def _install_agent(self, machine: Machine) -> None:
        registered = self.json("node", "register", machine.name, "--address", machine.address)
        machine.ssh("devopsellence-agent join", stdin=registered["join_token"])
        machine.ssh(f"systemctl enable --now {AGENT}")

    def _drop_in(self, machine: Machine, unit: str, name: str, text: str) -> None:
        folder = f"/etc/systemd/system/{unit}.service.d"
        machine.ssh(f"mkdir -p {folder} && cat >{folder}/{name}.conf", stdin=text)

    def deploy(self, version: str) -> None:
        """Deploy a web server that answers with ``version``; return once it has settled on all nodes."""
        first = not self.app.exists()
        self.app.mkdir(exist_ok=True)
        text = _CONFIG.format(image=web_image(), version=version, host=HOST)
        (self.app / "devopsellence.yml").write_text(text)
        if first:
            for name in self.machines:
                self.devopsellence("node", "attach", name)
        self.devopsellence("deploy")

    def page(self, machine: Machine) -> str:
        """Return the app's page as served by the router of a machine; empty without a good answer."""
        url = f"http://{machine.address}/version"
        return self.bed.run("curl", "-sf", "--max-time", "5", "-H", f"Host: {HOST}", url, check=False).stdout

    def wait(self) -> None:
        """Return once every agent is at work, as each gateway shows."""
        for machine in self.machines.values():
            ready = partial(self._ready, machine)
            until(f"all nodes are ready at {machine.name}", ready, seconds=_SETTLE_SECONDS, every=0.3)

    def wait_page(self, version: str) -> None:
        """Return once every machine serves the page of a version, and runs a container for it."""
        for machine in self.machines.values():
            page = partial(self._serves, machine, version)
            until(f"{machine.name} serves the page", page, seconds=_SETTLE_SECONDS, every=0.3)
            until(f"{machine.name} runs the app", partial(self._runs_app, machine), seconds=_SETTLE_SECONDS, every=0.3)

    def _ready(self, gateway: Machine) -> bool:
        done = self.devopsellence("node", "list", "-o", "json", check=False, gateway=gateway)
        if done.returncode != 0:
            return False
        nodes = json.loads(done.stdout.splitlines()[-1])["nodes"]
        return sorted(node["node"] for node in nodes if node["state"] == "ready") == sorted(self.machines)

    def _serves(self, machine: Machine, version: str) -> bool:
        return self.page(machine) == version

    def _runs_app(self, machine: Machine) -> bool:
        label = "label=devopsellence.environment=acme/shop/production"
        return bool(machine.ssh(f"docker ps --quiet --filter {label}").stdout.strip())

    def devopsellence(self, *arguments: str, check: bool = True, gateway: Machine | None = None) -> Any:
        """Run the command line of the operator, root; ``gateway``: through that machine's alone."""
        theirs = {name: value for name, value in os.environ.items() if name.startswith("DOCKER_")}
        variables = {**environ(), **theirs, "DEVOPSELLENCE_HOME": str(self.home), **self._variables}
        if gateway is not None:
            variables["DEVOPSELLENCE_ETCD_ENDPOINTS"] = f"{gateway.address}:{GATEWAY_PORT}"
        command = [sys.executable, "-m", "devopsellence.cli", *arguments]
        cwd = self.app if self.app.exists() else None
        return self.bed.run(*command, environ=variables, cwd=cwd, check=check)

    def json(self, *arguments: str) -> dict[str, Any]:
        """Run a command with ``-o json``; return the last document."""
        document: dict[str, Any] = json.loads(self.devopsellence(*arguments, "-o", "json").stdout.splitlines()[-1])
        return document
