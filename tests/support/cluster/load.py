"""Requests to an app on its hosts, counted: what people who use it would see while it is deployed.

What it proves: from the first to the last moment of a rollout, whoever asks the container that the agent says serves is
answered, on kept and on new connections, as long as the app itself goes on answering for a moment after it was asked to
end. It says nothing about clients that hold on to an address for longer than that, nor about ports of the host: that is
the ingress's part. The old and the new container share their name on the environment's network, so names are not used.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, Self

from devopsellence.cli.cluster.programs import AGENT_STATE
from tests.support.cluster.app import PORT, SERVICE, App
from tests.support.cluster.machine import Program
from tests.support.cluster.roles import Host
from tests.support.until import until

_BETWEEN_SECONDS: Final = 0.04
_REPORT: Final = "/run/bed-clients.json"


@dataclass(frozen=True)
class Result:
    """What the clients of one host saw. ``answered``: how many requests, by the version that answered."""

    host: str
    answered: dict[str, int]
    failed: list[dict[str, Any]]
    connections: int
    longest_gap: float

    @property
    def requests(self) -> int:
        return sum(self.answered.values()) + len(self.failed)


class Load:
    """Clients on ``hosts`` of ``app``, while it is entered; ``results`` are there afterwards, by host."""

    def __init__(self, app: App, *hosts: str) -> None:
        self._app = app
        self._hosts = [app.bed.hosts[name] for name in hosts]
        self.results: dict[str, Result] = {}

    def __enter__(self) -> Self:
        status = f"{AGENT_STATE}/status/{str(self._app.ref).replace('/', '+')}.json"
        for host in self._hosts:
            (host.root / _REPORT.lstrip("/")).unlink(missing_ok=True)
            clients = _clients(host)
            clients.python("tests.support.cluster.clients", status, SERVICE, str(PORT), str(_BETWEEN_SECONDS), _REPORT)
            clients.start()
        until("every host answers", lambda: all(_report(each).get("answered") for each in self._hosts))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for host in self._hosts:
            _clients(host).stop()
            said = _report(host)
            assert said.pop("done"), f"the clients on {host.name} have ended early: {host.log('clients').read_text()}"
            self.results[host.name] = Result(host.name, **said)

    def failures(self, host: str) -> int:
        """How many requests have failed there so far."""
        return len(_report(self._app.bed.hosts[host])["failed"])

    @property
    def failed(self) -> list[str]:
        """Every failed request, in a line."""
        return [
            f"{each.host} {failure['client']} at {failure['at']:.2f}: {failure['address']} {failure['error']}"
            for each in self.results.values()
            for failure in each.failed
        ]

    @property
    def requests(self) -> int:
        return sum(each.requests for each in self.results.values())


def _clients(host: Host) -> Program:
    return host.program("clients")


def _report(host: Host) -> dict[str, Any]:
    file = host.root / _REPORT.lstrip("/")
    found: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
    return found
