"""Machine of the bed, and the programs on the machine."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import psutil

from devopsellence.cli.dev.process import ProcessIdentity, identify, read_pid_file
from tests.support.run import run
from tests.support.until import until

REPOSITORY: Final = Path(__file__).parents[3]
_FIRST_PROCESS: Final = Path(__file__).with_name("machine.sh")
_NEW_NAMESPACES: Final = ("unshare", "--mount", "--uts", "--ipc", "--net", "--pid", "--fork", "--kill-child")
_END_SECONDS: Final = 20.0


def environ() -> dict[str, str]:
    """The environment of everything that runs on a bed: this project's code, nothing of the caller's own cluster."""
    theirs = ("DEVOPSELLENCE_", "ETCDCTL_", "ETCD_", "DOCKER_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(theirs)}
    roots = [REPOSITORY / root for root in ("proto", "core", "controller", "nodeagent", "cli", ".")]
    return {**kept, "PYTHONPATH": os.pathsep.join(str(root) for root in roots), "NO_COLOR": "1"}


class Machine:
    """Machine with a ``name`` and an ``address``; programs write logs to ``logs``."""

    def __init__(self, name: str, address: str, folder: Path, logs: Path) -> None:
        self.name = name
        self.address = address
        self.folder = folder
        self.logs = logs
        self._unshare: subprocess.Popen[str] | None = None
        self._init: ProcessIdentity | None = None

    @property
    def port(self) -> str:
        """Unique name on the bed: the name, except for a machine that replaced another under the same name."""
        return self.folder.name

    @property
    def init(self) -> ProcessIdentity:
        """First process of the machine, as seen from outside."""
        if self._init is None:
            self._init = read_pid_file(self.folder / "init.pid")
        assert self._init is not None, f"{self.name} was never switched on"
        return self._init

    @property
    def on(self) -> bool:
        """True from :meth:`switch_on` to :meth:`switch_off`."""
        return (self.folder / "init.pid").exists() and self.init.alive

    @property
    def root(self) -> Path:
        """File system of the machine, as seen from outside."""
        return Path(f"/proc/{self.init.pid}/root")

    def switch_on(self) -> None:
        """Create the namespaces and the first process; there is no network yet."""
        self.folder.mkdir(parents=True, exist_ok=True)
        command = [*_NEW_NAMESPACES, "--mount-proc", str(_FIRST_PROCESS), self.name, str(self.folder / "disk")]
        with self.log("machine").open("a") as log:
            self._unshare = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log, text=True, start_new_session=True
            )
        assert self._unshare.stdout is not None
        with self._unshare.stdout as output:
            ready = output.readline()
        # Also of one that is half made: its first process must not be forgotten.
        for child in psutil.Process(self._unshare.pid).children():
            self._init = identify(child.pid)
        if self._init is not None:
            (self.folder / "init.pid").write_text(f"{self._init.pid} {self._init.started}\n")
        if ready != "ready\n":
            raise RuntimeError(f"machine {self.name} cannot be made: {self.log('machine').read_text()[-1000:]}")

    def switch_off(self) -> None:
        """Kill the machine, as in a power failure: everything but the disk is gone."""
        if (self.folder / "init.pid").exists():
            self.init.send(signal.SIGKILL)
            self.init.wait_gone(_END_SECONDS)
        if self._unshare is not None:
            self._unshare.wait(timeout=_END_SECONDS)
            self._unshare = None
        self._init = None

    def log(self, program: str) -> Path:
        return self.logs / f"{self.port}-{program}.log"

    def inside(self, *command: str) -> list[str]:
        """Return the command line that runs ``command`` on the machine."""
        names = ("--mount", "--uts", "--ipc", "--net", "--pid")
        return ["nsenter", "--target", str(self.init.pid), *names, "--wd=/", "--", *command]

    def run(
        self, *command: str, check: bool = True, timeout: float = 60, stdin: str = ""
    ) -> subprocess.CompletedProcess[str]:
        """Run a command on the machine with ``stdin`` as input and captured output, shown if the command fails."""
        return run(self.inside(*command), environ=environ(), stdin=stdin, timeout=timeout, check=check)

    def copy(self, files: Path, to: str) -> None:
        """Copy the files of a folder into the folder ``to`` of the machine."""
        target = self.root / to.lstrip("/")
        target.mkdir(mode=0o700, parents=True, exist_ok=True)
        for file in files.iterdir():
            shutil.copy2(file, target)

    def program(self, name: str) -> Program:
        return Program(self, name)


class Program:
    """Long-running program of a machine: killed, paused and started again by name."""

    def __init__(self, machine: Machine, name: str) -> None:
        self.machine = machine
        self.name = name
        self._described = machine.folder / f"{name}.json"

    def describe(self, command: Sequence[str], variables: Mapping[str, str] | None = None) -> None:
        """Set the command and the variables for the next start."""
        self._described.write_text(json.dumps({"command": list(command), "variables": dict(variables or {})}))

    def python(self, module: str, *arguments: str, variables: Mapping[str, str] | None = None) -> None:
        """Set a module of this project as the command for the next start."""
        self.describe([sys.executable, "-m", module, *arguments], variables)

    @property
    def running(self) -> bool:
        return self.machine.on and self._alive(self.pid)

    def start(self) -> None:
        """Start the program as a child of the machine's first process; the log is outside the machine."""
        assert not self.running, f"{self.name} on {self.machine.name} already runs"
        description = json.loads(self._described.read_text())
        script = 'setsid "$@" & echo "$!" >"$0"'
        with self.machine.log(self.name).open("ab") as log:
            subprocess.run(
                self.machine.inside("sh", "-c", script, self._pid_file, *description["command"]),
                env={**environ(), **description["variables"]},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                check=True,
            )

    def stop(self) -> None:
        """End the program with SIGTERM."""
        self._end("TERM")

    def kill(self) -> None:
        """End the program with SIGKILL, paused or not."""
        self._end("KILL")

    def pause(self) -> None:
        """Pause the program with SIGSTOP: connections stay open."""
        self._signal("STOP")

    def resume(self) -> None:
        """Resume the program with SIGCONT."""
        self._signal("CONT")

    @property
    def _pid_file(self) -> str:
        return f"/run/bed-{self.name}.pid"

    @property
    def pid(self) -> int:
        """Return the pid inside the machine; 0 if never started there."""
        file = self.machine.root / self._pid_file.lstrip("/")
        return int(file.read_text()) if file.exists() else 0

    def _alive(self, pid: int) -> bool:
        try:
            stat = (self.machine.root / "proc" / str(pid) / "stat").read_text()
        except OSError:
            return False
        return stat.rpartition(")")[2].split()[0] not in "ZX"

    def _end(self, name: str) -> None:
        pid = self.pid
        if not self._alive(pid):
            return
        self._signal(name)
        until(f"{self.name} on {self.machine.name} has ended", lambda: not self._alive(pid), seconds=_END_SECONDS)

    def _signal(self, name: str) -> None:
        pid = self.pid
        assert self._alive(pid), f"{self.name} on {self.machine.name} does not run"
        self.machine.run("kill", f"-{name}", str(pid))


def wait_for(what: str, program: Program, ready: Sequence[str], seconds: float = 60.0) -> None:
    """Return once the command ``ready`` succeeds on the program's machine.

    Raises:
        RuntimeError: the program has ended, or the time is over; with the end of its log.
    """
    give_up = time.monotonic() + seconds
    while program.machine.run(*ready, check=False).returncode != 0:
        if not program.running or time.monotonic() > give_up:
            log = program.machine.log(program.name)
            tail = log.read_text(errors="replace")[-2000:]
            raise RuntimeError(f"{what} on {program.machine.name} is not there; the end of {log}:\n{tail}")
        time.sleep(0.1)
