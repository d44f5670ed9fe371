"""TCP ports of the router: free or held by another program, and the listener configuration for Envoy.

Envoy itself would not notice a conflict: Envoy's sockets share a port (SO_REUSEPORT) with any program of the same user.
Functions block, for milliseconds.
"""

from __future__ import annotations

import errno
import os
import socket
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Final

from devopsellence.nodeagent.envoy.model import IngressOptions, ListenerConfig, NodeRouting, PeerTls
from devopsellence.nodeagent.util.threads import ThreadPool

RETRY_FIRST: Final = 1.0
RETRY_CAP: Final = 30.0
#: State "listen" in /proc/net/tcp.
_LISTEN: Final = "0A"


def port_problem(port: int, change: str) -> str:
    """Return why a TCP port cannot be listened on, on all addresses of this machine, as a sentence; "" if free.

    ``change``: how another port is chosen, as a clause (:meth:`IngressOptions.change_of`).
    """
    for family, address in ((socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::")):  # noqa: S104 - all are meant
        try:
            _try_listen(family, address, port)
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                holder = port_holder(port)
                by = f" by {holder}" if holder else ""
                return f"port {port} is taken{by}: free it, or {change}"
            if error.errno == errno.EACCES:
                return (
                    f"this user may not listen on port {port}: run the agent as root, allow it with "
                    f"`sysctl net.ipv4.ip_unprivileged_port_start={port}`, or {change}"
                )
            # A machine without IPv6 has neither the family nor the address.
            if family == socket.AF_INET:
                reason = os.strerror(error.errno or 0)
                return f"port {port} cannot be used: {reason}; {change}"
    return ""


def _try_listen(family: int, address: str, port: int) -> None:
    with socket.socket(family, socket.SOCK_STREAM) as trial:
        # Connections in TIME_WAIT do not prevent listening.
        trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            trial.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        trial.bind((address, port))
        # Two sockets may bind to the same port as long as neither listens.
        trial.listen(1)


def port_holder(port: int) -> str:
    """Return the program that listens on a TCP port, as ``nginx (process 812)``; "" if unknown to this user."""
    inodes = {f"socket:[{inode}]" for table in ("tcp", "tcp6") for inode in _listeners(Path("/proc/net") / table, port)}
    if not inodes:
        return ""
    for process in sorted(Path("/proc").iterdir(), key=lambda path: (len(path.name), path.name)):
        if not process.name.isdigit():
            continue
        with suppress(OSError):
            if any(_link_target(descriptor) in inodes for descriptor in (process / "fd").iterdir()):
                return f"{(process / 'comm').read_text().strip()} (process {process.name})"
    return ""


def _link_target(link: Path) -> str:
    try:
        return str(link.readlink())
    except OSError:
        return ""


def _listeners(table: Path, port: int) -> list[str]:
    """Return the inodes of sockets in ``/proc/net/tcp`` that listen on ``port`` (proc(5))."""
    with suppress(OSError):
        rows = [line.split() for line in table.read_text().splitlines()[1:]]
        return [row[9] for row in rows if row[3] == _LISTEN and int(row[1].rpartition(":")[2], 16) == port]
    return []


def has_ipv6() -> bool:
    """Return whether a single socket can listen on all IPv4 and IPv6 addresses of this machine."""
    with suppress(OSError), socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as trial:
        trial.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        trial.bind(("::", 0))
        return True
    return False


class ListenerPorts:
    """Ports that Envoy may listen on.

    ``peer_tls``: TLS towards other nodes' routers; without it the node has no peers. ``usable``: ports found free, or
    Envoy's already. ``problems``: sentences by port, for all other ports. ``any_configured``: the options have a port
    for requests from outside.
    """

    def __init__(
        self,
        options: IngressOptions,
        disk: ThreadPool,
        check: Callable[[int, str], str] = port_problem,
    ) -> None:
        self.peer_tls: PeerTls | None = None
        self.usable: frozenset[int] = frozenset()
        self.problems: dict[int, str] = {}
        self.any_configured = bool(options.http_port or options.https_port)
        self._options = options
        self._disk = disk
        self._check = check
        self._ipv6 = has_ipv6()
        self._attempts = 0
        self._retry_at = 0.0

    def set_usable(self, ports: Iterable[int]) -> None:
        """Replace the usable ports by the ports of a running Envoy."""
        self.usable = frozenset(ports)

    async def configure(self, routing: NodeRouting) -> ListenerConfig:
        """Return the listener configuration for a routing; checks unusable ports again when a retry is due."""
        needed = self._needed(routing)
        await self._check_ports(needed - self.usable)
        ports = needed & self.usable
        options = self._options
        return ListenerConfig(
            http_port=options.http_port if options.http_port in ports else 0,
            https_port=options.https_port if options.https_port in ports else 0,
            peer_port=options.peer_port if options.peer_port in ports else 0,
            peer_tls=self.peer_tls if options.peer_port in needed else None,
            ipv6=self._ipv6,
        )

    def next_check(self, routing: NodeRouting) -> float | None:
        """Return the monotonic time of the next check for a routing; None if no check is due."""
        needed = self._needed(routing)
        return self._retry_at if needed - self.usable else None

    def _needed(self, routing: NodeRouting) -> frozenset[int]:
        if not routing.configs:
            return frozenset()
        options = self._options
        https = options.https_port if any(config.tls for config in routing.configs) else 0
        peer = options.peer_port if self.peer_tls is not None else 0
        return frozenset({options.http_port, https, peer} - {0})

    async def _check_ports(self, missing: frozenset[int]) -> None:
        now = time.monotonic()
        if now < self._retry_at and missing <= self.problems.keys():
            return
        results = {
            port: await self._disk.run(partial(self._check, port, self._options.change_of(port)))
            for port in sorted(missing)
        }
        self.problems = {port: problem for port, problem in results.items() if problem}
        self.usable |= results.keys() - self.problems.keys()
        self._attempts = self._attempts + 1 if self.problems else 0
        self._retry_at = now + min(RETRY_CAP, RETRY_FIRST * 2.0**self._attempts)
