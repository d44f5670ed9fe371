"""``devopsellence dev`` as a person runs it, with a state folder of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from devopsellence.cli.dev import supervisor_control
from devopsellence.cli.dev.paths import DevLayout


class Dev:
    """The command line with a state folder of its own."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.layout = DevLayout(home / "dev")
        self.environ = {
            key: value for key, value in os.environ.items() if not key.startswith(("DEVOPSELLENCE_", "ETCDCTL_"))
        }
        self.environ["DEVOPSELLENCE_HOME"] = str(home)
        self.environ["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)

    def __call__(self, *args: str, code: int = 0, **environ: str) -> subprocess.CompletedProcess[str]:
        """``devopsellence dev ARGS``, which must end with ``code``."""
        done = subprocess.run(
            self.command(*args),
            env={**self.environ, **environ},
            capture_output=True,
            text=True,
            timeout=90,
            check=False,
        )
        assert done.returncode == code, f"{args}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        assert "Traceback" not in done.stderr
        return done

    def command(self, *args: str) -> list[str]:
        return [sys.executable, "-m", "devopsellence.cli", "dev", *args]

    def document(self, *args: str) -> dict[str, Any]:
        """The last JSON document that ``devopsellence dev ARGS -o json`` prints."""
        document: dict[str, Any] = json.loads(self(*args, "-o", "json").stdout.splitlines()[-1])
        return document

    def pids(self) -> dict[str, int]:
        """The processes that live, by name."""
        snapshot = supervisor_control.running(self.layout)
        if snapshot is None:
            return {}
        running = {process.name: process.pid for process in snapshot.processes if process.alive}
        return {"supervisor": snapshot.supervisor.pid, **running}

    def healthy(self) -> dict[str, Any] | None:
        status = self.document("status")
        return status if status["healthy"] else None

    def remembered(self) -> dict[str, Any]:
        state: dict[str, Any] = json.loads(self.layout.state.read_bytes())
        return state

    def etcdctl(
        self, *args: str, certificate: str = "operator", check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        """etcdctl with the certificate of whoever."""
        command = [
            "etcdctl",
            f"--endpoints=https://127.0.0.1:{self.remembered()['client_port']}",
            f"--cacert={self.layout.certificate('ca')}",
            f"--cert={self.layout.certificate(certificate)}",
            f"--key={self.layout.key(certificate)}",
            *args,
        ]
        environ = {**self.environ, "ETCDCTL_API": "3"}
        return subprocess.run(command, env=environ, capture_output=True, text=True, timeout=30, check=check)

    def processes(self) -> list[str]:
        """The command lines of all processes that have to do with the state folder."""
        found = []
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                line = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
                about = line + (path.parent / "environ").read_bytes().decode(errors="replace")
            except OSError:
                continue
            if str(self.home) in about and int(path.parent.name) != os.getpid():
                found.append(line)
        return found


def docker(*args: str) -> str:
    """What ``docker ARGS`` prints."""
    return subprocess.run(["docker", *args], capture_output=True, text=True, check=True).stdout.strip()


def run_container(image: str, uid: str, *options: str) -> str:
    """The id of a container that runs, and looks as if the node ``uid`` had made it."""
    label = f"--label=devopsellence.node_uid={uid}"
    return docker(
        "run", "-d", label, *options, image, "/bin/sh", "-c", "trap 'exit 0' TERM; while :; do sleep 0.1; done"
    )
