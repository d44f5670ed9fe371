"""The bed: whole machines on a switch, and the operator's place there."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from tests.support.machines.machine import Machine, Surroundings
from tests.support.machines.tree import machine_tree, need_machines
from tests.support.project import PROJECT
from tests.support.run import run

_FIRST_ADDRESS: Final = 11
_END_SECONDS: Final = 300.0


class MachineBed:
    """Bed as a context manager: machines ``m1``, ``m2`` … are up inside the block and gone afterwards.

    ``tree`` returns the layers of the file system that each of them begins with, the topmost first. Layers below the
    folder that it is called with are removed with the machines. The caller removes ``folder``.
    """

    def __init__(self, folder: Path, tree: Callable[[Path], Sequence[Path]] = machine_tree, *, count: int = 1) -> None:
        self.folder = folder
        self.machines: dict[str, Machine] = {}
        self._tree = tree
        self._count = count
        self._disks = folder / "disks"
        self._guard: subprocess.Popen[str] | None = None
        self._surroundings: Surroundings | None = None

    def __enter__(self) -> Self:
        need_machines()
        machine_tree()
        self._disks.mkdir(parents=True)
        try:
            self._set_up()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End all machines and remove their file systems; the logs of their consoles stay."""
        if self._guard is not None:
            self._guard.communicate(timeout=_END_SECONDS)
            for machine in self.machines.values():
                machine.wait_off()
            assert self._guard.returncode == 0, f"the bed was not cleared (exit code {self._guard.returncode})"

    def run(
        self,
        *command: str,
        environ: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        check: bool = True,
        timeout: float = 120,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command of this machine at the operator's place, from where it reaches all machines."""
        assert self._surroundings is not None
        return run(self._surroundings.command(*command), environ=environ, cwd=cwd, check=check, timeout=timeout)

    def _set_up(self) -> None:
        group = f"devopsellence-machines-{os.getpid()}"
        command = [sys.executable, "-m", "tests.support.machines.guard", str(self._disks), group]
        self._guard = subprocess.Popen(
            command, cwd=PROJECT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
        )
        assert self._guard.stdout is not None
        answer = self._guard.stdout.readline()
        assert answer, "the namespaces of the bed cannot be made: see what 'unshare' and 'ip' said"
        layers = self._tree(self._disks)
        key = self.folder / "key"
        run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "bed", "-f", str(key)])
        names = {f"m{number + 1}": f"10.77.0.{_FIRST_ADDRESS + number}" for number in range(self._count)}
        host_key = (layers[-1] / "etc/ssh/ssh_host_ed25519_key.pub").read_text()
        (self.folder / "known_hosts").write_text("".join(f"{address} {host_key}" for address in names.values()))
        self._surroundings = Surroundings(int(answer), group, ":".join(map(self._inside, layers)), self._ssh(key))
        for name, address in names.items():
            console = self.folder / f"{name}.log"
            self.machines[name] = Machine(name, address, self._disks / name, console, self._surroundings)
        public = key.with_suffix(".pub").read_text()
        with ThreadPoolExecutor(self._count) as pool:
            for machine in self.machines.values():
                machine.install(names, public)
            list(pool.map(lambda machine: machine.start(), self.machines.values()))

    def _inside(self, layer: Path) -> str:
        """Return the path of a layer in the namespaces, where the folder of temporary files is another."""
        return f"/run/bed/{layer.relative_to(self._disks)}" if layer.is_relative_to(self._disks) else str(layer)

    def _ssh(self, key: Path) -> list[str]:
        """Return the words before address and command: nothing of this user's settings, keys or known machines."""
        options = {
            "BatchMode": "yes",
            "ConnectTimeout": "3",
            "IdentitiesOnly": "yes",
            "LogLevel": "ERROR",
            "StrictHostKeyChecking": "yes",
            "UserKnownHostsFile": str(self.folder / "known_hosts"),
        }
        return ["ssh", "-F", "none", "-i", str(key), *(f"-o{name}={value}" for name, value in options.items())]
