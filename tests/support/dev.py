"""``devopsellence dev`` as a process, with a state folder of the test's own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from devopsellence.cli.dev import supervisor_control
from devopsellence.cli.dev.paths import DevLayout
from tests.support.process import python_environ


class Dev:
    """Local cluster with its state below ``home``. Calling the object runs ``devopsellence dev``."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.layout = DevLayout(home / "dev")
        self.environ = python_environ(
            {key: value for key, value in os.environ.items() if not key.startswith(("DEVOPSELLENCE_", "ETCDCTL_"))}
        )
        self.environ["DEVOPSELLENCE_HOME"] = str(home)

    def __call__(self, *args: str, code: int = 0, **environ: str) -> subprocess.CompletedProcess[str]:
        """Run ``devopsellence dev ARGS``, which must end with exit code ``code``."""
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
        """Run ``devopsellence dev ARGS -o json``; return the last JSON document."""
        document: dict[str, Any] = json.loads(self(*args, "-o", "json").stdout.splitlines()[-1])
        return document

    def pids(self) -> dict[str, int]:
        """Return the pids of the running processes of the local cluster, by name."""
        snapshot = supervisor_control.running(self.layout)
        if snapshot is None:
            return {}
        running = {process.name: process.pid for process in snapshot.processes if process.alive}
        return {"supervisor": snapshot.supervisor.pid, **running}

    def healthy(self) -> dict[str, Any] | None:
        """Return the status, or None while the local cluster is not healthy."""
        status = self.document("status")
        return status if status["healthy"] else None

    def saved_state(self) -> dict[str, Any]:
        """Return the content of the state file."""
        state: dict[str, Any] = json.loads(self.layout.state.read_bytes())
        return state

    def etcdctl(
        self, *args: str, certificate: str = "controller", port: str = "client_port", check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        """Run etcdctl at one of the ports of the local cluster with one of its certificates."""
        command = [
            "etcdctl",
            f"--endpoints=https://127.0.0.1:{self.saved_state()[port]}",
            f"--cacert={self.layout.certificate('ca')}",
            f"--cert={self.layout.certificate(certificate)}",
            f"--key={self.layout.key(certificate)}",
            *args,
        ]
        environ = {**self.environ, "ETCDCTL_API": "3"}
        return subprocess.run(command, env=environ, capture_output=True, text=True, timeout=30, check=check)

    def processes(self) -> list[str]:
        """Return the command lines of all processes that mention the state folder."""
        commands = []
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                line = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
                text = line + (path.parent / "environ").read_bytes().decode(errors="replace")
            except OSError:
                continue
            if str(self.home) in text and int(path.parent.name) != os.getpid():
                commands.append(line)
        return commands
