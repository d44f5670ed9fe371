"""The small decisions: pauses, labels, the node's record, log lines, what status says."""

import time

from devopsellence.api.v1.stored_pb2 import Node
from devopsellence.cli.dev.child import LONGEST_PAUSE, backoff_seconds
from devopsellence.cli.dev.logs import last_lines
from devopsellence.cli.dev.spec import BACKOFF, RUNNING, ProcessReport
from devopsellence.cli.dev.start import registered
from devopsellence.cli.dev.state import DevState
from devopsellence.cli.dev.status import ProcessStatus, cells, ending_lines

STATE = DevState("local", "u1", "unix:///run/docker.sock", client_port=1, peer_port=2)


def test_pauses_double_and_are_bounded() -> None:
    assert [backoff_seconds(failures, 0) for failures in range(1, 5)] == [0.5, 1, 2, 4]
    assert backoff_seconds(1000, 0.99) == LONGEST_PAUSE


def test_pauses_are_spread_by_at_most_a_quarter() -> None:
    assert 2 < backoff_seconds(3, 0.5) < backoff_seconds(3, 0.999) < 2.5


def test_a_new_node_has_the_default_labels_and_the_remembered_uid() -> None:
    node = registered(None, STATE, None)
    assert (node.name, node.uid, list(node.labels)) == ("local", "u1", ["web", "worker"])
    assert node.registered_at.seconds


def test_manual_changes_of_the_node_are_kept() -> None:
    before = Node(name="local", uid="u1", labels=["web"], cordoned=True)
    assert registered(before, STATE, None) == before


def test_labels_said_now_hold() -> None:
    before = Node(name="local", uid="u1", labels=["web"])
    assert list(registered(before, STATE, ("worker",)).labels) == ["worker"]


def test_last_lines() -> None:
    assert last_lines(b"one\n\ntwo\nthr\xffee\n", 2) == ["two", "thr\N{REPLACEMENT CHARACTER}ee"]


def test_a_process_that_works_is_a_row() -> None:
    now = time.time()
    part = ProcessStatus(ProcessReport("etcd", RUNNING, pid=7, started="x", since=now - 65), "", "/logs/etcd.log")
    assert cells(part, now) == ["etcd", "7", "1m5s", "0", "healthy"]
    assert ending_lines(part) == []


def test_a_process_in_a_crash_loop_says_how_it_ended() -> None:
    report = ProcessReport("agent", BACKOFF, restarts=4, last_end="exited with code 1", last_lines=("no \x1b[31mway",))
    part = ProcessStatus(report, "exited with code 1; next start in 3 s", "/logs/agent.log")
    assert cells(part, 0) == ["agent", "-", "-", "4", "exited with code 1; next start in 3 s"]
    assert ending_lines(part) == [
        "",
        "agent exited with code 1; its last lines:",
        "    no \N{REPLACEMENT CHARACTER}[31mway",
    ]
