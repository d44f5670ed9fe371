"""What is asked, as data that passes between processes."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace

#: Clients that ask on and on, one request after the other: on a connection that they keep, or on a new one each time.
KEPT = "kept"
NEW = "new"
#: Requests that take long, each on a connection of its own.
SLOW = "slow"
#: WebSockets on which a word goes there and back ten times a second.
SOCKET = "socket"
KINDS = (KEPT, NEW, SLOW, SOCKET)


@dataclass(frozen=True)
class Plan:
    """Who is asked, and how.

    ``host`` is what the ``Host`` header says, and the name that a certificate must carry; ``authority``: the PEM file
    by which it is checked, empty: plain HTTP. ``kept``, ``new``, ``slow`` and ``sockets`` count clients.
    ``server_closes``: the new ones leave it to the server to close, so that it, not they, must keep the connection's
    port for a minute (TIME-WAIT). ``rate`` is of requests a second of the kept and new ones together; 0: each asks
    again as soon as it was answered. A slow request takes ``slow_seconds``, a WebSocket is closed by the client after
    ``socket_seconds``. All ends after ``seconds``.
    """

    address: str
    port: int
    host: str
    path: str = "/version"
    authority: str = ""
    kept: int = 4
    new: int = 4
    server_closes: bool = False
    rate: float = 100.0
    slow: int = 0
    slow_seconds: float = 2.0
    sockets: int = 0
    socket_seconds: float = 2.0
    seconds: float = 600.0

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def of_json(cls, text: str) -> Plan:
        return cls(**json.loads(text))

    def split(self, processes: int) -> list[Plan]:
        """The same for several processes together: each gets its share of the clients and of the rate. Fewer, where
        there are not so many clients."""
        parts = [
            replace(
                self,
                **{
                    name: getattr(self, name) // processes + (number < getattr(self, name) % processes)
                    for name in ("kept", "new", "slow", "sockets")
                },
            )
            for number in range(processes)
        ]
        steady = self.kept + self.new
        return [
            replace(part, rate=self.rate * (part.kept + part.new) / steady if steady else 0.0)
            for part in parts
            if part.kept + part.new + part.slow + part.sockets
        ]
