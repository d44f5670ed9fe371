"""Requests to an app through the router of each of several hosts, counted: what people who use it would see.

The clients (``tests.support.load``) run on the hosts, so that those of a host that is cut off go on asking it.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from tests.support.cluster.app import App
from tests.support.cluster.machine import Program
from tests.support.cluster.roles import Host
from tests.support.load.result import Result, read, result
from tests.support.until import until

_RATE: Final = 40.0
_REPORT: Final = "/run/bed-clients.json"


class Load:
    """Clients on ``hosts`` of ``app``, while it is entered; ``results`` are there afterwards, by host.

    ``how`` is of :class:`tests.support.load.plan.Plan`: other clients than the four of the plain kinds.
    """

    def __init__(self, app: App, *hosts: str, **how: Any) -> None:
        self._plan = replace(app.plan(), **{"kept": 2, "new": 2, "rate": _RATE, **how})
        self._hosts = [app.bed.hosts[name] for name in hosts]
        self.results: dict[str, Result] = {}

    def __enter__(self) -> Self:
        for host in self._hosts:
            _report(host).unlink(missing_ok=True)
            clients = _clients(host)
            clients.python("tests.support.load.clients", self._plan.to_json(), _REPORT)
            clients.start()
        until("every host answers", lambda: all(read(_report(each)).get("answered") for each in self._hosts))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for host in self._hosts:
            _clients(host).stop()
        self.results = {host.name: result(_report(host)) for host in self._hosts}

    def failures(self, host: str) -> int:
        """How many requests have failed there so far."""
        return int(read(_report(self._host(host)))["failed"])

    def answered(self, host: str) -> int:
        """How many requests were answered there so far."""
        return sum(read(_report(self._host(host)))["finished"].values())

    @property
    def failed(self) -> list[str]:
        """Every failed request, in a line."""
        return [f"{name} {failure}" for name, each in self.results.items() for failure in each.failures]

    @property
    def requests(self) -> int:
        return sum(each.requests for each in self.results.values())

    def _host(self, name: str) -> Host:
        return next(host for host in self._hosts if host.name == name)


def _clients(host: Host) -> Program:
    return host.program("clients")


def _report(host: Host) -> Path:
    return host.root / _REPORT.lstrip("/")
