"""Counted requests to an app through the routers of several hosts, as users of the app send them.

The clients (``tests.support.load``) run on the hosts, so the clients of a host that is cut off go on sending requests.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from tests.support.cluster.app import App
from tests.support.cluster.machine import Program
from tests.support.cluster.roles import Host
from tests.support.load.result import Result, read_report, read_result
from tests.support.until import until

_RATE: Final = 40.0
_REPORT: Final = "/run/bed-clients.json"


class Load:
    """Clients on ``hosts`` of ``app`` inside the block; ``results``, by host, are there afterwards.

    ``how``: fields of :class:`tests.support.load.plan.Plan`, for other clients than the four plain ones.
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
        until("every host answers", lambda: all(read_report(_report(host)).get("answered") for host in self._hosts))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for host in self._hosts:
            _clients(host).stop()
        self.results = {host.name: read_result(_report(host)) for host in self._hosts}

    def failures(self, host: str) -> int:
        """Return the number of failed requests on a host so far."""
        return int(read_report(_report(self._host(host)))["failed"])

    def answered(self, host: str) -> int:
        """Return the number of answered requests on a host so far."""
        return sum(read_report(_report(self._host(host)))["finished"].values())

    @property
    def failed(self) -> list[str]:
        """Failed requests, a line each."""
        return [f"{name} {failure}" for name, result in self.results.items() for failure in result.failures]

    @property
    def clients(self) -> int:
        """Number of clients on each host that send all the time, each on a single connection at a time."""
        return self._plan.kept + self._plan.new

    @property
    def requests(self) -> int:
        return sum(result.requests for result in self.results.values())

    def _host(self, name: str) -> Host:
        return next(host for host in self._hosts if host.name == name)


def _clients(host: Host) -> Program:
    return host.program("clients")


def _report(host: Host) -> Path:
    return host.root / _REPORT.lstrip("/")
