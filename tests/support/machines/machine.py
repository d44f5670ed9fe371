"""Machine of the bed: file system, power, commands over ssh."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psutil

from tests.support.run import run
from tests.support.until import until

_POWER: Final = Path(__file__).with_name("power.sh")
_BOOT_ID: Final = "cat /proc/sys/kernel/random/boot_id"
_BOOT_SECONDS: Final = 90.0
#: Control groups of version 1 are mounted read-only in a machine of systemd-nspawn.
_WRITABLE_GROUPS: Final = """\
[Service]
ExecStartPre=/bin/sh -c "for group in /sys/fs/cgroup/*; do mount -o remount,bind,rw $$group; done"
"""
#: A machine that was just installed forwards nothing. Docker, which turns that on, then lets nobody else's through.
_NETWORK: Final = """\
[Unit]
DefaultDependencies=no
Wants=network.target
Before=network.target network-online.target

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/bin/sh -c "echo 0 >/proc/sys/net/ipv4/ip_forward"
ExecStart=/sbin/ip address add {address}/24 dev host0
ExecStart=/sbin/ip link set host0 up
"""


@dataclass(frozen=True)
class Surroundings:
    """Parts of the bed that a machine needs: namespaces, control group, file system, ssh."""

    first_process: int
    group: str
    #: Layers of the file system, separated by colons.
    tree: str
    ssh: Sequence[str]

    def command(self, *command: str, namespaces: Sequence[str] = ("--net",)) -> list[str]:
        """Return the command line that runs ``command`` in the namespaces of the bed."""
        return ["nsenter", "--target", str(self.first_process), *namespaces, "--", *command]


class Machine:
    """Machine with a ``name`` and an ``address``; files are in the folder ``disk``, the console is a log file."""

    def __init__(self, name: str, address: str, disk: Path, console: Path, surroundings: Surroundings) -> None:
        self.name = name
        self.address = address
        self.disk = disk
        self.console = console
        self._surroundings = surroundings
        self._power: subprocess.Popen[bytes] | None = None

    def install(self, names: Mapping[str, str], key: str) -> None:
        """Write the machine's own files; ``names`` are addresses by name, ``key`` may log in as root."""
        for folder in ("upper", "work", "docker"):
            (self.disk / folder).mkdir(parents=True)
        root = self.disk / "upper"
        hosts = {"127.0.0.1": "localhost", **{address: name for name, address in names.items()}}
        units = root / "etc/systemd/system"
        files = {
            "etc/hostname": f"{self.name}\n",
            "etc/hosts": "".join(f"{address} {name}\n" for address, name in hosts.items()),
            # systemd writes another into an empty one.
            "etc/machine-id": "",
            "etc/default/locale": "LANG=C.UTF-8\n",
            "root/.ssh/authorized_keys": key,
            "etc/systemd/system/bed-network.service": _NETWORK.format(address=self.address),
            **{f"etc/systemd/system/{unit}.service.d/bed.conf": _WRITABLE_GROUPS for unit in ("docker", "containerd")},
        }
        for path, text in files.items():
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).write_text(text)
        for target in ("multi-user", "network-online"):
            (units / f"{target}.target.wants").mkdir(exist_ok=True)
            (units / f"{target}.target.wants/bed-network.service").symlink_to("../bed-network.service")
        # With this folder, the journal outlives a reboot.
        (root / "var/log/journal").mkdir(parents=True)

    @property
    def on(self) -> bool:
        """True from :meth:`start` to :meth:`cut_power`, also during a reboot."""
        return self._power is not None and self._power.poll() is None

    def start(self) -> None:
        """Switch the machine on; return once it answers ssh."""
        assert not self.on, f"{self.name} is on"
        around = self._surroundings
        script = ["bash", "-c", _POWER.read_text(), "power", self.name, f"{around.group}/{self.name}", around.tree]
        with self.console.open("ab") as log:
            self._power = subprocess.Popen(
                around.command(*script, namespaces=("--mount", "--net", "--pid")),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        until(f"{self.name} answers ssh", self.boot_id, seconds=_BOOT_SECONDS, every=0.2)

    def reboot(self) -> None:
        """Reboot the machine; return once it answers ssh again."""
        before = self.boot_id()
        assert before, f"{self.name} does not answer"
        # The connection may end before the answer.
        self.ssh("systemctl reboot", check=False)
        until(f"{self.name} has rebooted", lambda: self.boot_id() not in ("", before), seconds=_BOOT_SECONDS, every=0.2)

    def cut_power(self) -> None:
        """End everything on the machine at once; only the file system stays."""
        assert self._power is not None, f"{self.name} is off"
        self._init().send_signal(signal.SIGKILL)
        self.wait_off()

    def wait_off(self) -> None:
        """Return once the machine is off, after a power cut or the end of the bed."""
        if self._power is not None:
            self._power.wait(timeout=30)

    def boot_id(self) -> str:
        """Return the id of this boot; empty if the machine does not answer, or is off.

        Raises:
            AssertionError: the machine has switched itself off; with the end of its console.
        """
        if not self.on:
            text = self.console.read_text(errors="replace")[-2000:]
            raise AssertionError(f"{self.name} is off; the end of {self.console}:\n{text}")
        return self.ssh(_BOOT_ID, check=False).stdout.strip()

    def ssh(
        self, command: str, *, stdin: str = "", check: bool = True, timeout: float = 60
    ) -> subprocess.CompletedProcess[str]:
        """Run a shell's command on the machine as root, with ``stdin`` as input and captured output."""
        return run(self._remote(command), stdin=stdin, check=check, timeout=timeout)

    def copy(self, source: Path, to: str) -> None:
        """Copy a file, or a folder with all that is in it, to the path ``to`` of the machine."""
        archive = subprocess.run(
            ["tar", "--create", "--directory", str(source.parent), source.name], capture_output=True, check=True
        )
        script = f'set -eu; mkdir -p "$(dirname {to})"; rm -rf {to}.copy {to}; mkdir {to}.copy; tar -xoC {to}.copy'
        done = subprocess.run(
            self._remote(f"{script}; mv {to}.copy/{source.name} {to}; rmdir {to}.copy"),
            input=archive.stdout,
            capture_output=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr.decode(errors="replace")

    def journal(self, unit: str) -> str:
        """Return the journal of a unit, of all boots."""
        return self.ssh(f"journalctl --no-pager --output=cat --unit={unit}").stdout

    def property(self, unit: str, name: str) -> str:
        """Return a property of a unit, as ``systemctl show`` has it."""
        return self.ssh(f"systemctl show --property={name} --value {unit}").stdout.strip()

    def _remote(self, command: str) -> list[str]:
        return self._surroundings.command(*self._surroundings.ssh, f"root@{self.address}", command)

    def _init(self) -> psutil.Process:
        """Return the machine's first process, which systemd-nspawn waits for."""
        assert self._power is not None
        for process in psutil.Process(self._power.pid).children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                if process.name() == "systemd":
                    return process
        raise AssertionError(f"{self.name} has no first process")
