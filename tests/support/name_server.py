"""DNS server with names set by the test."""

from __future__ import annotations

import socket
import threading
from types import TracebackType
from typing import Self

import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import dns.rrset


class NameServer:
    """DNS server on ``address``; a context manager.

    ``names``: addresses by name, or a single other name as alias. Unknown names do not exist; names in ``broken``
    fail.
    """

    def __init__(self) -> None:
        self.names: dict[str, list[str]] = {}
        self.broken: set[str] = set()
        self.asked: list[str] = []
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._socket.getsockname()[1]}"
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as last:
            last.sendto(b"", self._socket.getsockname())
        self._thread.join()
        self._socket.close()

    def _serve(self) -> None:
        while True:
            wire, client = self._socket.recvfrom(4096)
            if not wire:
                return
            query = dns.message.from_wire(wire)
            name = query.question[0].name.to_text(omit_final_dot=True).lower()
            self.asked.append(name)
            self._socket.sendto(self._answer(query, name).to_wire(), client)

    def _answer(self, query: dns.message.Message, name: str) -> dns.message.Message:
        answer = dns.message.make_response(query)
        answer.flags |= dns.flags.RA
        if name in self.broken or name not in self.names:
            answer.set_rcode(dns.rcode.SERVFAIL if name in self.broken else dns.rcode.NXDOMAIN)
            return answer
        owner = name
        while len(self.names[owner]) == 1 and self.names[owner][0] in self.names:
            alias = self.names[owner][0]
            answer.answer.append(dns.rrset.from_text(f"{owner}.", 60, "IN", "CNAME", f"{alias}."))
            owner = alias
        record_type = dns.rdatatype.to_text(query.question[0].rdtype)
        addresses = [address for address in self.names[owner] if (":" in address) == (record_type == "AAAA")]
        if addresses and record_type in ("A", "AAAA"):
            answer.answer.append(dns.rrset.from_text(f"{owner}.", 60, "IN", record_type, *addresses))
        return answer
