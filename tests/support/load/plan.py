"""Plan of requests, as data that passes between processes."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace

#: Clients that send requests in sequence: over a kept connection, or over a new connection for each request.
KEPT = "kept"
NEW = "new"
#: Long requests over a connection of their own.
SLOW = "slow"
#: WebSockets on which a word goes there and back ten times a second.
SOCKET = "socket"
KINDS = (KEPT, NEW, SLOW, SOCKET)


@dataclass(frozen=True)
class Plan:
    """Server, requests and kinds of connection.

    ``host``: the ``Host`` header and the name in the certificate. ``authority``: PEM file to check the certificate;
    empty: plain HTTP. ``kept``, ``new``, ``slow`` and ``sockets`` count clients. ``server_closes``: new connections
    are closed by the server, which then keeps the connection's port for a minute (TIME-WAIT). ``rate``: requests per
    second of the kept and new clients together; 0: each client sends the next request as soon as the previous is
    answered. A slow request takes ``slow_seconds``; the client closes a WebSocket after ``socket_seconds``. The plan
    ends after ``seconds``.
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
        """Return plans for several processes, with a share of the clients and of the rate each; fewer plans if there
        are fewer clients.
        """
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
