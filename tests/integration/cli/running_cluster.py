"""Three members of etcd and a controller, started as ``cluster init`` says, and agents as ``node register`` does."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from devopsellence.cli.access_token import TOKEN
from devopsellence.store.settings import Settings
from tests.support.cli import NO_DEV_CLUSTER, Cli
from tests.support.docker import remove_node_objects
from tests.support.ports import free_port, free_ports
from tests.support.process import Program, log_lines, python_environ
from tests.support.until import until

MEMBERS = {"e1": "127.0.0.1", "e2": "127.0.0.2", "e3": "127.0.0.3"}


@dataclass
class RunningCluster:
    """Etcd and a controller with the variables that ``cluster init`` wrote for them, except for ports."""

    cli: Cli
    pki: Path
    #: Gateway of the controller.
    endpoints: str
    etcd: str

    def ok(self, *arguments: str) -> str:
        """Run a command as root; return the output."""
        return self.cli.ok("cluster", *arguments, "--pki", str(self.pki), "--etcd-endpoints", self.endpoints)

    def as_party(self, bundle: str, *, at_etcd: bool = False) -> Cli:
        """Return a command line with the certificate in a folder, at the gateway or at etcd itself."""
        root = self.pki / bundle
        endpoints = (self.etcd if at_etcd else self.endpoints).split(",")
        settings = Settings(tuple(endpoints), ca_cert=root / "ca.crt", cert=root / "tls.crt", key=root / "tls.key")
        return Cli(settings, self.cli.folder)

    def job(self, token: str) -> Cli:
        """Return the command line of a job that has a token and nothing else."""
        cli = Cli(self.as_party("root").settings, self.cli.folder)
        cli.environ = {"DEVOPSELLENCE_HOME": NO_DEV_CLUSTER, TOKEN: token}
        return cli

    @contextmanager
    def agent(self, registered: Mapping[str, Any], state: Path) -> Iterator[str]:
        """Run the agent of a node as the document of its registration says; yield the address of its API."""
        address = f"127.0.0.1:{free_port()}"
        with self._agent(registered, state, address, self.endpoints):
            root = self.as_party("root")
            until("it is there", lambda: root.json("node", "list")["nodes"][0]["note"] == "", seconds=30, every=0.2)
            yield address

    @contextmanager
    def agent_cut_off(self, registered: Mapping[str, Any], state: Path) -> Iterator[Path]:
        """Run the agent of a node at its registered address and the usual port, without a gateway; yield its log."""
        with self._agent(registered, state, "", f"127.0.0.1:{free_port()}") as log:
            until("the API is there", lambda: log_lines(log, "API started"), seconds=30)
            yield log

    @contextmanager
    def _agent(self, registered: Mapping[str, Any], state: Path, address: str, gateways: str) -> Iterator[Path]:
        command = registered["agent_command"]
        for its, meant in (
            *((("0.0.0.0:7443", address), ("127.0.0.1:7443", address)) if address else ()),
            ("/etc/devopsellence", registered["bundle"]),
            ("/var/lib/devopsellence", str(state)),
            ("127.0.0.1:2381,127.0.0.2:2381,127.0.0.3:2381", gateways),
        ):
            command = command.replace(its, meant)
        words = [sys.executable, "-m", "devopsellence.nodeagent", *shlex.split(command)[1:]]
        log = state.with_suffix(".log")
        agent = Program(words, python_environ(dict(os.environ)), log)
        agent.start()
        try:
            yield log
        finally:
            agent.end(signal.SIGTERM)
            remove_node_objects(registered["uid"])


@contextmanager
def running_cluster(bare: Cli, pki: Path, folder: Path) -> Iterator[RunningCluster]:
    """Run the programs with the certificates in ``pki`` and their data in ``folder``."""
    bare.ok(
        "cluster",
        "init",
        "--no-passphrase",
        "--pki",
        str(pki),
        *(f"--etcd={name}={address}" for name, address in MEMBERS.items()),
    )
    client, peer, gateway = free_ports(3)
    ports = {2379: client, 2380: peer, 2381: gateway}
    with ExitStack() as stack:
        for name in MEMBERS:
            homes = {"/etc/etcd": pki / f"etcd-{name}", "/var/lib/etcd": folder / f"data-{name}"}
            variables = variables_of(pki / f"etcd-{name}" / "etcd.env", homes, ports)
            log = stack.enter_context((folder / f"{name}.log").open("wb"))
            process = subprocess.Popen(["etcd"], env=variables, stdout=log, stderr=log)
            stack.callback(process.wait)
            stack.callback(process.kill)
        bundle = pki / "controller"
        environ = variables_of(bundle / "controller.env", {"/etc/devopsellence-controller": bundle}, ports)
        controller = Program(
            [sys.executable, "-m", "devopsellence.controller"], python_environ(environ), folder / "controller.log"
        )
        stack.callback(controller.end)
        controller.start()
        etcd = ",".join(f"{address}:{client}" for address in MEMBERS.values())
        started = RunningCluster(bare, pki, f"127.0.0.1:{gateway}", etcd)
        until(
            "the gateway answers",
            lambda: started.as_party("root").run("node", "list").exit_code == 0,
            seconds=30,
            every=0.2,
        )
        yield started


def variables_of(file: Path, homes: Mapping[str, Path], ports: Mapping[int, int]) -> dict[str, str]:
    """Return the variables of a settings file, with folders and ports of the test's own."""
    text = file.read_text()
    for default, home in homes.items():
        text = re.sub(rf"{default}(/devopsellence)?(?=[/\"])", str(home), text)
    for default_port, port in ports.items():
        text = text.replace(f":{default_port}", f":{port}")
    return {"PATH": os.environ["PATH"], **dict(line.split("=", 1) for line in shlex.split(text))}
