"""Network between three members of etcd that can be cut between members but not from clients."""

from __future__ import annotations

import ipaddress
import itertools
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Self

from tests.support.run import run


class Link:
    """Three addresses, on this machine and in two network namespaces, joined by wires.

    Connections come from the address of the member: members of etcd check the address against the certificate.
    """

    def __init__(self) -> None:
        tag = secrets.token_hex(3)
        # Of the addresses that are set aside for tests of networks (RFC 2544).
        first = ipaddress.ip_address("198.18.0.0") + 4 * secrets.randbelow(1 << 14)
        #: By place; "" is this machine.
        self.addresses = {
            place: str(first + number) for number, place in enumerate((f"dvo-{tag}-1", "", f"dvo-{tag}-3"))
        }
        self._tag = tag

    def __enter__(self) -> Self:
        try:
            for place in filter(None, self.addresses):
                _ip("netns", "add", place)
                _ip("-n", place, "link", "set", "lo", "up")
            for number, pair in enumerate(itertools.combinations(self.addresses, 2)):
                self._wire(*pair, f"d{self._tag}-{number}")
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for place in filter(None, self.addresses):
            run(["ip", "netns", "del", place], check=False)

    def _wire(self, one: str, other: str, name: str) -> None:
        ends = {one: f"{name}a", other: f"{name}b"}
        _ip("link", "add", ends[one], "type", "veth", "peer", "name", ends[other])
        for place, end in ends.items():
            if place:
                _ip("link", "set", end, "netns", place)
        for place, there in ((one, other), (other, one)):
            inside = ["-n", place] if place else []
            _ip(*inside, "addr", "add", f"{self.addresses[place]}/32", "dev", ends[place])
            _ip(*inside, "link", "set", ends[place], "up")
            route = (f"{self.addresses[there]}/32", "dev", ends[place], "src", self.addresses[place])
            _ip(*inside, "route", "add", *route)

    @contextmanager
    def cut(self, client_port: int) -> Iterator[None]:
        """Drop all packets of the first member inside the block, except those of clients at ``client_port``."""
        rules = [
            ("INPUT", "-p", "tcp", "!", "--dport", str(client_port), "-j", "DROP"),
            ("OUTPUT", "-p", "tcp", "!", "--sport", str(client_port), "-j", "DROP"),
        ]
        for rule in rules:
            self._iptables("-A", *rule)
        try:
            yield
        finally:
            for rule in rules:
                self._iptables("-D", *rule)

    def _iptables(self, *words: str) -> None:
        run(["ip", "netns", "exec", next(iter(self.addresses)), "iptables", "-w", *words])


def _ip(*words: str) -> None:
    run(["ip", *words])
