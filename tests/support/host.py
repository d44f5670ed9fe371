"""Host of the test's own: namespaces with a real Docker Engine, and the real command line.

Killing dockerd, filling the engine with containers or taking ports reaches nothing outside the network namespace. The
engine has a mount namespace too, so no mount stays behind, however the test ends. The process ``namespaces.py`` holds
both namespaces, and ends everything in them.
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
    """Skip or fail the test without root and the programs for namespaces and a Docker Engine."""
    if problem := host_problem():
        lack(problem)


def host_problem() -> str:
    """Return what is missing on this machine for hosts, as "needs …"; empty if nothing is."""
    missing = [program for program in ("dockerd", "ip", "nsenter", "unshare", "iptables") if not shutil.which(program)]
    if missing:
        return f"needs {', '.join(missing)} on PATH"
    return "" if os.geteuid() == 0 else "needs root, to make a network namespace"


class Host:
    """Host as a context manager: all processes are gone at the end; the caller removes the folder.

    ``folder`` holds the Docker Engine's files and the local cluster's state (``folder / "home"``). ``options``: further
    options of dockerd. With ``userns_remap`` the engine runs containers in a user namespace, as another user than root.
    """

    def __init__(self, folder: Path, *options: str, userns_remap: bool = False) -> None:
        self.folder = folder
        self._options = options
        self._userns_remap = userns_remap
        self._data = folder / "docker" / "data"
        # A socket's path may have 107 characters at most; pytest's folders come close.
        self._sockets = Path("/tmp") / f"dvo-{uuid.uuid4().hex[:8]}"
        self.socket = f"unix://{self._sockets}/docker.sock"
        self._holder: subprocess.Popen[str] | None = None
        self._dockerd: subprocess.Popen[bytes] | None = None

    @property
    def exec_root(self) -> Path:
        """Folder of the engine's run-time state (``--exec-root``)."""
        return self._sockets / "exec"

    @property
    def environ(self) -> dict[str, str]:
        """Variables of all processes of the host."""
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
            if self._userns_remap:
                self._prepare_remap()
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
                    f"the namespaces of a host were not cleared (exit code {self._holder.returncode}): see above"
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
        """Create the namespaces. Their holder reads the end of its input also if this process is killed."""
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

    def _prepare_remap(self) -> None:
        """Give the user nobody a range of subordinate ids, in the mount namespace alone."""
        for name in ("subuid", "subgid"):
            ranges = self.folder / name
            ranges.write_text("nobody:200000:65536\nnogroup:200000:65536\n")
            run([*self._inside("--mount"), "mount", "--bind", str(ranges), f"/etc/{name}"])
        # The remapped root reaches its containers' files by their path, and pytest closes its own folders to others.
        self._data = self._sockets / "data"
        self._sockets.chmod(0o711)

    def _inside(self, *namespaces: str) -> list[str]:
        """Return the first words of a command run in ``namespaces``, such as ``--net``."""
        assert self._holder is not None
        return ["nsenter", "--target", str(self._holder.pid), *namespaces, "--"]

    def start_docker(self) -> None:
        """Start the engine and return once the engine answers."""
        self._data.parent.mkdir(exist_ok=True)
        command = [
            *self._inside("--net", "--mount"),
            "dockerd", "--host", self.socket, "--data-root", str(self._data),
            "--exec-root", str(self.exec_root), "--pidfile", str(self._sockets / "pid"),
            *self._options,
            *(("--userns-remap", "nobody:nogroup") if self._userns_remap else ()),
        ]  # fmt: skip
        with (self.folder / "dockerd.log").open("ab") as log:
            self._dockerd = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        give_up = time.monotonic() + _READY_SECONDS
        while subprocess.run(["docker", "version"], env=self.environ, capture_output=True, check=False).returncode != 0:
            if self._dockerd.poll() is not None or time.monotonic() > give_up:
                raise RuntimeError(f"dockerd did not start: {(self.folder / 'dockerd.log').read_text()[-2000:]}")
            time.sleep(0.1)

    def stop_docker(self) -> None:
        """Stop the engine with SIGTERM, as a service manager does."""
        assert self._dockerd is not None
        self._dockerd.terminate()
        self._dockerd.wait(timeout=60)

    def kill_docker(self) -> None:
        """Kill the engine with SIGKILL; the shims of the containers live on."""
        assert self._dockerd is not None
        pidfile = self._sockets / "exec" / "containerd" / "containerd.pid"
        containerd = Path("/proc") / pidfile.read_text().strip() / "stat"
        self._dockerd.send_signal(signal.SIGKILL)
        self._dockerd.wait(timeout=60)
        # containerd dies with it; until it has been reaped, the next dockerd would take it for alive and wait in vain.
        until("containerd is gone", lambda: not containerd.exists() or ") Z " in containerd.read_text())
        pidfile.unlink(missing_ok=True)

    def command(self, *command: str) -> list[str]:
        """Return the command line that runs ``command`` in the network namespace."""
        return [*self._inside("--net"), *command]

    def run(
        self,
        *command: str,
        check: bool = True,
        cwd: Path | None = None,
        timeout: float = 100,
        stdin: str = "",
        environ: Mapping[str, str] | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command on the host with ``stdin`` as input and captured output, shown if the command fails."""
        return run(
            self.command(*command),
            environ={**self.environ, **(environ or {})},
            cwd=cwd,
            stdin=stdin,
            timeout=timeout,
            check=check,
        )

    def devopsellence(
        self,
        *args: str,
        check: bool = True,
        cwd: Path | None = None,
        timeout: float = 100,
        stdin: str = "",
        environ: Mapping[str, str] | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run ``devopsellence`` on the host."""
        command = (sys.executable, "-m", "devopsellence.cli", *args)
        return self.run(*command, check=check, cwd=cwd, timeout=timeout, stdin=stdin, environ=environ)

    def docker(self, *args: str) -> str:
        """Return the output of ``docker ARGS`` on the host."""
        return self.run("docker", *args).stdout.strip()

    def load_image(self, reference: str) -> str:
        """Copy an image from this machine's own engine; return the id."""
        save = subprocess.Popen(["docker", "save", reference], stdout=subprocess.PIPE)
        subprocess.run(["docker", "load"], stdin=save.stdout, env=self.environ, check=True, capture_output=True)
        assert save.stdout is not None
        save.stdout.close()
        assert save.wait() == 0, f"docker save {reference} failed"
        return self.docker("image", "inspect", "-f", "{{.Id}}", reference)

    def status(self, cwd: Path) -> dict[str, Any]:
        """Return the document of ``devopsellence status -o json``."""
        document: dict[str, Any] = json.loads(self.devopsellence("status", "-o", "json", cwd=cwd).stdout)
        return document

    def get(self, url: str) -> str:
        """Return the body of a page fetched on the host; AssertionError if there is none."""
        fetch = "import sys, urllib.request as u; print(u.urlopen(sys.argv[1], timeout=5).read().decode())"
        return self.run(sys.executable, "-c", fetch, url).stdout
