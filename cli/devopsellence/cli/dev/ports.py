"""Search for free ports on this machine; a chosen port is saved for later starts."""

from __future__ import annotations

import errno
import random
import socket
from typing import Final, Protocol

# Below the range for outgoing connections (net.ipv4.ip_local_port_range begins at 32768): another process could hold a
# port of that range for a moment, just when etcd restarts.
_FROM: Final = 20000
_TO: Final = 32000
_TRIES: Final = 200
_LOOPBACK: Final = "127.0.0.1"
_LAST: Final = 65535


class Ports(Protocol):
    """Availability of ports; FakePorts is for tests."""

    def why_not(self, port: int, *, everywhere: bool = False) -> str:
        """Return why ``port`` of 127.0.0.1, or of all addresses, cannot be used now; "" for a free port."""

    def choose(self, *avoid: int) -> int:
        """Return a free port of 127.0.0.1 except ``avoid``.

        Raises:
            OSError: no port is free.
        """

    def next_free(self, first: int, *avoid: int) -> int:
        """Return the first port from ``first`` on that is free on all addresses, except ``avoid``.

        Raises:
            OSError: no port is free.
        """


class MachinePorts:
    """Ports of this machine, for this user."""

    def why_not(self, port: int, *, everywhere: bool = False) -> str:
        with socket.socket() as probe:
            # As servers do: ignore connections in TIME_WAIT, respect listeners.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("" if everywhere else _LOOPBACK, port))
            except OSError as error:
                return "the port is in use" if error.errno == errno.EADDRINUSE else str(error.strerror)
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
    """Fake ports for tests: ``taken`` are in use; ``choose`` returns the lowest free port from 20000 on."""

    def __init__(self, *taken: int) -> None:
        self.taken = set(taken)

    def why_not(self, port: int, *, everywhere: bool = False) -> str:
        return "the port is in use" if port in self.taken else ""

    def choose(self, *avoid: int) -> int:
        return next(port for port in range(_FROM, _TO) if port not in avoid and port not in self.taken)

    def next_free(self, first: int, *avoid: int) -> int:
        return next(port for port in range(first, _LAST) if port not in avoid and port not in self.taken)
