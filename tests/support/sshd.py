"""An sshd on this machine, and commands that can reach nothing but it: they have a network namespace of their own.

``ssh`` gets there through a socket in a folder, because file systems are shared where networks are not. The program
``ssh`` of the commands is a script that names a configuration of its own, so the user's is not read.
"""

from __future__ import annotations

import os
import pwd
import re
import shutil
import signal
import socket
import socketserver
import subprocess
import sys
import tempfile
import threading
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.support.need import lack
from tests.support.ports import free_port
from tests.support.process import Program
from tests.support.until import until

#: Name of the sshd in the commands' configuration of ssh.
ALIAS = "bastion"

_SSHD_CONFIG = """\
ListenAddress 127.0.0.1
Port {port}
HostKey {folder}/host_key
AuthorizedKeysFile {folder}/key.pub
PidFile {folder}/pid
StrictModes no
UsePAM no
PasswordAuthentication no
KbdInteractiveAuthentication no
"""
_SSH_CONFIG = """\
Host {alias}
  User {user}
  IdentityFile {folder}/key
  HostKeyAlias bastion
Host stranger
  IdentityFile none
  HostKeyAlias bastion
Host broken
  ProxyCommand false
  ProxyUseFdpass no
Host *
  IdentitiesOnly yes
  UserKnownHostsFile {folder}/known_hosts
  GlobalKnownHostsFile none
  ProxyCommand {python} {folder}/connect.py
  ProxyUseFdpass yes
"""
_CONNECT = """\
import socket

with socket.socket(socket.AF_UNIX) as connection:
    connection.connect("{folder}/relay")
    with socket.socket(fileno=1) as ssh:
        socket.send_fds(ssh, [b"x"], [connection.fileno()])
"""


def own_network() -> list[str]:
    """Return the command before another one that is to have no network; skips the test if there is no such way."""
    command = ["unshare", "--net"] if os.geteuid() == 0 else ["unshare", "--user", "--map-current-user", "--net"]
    answer = subprocess.run([*command, "true"], capture_output=True, text=True, check=False)
    if answer.returncode != 0:
        lack(f"needs a network namespace: {answer.stderr.strip()}")
    return command


class Sshd:
    """A running sshd with a key of its own for this user; a context manager. ``persist``: seconds of idle connections.

    Further hosts of the configuration: ``stranger`` has no key, ``broken`` no way to it, any other is the same sshd
    with a host key that is not known.
    """

    def __init__(self, *, persist: int = 60) -> None:
        # pytest's folders are too long for names of sockets.
        self.folder = Path(tempfile.mkdtemp(prefix="devopsellence-"))
        self.persist = persist
        self.port = free_port()
        program = shutil.which("sshd") or "/usr/sbin/sshd"
        if not Path(program).exists() or shutil.which("ssh") is None:
            lack("needs sshd and ssh")
        command = [program, "-D", "-e", "-f", str(self.folder / "sshd_config")]
        self._sshd = Program(command, dict(os.environ), self.folder / "sshd.log")
        self._relay: socketserver.ThreadingUnixStreamServer | None = None

    def __enter__(self) -> Self:
        for name in ("host_key", "key"):
            self._run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(self.folder / name))
        key = " ".join((self.folder / "host_key.pub").read_text().split()[:2])
        (self.folder / "known_hosts").write_text(f"bastion {key}\n")
        user, python = pwd.getpwuid(os.geteuid()).pw_name, sys.executable
        self._write("sshd_config", _SSHD_CONFIG.format(folder=self.folder, port=self.port))
        self._write("ssh_config", _SSH_CONFIG.format(folder=self.folder, alias=ALIAS, user=user, python=python))
        self._write("connect.py", _CONNECT.format(folder=self.folder))
        (self.folder / "bin").mkdir()
        script = (
            f'#!/bin/sh\nexec {shutil.which("ssh")} -F {self.folder}/ssh_config -o ControlPersist={self.persist} "$@"\n'
        )
        self._write("bin/ssh", script)
        (self.folder / "bin/ssh").chmod(0o755)
        (self.folder / "run").mkdir(mode=0o700)
        if os.geteuid() == 0:
            # Debian's sshd wants this folder, which its service makes.
            Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
        self._sshd.start()
        until("sshd listens", lambda: "Server listening" in self.log)
        self._relay = _Relay(str(self.folder / "relay"), self.port)
        threading.Thread(target=self._relay.serve_forever, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for pid in self.masters():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)
        if self._relay is not None:
            self._relay.shutdown()
            self._relay.server_close()
        if self._sshd.running:
            self._sshd.send(signal.SIGTERM)
            self._sshd.wait(10)
        shutil.rmtree(self.folder, ignore_errors=True)

    @property
    def environ(self) -> dict[str, str]:
        """Return the variables of commands that are to use this sshd."""
        path = f"{self.folder}/bin{os.pathsep}{os.environ['PATH']}"
        return {"PATH": path, "XDG_RUNTIME_DIR": str(self.folder / "run")}

    @property
    def log(self) -> str:
        return self._sshd.log.read_text()

    @property
    def logins(self) -> int:
        """Return the number of connections that were accepted."""
        return len(re.findall(r"^Accepted publickey", self.log, re.MULTILINE))

    def masters(self) -> list[int]:
        """Return the processes that hold a connection."""
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                words = (folder / "cmdline").read_bytes().split(b"\0")
                if f"ControlPath={self.folder}/run/".encode() in b" ".join(words) and b"ssh" in words[0]:
                    found.append(int(folder.name))
        return found

    def sockets(self) -> list[Path]:
        """Return the sockets in the runtime folder."""
        return [path for path in (self.folder / "run").rglob("*") if path.is_socket()]

    def _write(self, name: str, text: str) -> None:
        (self.folder / name).write_text(text)

    @staticmethod
    def _run(*command: str) -> None:
        subprocess.run(command, check=True, capture_output=True)


class _Relay(socketserver.ThreadingUnixStreamServer):
    """Relay from a socket in a folder to a port of this machine."""

    daemon_threads = True

    def __init__(self, path: str, port: int) -> None:
        self.port = port
        super().__init__(path, _RelayedConnection)


class _RelayedConnection(socketserver.BaseRequestHandler):
    server: _Relay

    def handle(self) -> None:
        with suppress(OSError), socket.create_connection(("127.0.0.1", self.server.port)) as upstream:
            back = threading.Thread(target=_pump, args=(upstream, self.request), daemon=True)
            back.start()
            _pump(self.request, upstream)
            back.join()


def _pump(source: socket.socket, sink: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(65536):
            sink.sendall(data)
    with suppress(OSError):
        sink.shutdown(socket.SHUT_WR)
