"""A machine of a test's own: namespaces with a real Docker Engine in them, and the real command line.

What a test does here (killing dockerd, filling it with containers, taking ports) reaches nothing outside the network
namespace. The engine has a mount namespace too, so that nothing stays mounted once all is gone, however it went.
``namespaces.py`` is the process that holds both, and ends everything in them.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.support.need import lack
from tests.support.run import run
from tests.support.until import until

_READY_SECONDS = 60.0
_END_SECONDS = 60.0
_REPOSITORY = Path(__file__).parents[2]


def need_host() -> None:
    """The test needs root, and what makes a network namespace and an engine in it."""
    if problem := host_problem():
        lack(problem)


def host_problem() -> str:
    """What is missing here for machines of one's own, as "needs …"; empty when nothing is."""
    missing = [program for program in ("dockerd", "ip", "nsenter", "unshare", "iptables") if not shutil.which(program)]
    if missing:
        return f"needs {', '.join(missing)} on PATH"
    return "" if os.geteuid() == 0 else "needs root, to make a network namespace"


class Host:
    """Use as a context manager: everything it started is gone at the end, its folder stays the caller's to remove.

    ``folder`` holds the Docker Engine's files and the local cluster's state (``folder / "home"``).
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        # A socket's path may have 107 characters at most; pytest's folders come close.
        self._sockets = Path("/tmp") / f"dvo-{uuid.uuid4().hex[:8]}"
        self.socket = f"unix://{self._sockets}/docker.sock"
        self._holder: subprocess.Popen[str] | None = None
        self._dockerd: subprocess.Popen[bytes] | None = None

    @property
    def environ(self) -> dict[str, str]:
        """The environment of everything that runs here."""
        kept = {key: value for key, value in os.environ.items() if not key.startswith("DEVOPSELLENCE_")}
        roots = ["proto", "core", "controller", "nodeagent", "cli"]
        return {
            **kept,
            "DOCKER_HOST": self.socket,
            "DEVOPSELLENCE_HOME": str(self.folder / "home"),
            "PYTHONPATH": os.pathsep.join(str(_REPOSITORY / root) for root in roots),
            "NO_COLOR": "1",
        }

    def __enter__(self) -> Self:
        need_host()
        self.folder.mkdir(parents=True, exist_ok=True)
        self._sockets.mkdir(mode=0o700)
        try:
            self._hold()
            self.start_docker()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Purge the local cluster, stop the engine, remove the namespaces."""
        try:
            if self._dockerd is not None:
                self._empty()
        finally:
            if self._holder is not None:
                self._holder.communicate(timeout=_END_SECONDS)
                assert self._holder.returncode == 0, (
                    "the namespaces of a host were not cleared: see what was said above"
                )

    def _empty(self) -> None:
        assert self._dockerd is not None
        if self._dockerd.poll() is not None:
            self.start_docker()
        self.devopsellence("dev", "down", "--purge", "--yes", check=False)
        containers = self.docker("ps", "-aq").split()
        if containers:
            self.docker("rm", "-f", *containers)
        self.stop_docker()

    def _hold(self) -> None:
        """Make the namespaces. Who holds them sees the end of its input also when this process is killed."""
        command = ["unshare", "--net", "--mount", sys.executable, "-m", "tests.support.namespaces", str(self._sockets)]
        self._holder = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=self.environ,
            cwd=_REPOSITORY,
            text=True,
            start_new_session=True,
        )
        assert self._holder.stdout is not None
        if self._holder.stdout.readline() != "ready\n":
            raise RuntimeError("the namespaces of a host cannot be made: see what 'unshare' and 'ip' said")

    def _inside(self, *namespaces: str) -> list[str]:
        """The beginning of a command that is run in ``namespaces``, such as ``--net``."""
        assert self._holder is not None
        return ["nsenter", "--target", str(self._holder.pid), *namespaces, "--"]

    def start_docker(self) -> None:
        """Start the engine and return once it answers."""
        root = self.folder / "docker"
        root.mkdir(exist_ok=True)
        command = [
            *self._inside("--net", "--mount"),
            "dockerd", "--host", self.socket, "--data-root", str(root / "data"),
            "--exec-root", str(self._sockets / "exec"), "--pidfile", str(self._sockets / "pid"),
        ]  # fmt: skip
        with (self.folder / "dockerd.log").open("ab") as log:
            self._dockerd = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        give_up = time.monotonic() + _READY_SECONDS
        while subprocess.run(["docker", "version"], env=self.environ, capture_output=True, check=False).returncode != 0:
            if self._dockerd.poll() is not None or time.monotonic() > give_up:
                raise RuntimeError(f"dockerd did not start: {(self.folder / 'dockerd.log').read_text()[-2000:]}")
            time.sleep(0.1)

    def stop_docker(self) -> None:
        """Stop the engine as its service manager would."""
        assert self._dockerd is not None
        self._dockerd.terminate()
        self._dockerd.wait(timeout=60)

    def kill_docker(self) -> None:
        """``kill -9`` the engine; its containers' shims live on."""
        assert self._dockerd is not None
        pidfile = self._sockets / "exec" / "containerd" / "containerd.pid"
        containerd = Path("/proc") / pidfile.read_text().strip() / "stat"
        self._dockerd.send_signal(signal.SIGKILL)
        self._dockerd.wait(timeout=60)
        # containerd dies with it; until it has been reaped, the next dockerd would take it for alive and wait in vain.
        until("containerd is gone", lambda: not containerd.exists() or ") Z " in containerd.read_text())
        pidfile.unlink(missing_ok=True)

    def command(self, *command: str) -> list[str]:
        """``command`` as it is run in the network namespace."""
        return [*self._inside("--net"), *command]

    def run(
        self,
        *command: str,
        check: bool = True,
        cwd: Path | None = None,
        timeout: float = 100,
        given: str = "",
        environ: Mapping[str, str] | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command here; its output is captured, ``given`` is its input. A failure shows it."""
        return run(
            self.command(*command),
            environ={**self.environ, **(environ or {})},
            cwd=cwd,
            given=given,
            timeout=timeout,
            check=check,
        )

    def devopsellence(
        self,
        *args: str,
        check: bool = True,
        cwd: Path | None = None,
        timeout: float = 100,
        given: str = "",
        environ: Mapping[str, str] | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run the real command line here."""
        command = (sys.executable, "-m", "devopsellence.cli", *args)
        return self.run(*command, check=check, cwd=cwd, timeout=timeout, given=given, environ=environ)

    def docker(self, *args: str) -> str:
        """What ``docker ARGS`` prints."""
        return self.run("docker", *args).stdout.strip()

    def load_image(self, reference: str) -> str:
        """Bring an image of the machine's own engine here; its id."""
        save = subprocess.Popen(["docker", "save", reference], stdout=subprocess.PIPE)
        subprocess.run(["docker", "load"], stdin=save.stdout, env=self.environ, check=True, capture_output=True)
        assert save.stdout is not None
        save.stdout.close()
        assert save.wait() == 0, f"docker save {reference} failed"
        return self.docker("image", "inspect", "-f", "{{.Id}}", reference)

    def status(self, cwd: Path) -> dict[str, Any]:
        """The document that ``devopsellence status -o json`` prints."""
        document: dict[str, Any] = json.loads(self.devopsellence("status", "-o", "json", cwd=cwd).stdout)
        return document

    def get(self, url: str) -> str:
        """The body of a page, fetched from here; AssertionError if it is not there."""
        fetch = "import sys, urllib.request as u; print(u.urlopen(sys.argv[1], timeout=5).read().decode())"
        return self.run(sys.executable, "-c", fetch, url).stdout
