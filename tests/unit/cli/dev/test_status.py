"""Status of the local cluster as text."""

import time

from devopsellence.cli.dev.spec import BACKOFF, RUNNING, ProcessReport
from devopsellence.cli.dev.state import DevState
from devopsellence.cli.dev.status import ProcessStatus, cells, ending_lines

STATE = DevState("local", "u1", "unix:///run/docker.sock", client_port=1, peer_port=2)


def test_healthy_process_is_a_row() -> None:
    now = time.time()
    part = ProcessStatus(ProcessReport("etcd", RUNNING, pid=7, started="x", since=now - 65), "", "/logs/etcd.log")
    assert cells(part, now) == ["etcd", "7", "1m5s", "0", "healthy"]
    assert ending_lines(part) == []


def test_crash_loop_shows_exit_and_last_lines() -> None:
    report = ProcessReport("agent", BACKOFF, restarts=4, last_end="exited with code 1", last_lines=("no \x1b[31mway",))
    part = ProcessStatus(report, "exited with code 1; next start in 3 s", "/logs/agent.log")
    assert cells(part, 0) == ["agent", "-", "-", "4", "exited with code 1; next start in 3 s"]
    assert ending_lines(part) == [
        "",
        "agent exited with code 1; its last lines:",
        "    no \\x1b[31mway",
    ]
