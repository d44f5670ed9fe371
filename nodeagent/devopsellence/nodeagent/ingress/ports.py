"""Whether this node's router may listen on a port, and if not, why not and what helps.

Envoy itself would not find out: its sockets share a port (SO_REUSEPORT) with those of any program of the same user.
Functions block, for milliseconds.
"""

from __future__ import annotations

import errno
import os
import socket
from contextlib import suppress
from pathlib import Path
from typing import Final

_LISTEN: Final = "0A"


def why_not(port: int, option: str) -> str:
    """Why nothing may listen on a TCP port of this machine, on all its addresses, as a sentence; "" if it may.

    ``option`` is the agent's that chooses another one.
    """
    for family, address in ((socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::")):  # noqa: S104 - all are meant
        try:
            _try(family, address, port)
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                holder = who_holds(port)
                by = f" by {holder}" if holder else ""
                return f"port {port} is taken{by}: free it, or start the agent with another {option}"
            if error.errno == errno.EACCES:
                return (
                    f"this user may not listen on port {port}: run the agent as root, allow it with "
                    f"`sysctl net.ipv4.ip_unprivileged_port_start={port}`, or start the agent with another {option}"
                )
            # A machine without IPv6 has neither the family nor the address.
            if family == socket.AF_INET:
                why = os.strerror(error.errno or 0)
                return f"port {port} cannot be used: {why}; start the agent with another {option}"
    return ""


def _try(family: int, address: str, port: int) -> None:
    with socket.socket(family, socket.SOCK_STREAM) as trial:
        # Connections that have ended and are still remembered are in nobody's way.
        trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            trial.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        trial.bind((address, port))
        # Two that only bind get along, so that whether somebody listens shows here at the latest.
        trial.listen(1)


def who_holds(port: int) -> str:
    """The program that listens on a TCP port, as ``nginx (process 812)``, as far as /proc tells this user; else ""."""
    inodes = {f"socket:[{inode}]" for table in ("tcp", "tcp6") for inode in _listeners(Path("/proc/net") / table, port)}
    if not inodes:
        return ""
    for process in sorted(Path("/proc").iterdir(), key=lambda each: (len(each.name), each.name)):
        if not process.name.isdigit():
            continue
        with suppress(OSError):
            if any(_target(each) in inodes for each in (process / "fd").iterdir()):
                return f"{(process / 'comm').read_text().strip()} (process {process.name})"
    return ""


def _target(link: Path) -> str:
    try:
        return str(link.readlink())
    except OSError:
        return ""


def _listeners(table: Path, port: int) -> list[str]:
    """Inodes of the sockets in ``/proc/net/tcp`` that listen on ``port`` (proc(5))."""
    with suppress(OSError):
        rows = [line.split() for line in table.read_text().splitlines()[1:]]
        return [row[9] for row in rows if row[3] == _LISTEN and int(row[1].rpartition(":")[2], 16) == port]
    return []


def has_ipv6() -> bool:
    """Whether this machine can listen on all its addresses of both kinds with one socket."""
    with suppress(OSError), socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as trial:
        trial.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        trial.bind(("::", 0))
        return True
    return False
