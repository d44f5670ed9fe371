"""Load clients: answers are counted, and no failure is missed."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.load.local import Load
from tests.support.load.plan import KEPT, NEW, SLOW, SOCKET, Plan
from tests.support.ports import free_port
from tests.support.until import until

SERVER = Path(__file__).parents[2] / "support" / "web" / "server.py"


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@contextmanager
def app(port: int, version: str = "v1") -> Iterator[subprocess.Popen[bytes]]:
    """Start the test app as a local process, ready for requests."""
    environ = {**os.environ, "PORT": str(port), "VERSION": version}
    process = subprocess.Popen([sys.executable, str(SERVER)], env=environ)
    try:
        until("the app listens", lambda: listens(port))
        yield process
    finally:
        process.kill()
        process.wait()


def plan(port: int, **how: float) -> Plan:
    return Plan("127.0.0.1", port, "shop.test", **{"kept": 1, "new": 1, "rate": 40.0, **how})  # type: ignore[arg-type]


def test_all_kinds_of_clients_are_answered() -> None:
    port = free_port()
    with (
        app(port),
        Load(plan(port, kept=2, new=2, slow=1, slow_seconds=0.1, sockets=1, socket_seconds=0.1), processes=2) as load,
    ):
        until("all kinds were answered", lambda: sum(map(load.answered, range(2)), load.answered()).total() > 40)
    result = load.result
    assert result.failures == []
    assert result.finished.keys() == {KEPT, NEW, SLOW, SOCKET}
    assert result.answered.keys() == {"v1"}
    assert len(result.samples) == result.requests == result.finished.total()
    assert result.connections > result.finished[NEW]
    assert min(sample.seconds for sample in result.samples if sample.kind == SLOW) >= 0.1


def test_stopped_server_is_noticed_and_found_again() -> None:
    port = free_port()
    with Load(plan(port, slow=1, slow_seconds=30.0, sockets=1, socket_seconds=30.0), wait=False) as load:
        with app(port):
            until("somebody is answered", load.answered)
            # The slow one and the WebSocket say nothing before their end.
            before = load.failed
        until("it is noticed", lambda: load.failed > before + 10)
        with app(port, "v2") as second:
            until("another answers", lambda: load.answered()["v2"])
            second.send_signal(signal.SIGTERM)
            assert second.wait(timeout=30) == 0
    assert {failure.client for failure in load.result.failures} == {"kept-0", "new-1", "slow-0", "socket-0"}
    assert load.result.failed == len(load.result.failures)
    assert load.result.outages() != "none failed"


def test_unhealthy_server_fails_the_request() -> None:
    port = free_port()
    how = plan(port)
    with app(port, "broken"), Load(Plan(**{**vars(how), "path": "/up"}), wait=False) as load:
        until("it is noticed", lambda: load.failed > 1)
    assert {failure.status for failure in load.result.failures if "500" in failure.error} == {500}
    assert not load.result.answered


def test_latency_counts_from_due_time() -> None:
    """No coordinated omission: a hanging server delays all requests due meanwhile."""
    port = free_port()
    with app(port) as server, Load(plan(port, kept=1, new=0, rate=50.0, seconds=3.0)) as load:
        server.send_signal(signal.SIGSTOP)
        time.sleep(1.0)  # for so long it hangs
        server.send_signal(signal.SIGCONT)
        load.join()
    assert load.result.failures == []
    assert len([sample for sample in load.result.samples if sample.seconds > 0.2]) > 10
