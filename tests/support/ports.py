"""Free TCP ports of this machine."""

from __future__ import annotations

import random
import socket
from contextlib import suppress


def free_ports(count: int) -> list[int]:
    """Return different ports on 127.0.0.1 without a listener at this moment.

    Below the ports that Linux hands out by itself (from 32768), so that no client's connection takes one meanwhile.
    """
    ports: list[int] = []
    for port in random.sample(range(20_000, 32_000), 1000):
        if len(ports) == count:
            return ports
        with socket.socket() as probe, suppress(OSError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
            ports.append(port)
    raise RuntimeError("no free ports on 127.0.0.1")


def free_port() -> int:
    """Return a port on 127.0.0.1 without a listener at this moment."""
    return free_ports(1)[0]
