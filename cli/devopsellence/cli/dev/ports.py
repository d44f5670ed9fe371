"""This machine's ports: found free once, then remembered."""

from __future__ import annotations

import errno
import random
import socket
from typing import Final, Protocol

# Below what Linux hands out for outgoing connections (net.ipv4.ip_local_port_range begins at 32768): a port from
# there would sooner or later be somebody's for a moment, just when etcd starts again.
_FROM: Final = 20000
_TO: Final = 32000
_TRIES: Final = 200
_LOOPBACK: Final = "127.0.0.1"
_LAST: Final = 65535


class Ports(Protocol):
    """What can be asked about the machine's ports."""

    def why_not(self, port: int, *, everywhere: bool = False) -> str:
        """Why nobody can listen on ``port`` of 127.0.0.1, or of all addresses, at the moment; "" when one can."""

    def choose(self, *avoid: int) -> int:
        """A port of 127.0.0.1 that is free now and none of ``avoid``; OSError when none is left."""

    def next_free(self, first: int, *avoid: int) -> int:
        """The first port from ``first`` on that is free on all addresses, and none of ``avoid``; OSError as above."""


class MachinePorts:
    """This machine's ports, as this user may use them."""

    def why_not(self, port: int, *, everywhere: bool = False) -> str:
        with socket.socket() as probe:
            # As servers do: a connection that lingers in TIME_WAIT does not count, a listener does.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("" if everywhere else _LOOPBACK, port))
            except OSError as error:
                return "it is taken" if error.errno == errno.EADDRINUSE else str(error.strerror)
        return ""

    def choose(self, *avoid: int) -> int:
        for _ in range(_TRIES):
            port = random.randrange(_FROM, _TO)  # noqa: S311 - spread, not secret
            if port not in avoid and not self.why_not(port):
                return port
        raise OSError(errno.EADDRINUSE, f"no free port between {_FROM} and {_TO}")

    def next_free(self, first: int, *avoid: int) -> int:
        for port in range(first, _LAST + 1):
            if port not in avoid and not self.why_not(port, everywhere=True):
                return port
        raise OSError(errno.EADDRINUSE, f"no free port from {first} on")


class FakePorts:
    """Ports of no machine: ``taken`` are taken, and the lowest of the others from 20000 on is chosen."""

    def __init__(self, *taken: int) -> None:
        self.taken = set(taken)

    def why_not(self, port: int, *, everywhere: bool = False) -> str:
        return "it is taken" if port in self.taken else ""

    def choose(self, *avoid: int) -> int:
        return next(port for port in range(_FROM, _TO) if port not in avoid and port not in self.taken)

    def next_free(self, first: int, *avoid: int) -> int:
        return next(port for port in range(first, _LAST) if port not in avoid and port not in self.taken)
