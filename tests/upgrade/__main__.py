"""``python -m tests.upgrade [REVISION]``: upgrade a cluster of three hosts as docs/etcd.md says, under requests.

The cluster is started with the programs of ``REVISION``, by default the last one whose agents used etcd itself. Exit
code 1 if a container was replaced, a request failed, or etcd still accepts the certificate of a node.
"""

from __future__ import annotations

import http.client
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

from tests.support.cluster.app import HOST
from tests.support.cluster.bed import Bed
from tests.support.need import need_etcd
from tests.support.project import PROJECT
from tests.support.run import run

#: The last revision whose agents and commands used etcd itself, with its users and roles.
BEFORE_GATEWAYS: Final = "4537706"
_SOURCES: Final = ("cli", "controller", "core", "nodeagent", "proto")
_PAUSE: Final = 0.01


class Requests:
    """Requests to the app on each host in turn, until stopped."""

    def __init__(self, addresses: list[str]) -> None:
        self._addresses = addresses
        self._stopped = threading.Event()
        self.answered = 0
        self.failed: list[str] = []

    @contextmanager
    def sent(self) -> Iterator[None]:
        """Send requests during the block."""
        thread = threading.Thread(target=self._send)
        thread.start()
        try:
            yield
        finally:
            self._stopped.set()
            thread.join()

    def _send(self) -> None:
        while not self._stopped.wait(_PAUSE):
            address = self._addresses[(self.answered + len(self.failed)) % len(self._addresses)]
            connection = http.client.HTTPConnection(address, 80, timeout=5)
            try:
                connection.request("GET", "/version", headers={"Host": HOST})
                answer = connection.getresponse()
                answer.read()
                if answer.status == 200:
                    self.answered += 1
                else:
                    self.failed.append(f"{address}: {answer.status}")
            except OSError as error:
                self.failed.append(f"{address}: {error!r}")
            finally:
                connection.close()


def start_earlier(revision: str, folder: Path, source: Path) -> None:
    """Start a cluster with an app by the programs of an earlier revision, checked out at ``source``."""
    (source / ".venv").symlink_to(PROJECT / ".venv")
    environ = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(str(source / name) for name in _SOURCES),
        "DEVOPSELLENCE_CLUSTER": str(folder),
    }
    run([str(source / "deploy" / "cluster.sh"), "up"], environ=environ, timeout=600)


def upgrade(bed: Bed) -> None:
    """Upgrade controllers, agents and etcd, in this order."""
    controllers = [f"--controller={controller.address}" for controller in bed.controllers.values()]
    bed.take(bed.json("cluster", "init", *controllers)["variables"])
    for controller in bed.controllers.values():
        controller.stop()
    bed.start_controllers()
    _step("controllers")
    for host in bed.hosts.values():
        host.agent.stop()
        bed.enlist(host)
        bed.wait()
    _step("agents")
    for name in bed.etcd:
        bed.restart_member(name)
    bed.wait()
    _step("etcd")


def problems_of(bed: Bed, before: dict[str, list[str]], requests: Requests) -> list[str]:
    """Return what the upgrade broke."""
    problems = [f"{len(requests.failed)} requests failed: {requests.failed[:5]}"] if requests.failed else []
    if (after := containers(bed)) != before:
        problems.append(f"containers were replaced: {before} became {after}")
    node = bed.folder / "home" / "cluster" / f"node-{next(iter(bed.hosts))}"
    files = (f"--cacert={node / 'ca.crt'}", f"--cert={node / 'tls.crt'}", f"--key={node / 'tls.key'}")
    member = next(iter(bed.etcd.values()))
    environ = {name: value for name, value in bed.environ.items() if not name.startswith("ETCDCTL_")}
    command = ["etcdctl", f"--endpoints=https://{member.address}:2379", *files, "get", "/devopsellence"]
    if run(command, environ={**environ, "ETCDCTL_API": "3"}, check=False).returncode == 0:
        problems.append("etcd accepts the certificate of a node")
    return problems


def containers(bed: Bed) -> dict[str, list[str]]:
    """Return the containers of each host, with Envoy."""
    return {
        name: sorted(container["Id"] for container in (*host.containers(), *host.routers()))
        for name, host in bed.hosts.items()
    }


def _step(done: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} upgraded: {done}", flush=True)


def main(revision: str) -> int:
    """Return the exit code."""
    need_etcd()
    with ExitStack() as stack:
        top = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="upgrade-")))
        source, folder = top / "source", top / "cluster"
        run(["git", "-C", str(PROJECT), "worktree", "add", "--detach", str(source), revision])
        stack.callback(run, ["git", "-C", str(PROJECT), "worktree", "remove", "--force", str(source)])
        stack.callback(lambda: Bed(folder).down())
        start_earlier(revision, folder, source)
        bed = Bed(folder)
        before = containers(bed)
        requests = Requests([host.address for host in bed.hosts.values()])
        with requests.sent():
            upgrade(bed)
        problems = problems_of(bed, before, requests)
        bed.devopsellence("deploy", cwd=folder / "app")
    print("\n".join(problems) or f"upgraded from {revision}: {requests.answered} requests, none failed")
    return 1 if problems else 0


if __name__ == "__main__":
    try:
        sys.exit(main(*(sys.argv[1:] or [BEFORE_GATEWAYS])))
    except subprocess.CalledProcessError as error:
        sys.exit(f"{error}\n{error.stdout}{error.stderr}")
