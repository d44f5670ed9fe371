"""Whether this node's router may listen on a port, and if not, why not and what helps.

Envoy itself would not find out: its sockets share a port (SO_REUSEPORT) with those of any program of the same user.
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

import structlog

from devopsellence.nodeagent.envoy.container import FOLDER
from devopsellence.nodeagent.envoy.files import AUTHORITY, CERTIFICATE, KEY, NODE_FOLDER, EnvoyFolder
from devopsellence.nodeagent.envoy.model import IngressOptions, Listen, PeerTls, Routing
from devopsellence.nodeagent.tls import Files
from devopsellence.nodeagent.util.threads import Pool

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


# MERGED Where Envoy may be told to listen, what is wrong with other ports, and the certi

RETRY_FIRST: Final = 1.0
RETRY_CAP: Final = 30.0
#: The node's own certificate is looked at so often.
FOLLOW_SECONDS: Final = 60.0
_log = structlog.get_logger()


class Listening:
    """``open``: ports that may be listened on, because they were free or are Envoy's already. ``problems``: why not, of
    others. ``any``: whether there is any port for requests from outside in the options."""

    def __init__(
        self,
        options: IngressOptions,
        folder: EnvoyFolder,
        disk: Pool,
        certificate: Files | None,
        check: Callable[[int, str], str] = why_not,
    ) -> None:
        self.open: frozenset[int] = frozenset()
        self.problems: dict[int, str] = {}
        self.any = bool(options.http_port or options.https_port)
        self._options = options
        self._names = {
            options.http_port: "--ingress-http-port",
            options.https_port: "--ingress-https-port",
            options.peer_port: "--ingress-peer-port",
        }
        self._folder = folder
        self._disk = disk
        self._certificate = certificate
        self._check = check
        self._ipv6 = has_ipv6()
        self._attempts = 0
        self._again = 0.0
        self._follow_at = 0.0
        self._followed = False

    def ours(self, ports: Iterable[int]) -> None:
        """Envoy listens on these, and on no others."""
        self.open = frozenset(ports)

    async def look(self, routing: Routing) -> Listen:
        """Where Envoy is to listen for these sites. Ports that could not be had are tried again when it is time."""
        wanted = self._wanted(routing)
        await self._look_at(wanted - self.open)
        if self._certificate is not None and self._options.peer_port in wanted:
            await self._follow(self._certificate)
        ports = wanted & self.open
        options = self._options
        # Envoy is told of other nodes once the certificate for them is there.
        names = (f"{FOLDER}/{NODE_FOLDER}/{name}" for name in (AUTHORITY, CERTIFICATE, KEY))
        return Listen(
            http_port=options.http_port if options.http_port in ports else 0,
            https_port=options.https_port if options.https_port in ports else 0,
            peer_port=options.peer_port if options.peer_port in ports and self._followed else 0,
            peer_tls=PeerTls(*names) if self._followed else None,
            ipv6=self._ipv6,
        )

    def next_look(self, routing: Routing) -> float | None:
        """When (monotonic) there is something to look at again for these sites."""
        wanted = self._wanted(routing)
        moments = [self._again] if wanted - self.open else []
        if self._options.peer_port in wanted:
            moments.append(self._follow_at)
        return min(moments, default=None)

    def _wanted(self, routing: Routing) -> frozenset[int]:
        if not routing.sites:
            return frozenset()
        options = self._options
        https = options.https_port if any(site.tls for site in routing.sites) else 0
        peer = options.peer_port if self._certificate is not None else 0
        return frozenset({options.http_port, https, peer} - {0})

    async def _look_at(self, missing: frozenset[int]) -> None:
        now = time.monotonic()
        if now < self._again and missing <= self.problems.keys():
            return
        found = {port: await self._disk.run(partial(self._check, port, self._names[port])) for port in sorted(missing)}
        self.problems = {port: problem for port, problem in found.items() if problem}
        self.open |= found.keys() - self.problems.keys()
        self._attempts = self._attempts + 1 if self.problems else 0
        self._again = now + min(RETRY_CAP, RETRY_FIRST * 2.0**self._attempts)

    async def _follow(self, certificate: Files) -> None:
        """Give Envoy the node's own certificate as it is now."""
        if time.monotonic() < self._follow_at:
            return
        self._follow_at = time.monotonic() + FOLLOW_SECONDS
        try:
            await self._disk.run(partial(self._folder.follow, certificate))
        except OSError as error:
            _log.warning("the node's certificate cannot be given to the router", error=str(error))
        else:
            self._followed = True
