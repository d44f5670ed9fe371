"""Kept connections of ``ssh``, a single one for each host, and local sockets that lead through it to addresses.

The connection (OpenSSH's control master) is started by the first command, shared by all, and ends by itself. A folder
for each host is locked while its connection is started or a socket is added, so that two commands make one.
"""

from __future__ import annotations

import fcntl
import os
import re
import subprocess
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from devopsellence.cli.output import CliError, Finding, NextAction
from devopsellence.cli.ssh import folder as folders
from devopsellence.cli.ssh.host import SshHost

#: Seconds for which the connection is kept after its last use.
PERSIST_SECONDS: Final = 300
#: Seconds for a connection when nobody can be asked; with somebody there, as long as the answers take.
START_SECONDS: Final = 30.0
# Seconds for a request to the connection on this machine, which takes milliseconds.
_REQUEST_SECONDS: Final = 3.0
_CONTROL: Final = "m"
_LOG: Final = "log"
_SHOWN_LINES: Final = 4
_CHANNEL: Final = re.compile(r"^channel \d+: ")
_MASTER: Final = (
    *("-f", "-N", "-T"),
    *("-o", "ControlMaster=yes"),
    *("-o", f"ControlPersist={PERSIST_SECONDS}"),
    # Forwards of the configuration are for sessions of people. A second connection would find their ports taken.
    *("-o", "ClearAllForwardings=yes"),
    # A connection whose network is gone ends, and the next command makes another.
    *("-o", "ServerAliveInterval=10", "-o", "ServerAliveCountMax=3"),
    *("-o", "ConnectTimeout=10"),
    *("-o", "StreamLocalBindMask=0177", "-o", "StreamLocalBindUnlink=yes"),
)
# Without a configuration: it has no say in requests to a connection on this machine.
_REQUEST: Final = ("-F", "none", "-o", "StreamLocalBindMask=0177", "-o", "StreamLocalBindUnlink=yes")


def forward(host: SshHost, addresses: Iterable[str], *, may_ask: bool) -> None:
    """Let the sockets of ``addresses`` lead through the host to them; start the connection if there is none.

    ``may_ask``: ``ssh`` may ask on the terminal, such as for a passphrase. Blocks.

    Raises:
        CliError: ``ssh_missing``, ``ssh_failed``, ``ssh_folder_unusable``.
    """
    pairs = {folders.socket_path(host, address): address for address in addresses}
    options = [option for path, address in pairs.items() for option in ("-L", f"{path}:{address}")]
    with _locked(host) as folder:
        if _made(folder, host, options, pairs):
            return
        if _request(folder, host, "check", []):
            # A socket was deleted, which the connection does not notice.
            _request(folder, host, "cancel", options)
        else:
            # The connection was killed or does not answer. One that merely does not answer ends by itself.
            _clean(folder)
            _start(folder, host, may_ask=may_ask)
        if not _made(folder, host, options, pairs):
            raise _failed(host, "the connection makes no sockets", _last_lines(folder))


def last_lines(host: SshHost, since: float) -> list[str]:
    """Return the last lines of ``ssh`` about a host, such as why it cannot reach an address; none if it said nothing.

    ``since``: in seconds since 1970.
    """
    folder = folders.host_folder(host)
    with suppress(OSError):
        return _last_lines(folder) if (folder / _LOG).stat().st_mtime >= since else []
    return []


@contextmanager
def _locked(host: SshHost) -> Iterator[Path]:
    """Lock the folder of a host, and return it."""
    folder = folders.host_folder(host)
    folders.make_private(folder.parent)
    folders.make_private(folder)
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield folder
    finally:
        os.close(descriptor)


def _made(folder: Path, host: SshHost, options: list[str], sockets: Iterable[Path]) -> bool:
    """Ask for sockets, again for those that exist; return True if all are there."""
    return _request(folder, host, "forward", options) and all(path.is_socket() for path in sockets)


def _start(folder: Path, host: SshHost, *, may_ask: bool) -> None:
    _sweep(folder)
    batch = [] if may_ask else ["-o", "BatchMode=yes"]
    control = ["-o", f"ControlPath={folder / _CONTROL}", "-E", str(folder / _LOG)]
    command = ["ssh", *_MASTER, *batch, *control, *host.arguments]
    descriptor = os.open(folder / _LOG, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC, 0o600)
    try:
        # A pipe would be kept open by the connection.
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=descriptor,
            timeout=None if may_ask else START_SECONDS,
            check=False,
            cwd="/",
        )
    except FileNotFoundError as error:
        action = NextAction("install it, such as on Debian", "sudo apt-get install openssh-client")
        raise CliError("ssh_missing", "ssh is not installed", next_actions=[action]) from error
    except subprocess.TimeoutExpired as error:
        raise _failed(host, f"no connection within {START_SECONDS:.0f} s", _last_lines(folder)) from error
    finally:
        os.close(descriptor)
    if done.returncode != 0:
        raise _failed(host, "", _last_lines(folder))


def _request(folder: Path, host: SshHost, what: str, options: list[str]) -> bool:
    """Send a request to the connection on this machine; return False if it is refused, or nothing answers."""
    if not (folder / _CONTROL).is_socket():
        return False
    command = ["ssh", *_REQUEST, "-S", str(folder / _CONTROL), "-O", what, *options, *host.arguments]
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=_REQUEST_SECONDS,
            check=False,
            cwd="/",
        )
    except (FileNotFoundError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0


def _clean(folder: Path) -> None:
    """Remove the sockets of a connection that has ended."""
    for path in folder.iterdir():
        if path.is_socket():
            with suppress(FileNotFoundError):
                path.unlink()


def _sweep(own: Path) -> None:
    """Remove the sockets of other hosts whose connections have ended; ``ssh`` leaves them behind."""
    for folder in own.parent.iterdir():
        if folder == own or folder.is_symlink() or not folder.is_dir() or (folder / _CONTROL).exists():
            continue
        with suppress(OSError):
            descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if not (folder / _CONTROL).exists():
                    _clean(folder)
                    (folder / _LOG).unlink(missing_ok=True)
            finally:
                os.close(descriptor)


def _last_lines(folder: Path) -> list[str]:
    try:
        text = (folder / _LOG).read_bytes()[-4096:].decode(errors="replace")
    except OSError:
        return []
    lines = (_CHANNEL.sub("", line.strip()) for line in text.splitlines())
    # A client tries an address that cannot be reached several times.
    return list(dict.fromkeys(line for line in lines if line))[-_SHOWN_LINES:]


def _failed(host: SshHost, why: str, lines: list[str]) -> CliError:
    """Return the error for a missing connection: with the last line of ``ssh``, and those before as evidence."""
    text = "\n".join(lines)
    by_hand = f"ssh {' '.join(word for word in host.arguments if word != '--')}"
    if "Host key verification failed" in text and "IDENTIFICATION HAS CHANGED" not in text:
        action = NextAction("confirm the host's key once, by hand", by_hand)
    elif "Permission denied" in text:
        action = NextAction("load the key into the agent (ssh-add), and see that this works", by_hand)
    else:
        action = NextAction("see that this works, then repeat the command", by_hand)
    message = ": ".join(filter(None, (f"ssh cannot connect to {host}", why, *lines[-1:])))
    findings = [Finding("ssh_failed", message, evidence="\n".join(lines[:-1]))] if lines[1:] else []
    return CliError("ssh_failed", message, next_actions=[action], findings=findings)
