"""``logs`` against fake agents with scripted answers and broken streams."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess

import grpc
import psutil

from tests.integration.remote.cluster import TIMEOUT, FakeAgentCluster
from tests.integration.remote.resizable_terminal import ResizableTerminal
from tests.support.fake_agent import log_line
from tests.support.until import until


def end(process: subprocess.Popen[bytes], number: signal.Signals = signal.SIGINT) -> tuple[int, bytes]:
    """Exit code and stderr after a signal."""
    process.send_signal(number)
    _, errors = process.communicate(timeout=TIMEOUT)
    return process.returncode, errors


def lines_of(process: subprocess.Popen[bytes], count: int) -> list[str]:
    """Return the next lines of a running command."""
    assert process.stdout is not None
    return [process.stdout.readline().decode().rstrip("\n") for _ in range(count)]


def test_logs_of_all_nodes_are_in_order_of_time(cluster: FakeAgentCluster) -> None:
    n1, n2 = cluster.node("n1", "web", "redis"), cluster.node("node-2", "web")
    n1.say(log_line("web", 1, "a"), log_line("web", 4, "d"), log_line("redis", 3, "c"), log_line("redis", 6, "f"))
    n2.say(log_line("web", 2, "b"), log_line("web", 5, "e"))
    assert cluster.ok("logs").splitlines() == [
        "n1/web     │ a",
        "node-2/web │ b",
        "n1/redis   │ c",
        "n1/web     │ d",
        "node-2/web │ e",
        "n1/redis   │ f",
    ]


def test_single_source_prints_raw_bytes_in_a_pipe(cluster: FakeAgentCluster) -> None:
    cluster.node("n1", "web").say(log_line("web", 1, b"\x1b[31mred\x1b[0m \xff\x07 end"))
    assert cluster.run("logs", "web").stdout == b"\x1b[31mred\x1b[0m \xff\x07 end\n"


def test_log_options_reach_the_agents(cluster: FakeAgentCluster) -> None:
    n1, n2 = cluster.node("n1", "web", "redis"), cluster.node("n2", "web")
    cluster.ok("logs", "redis", "--lines", "all", "--since", "2024-05-01T10:00:00Z")
    cluster.ok("logs", "web", "--node", "n2", "--lines", "7")
    (asked,) = n1.asked
    assert (asked.environment, list(asked.services), asked.lines) == ("acme/Shop/production", ["redis"], -1)
    assert asked.since.ToJsonString() == "2024-05-01T10:00:00Z"
    (asked,) = n2.asked
    assert (list(asked.services), asked.lines, asked.HasField("since")) == (["web"], 7, False)


def test_logs_json_prints_an_object_per_line(cluster: FakeAgentCluster) -> None:
    cluster.node("n1", "web").say(log_line("web", 1.5, "hello", stderr=True))
    started, said, result = map(json.loads, cluster.ok("logs", "-o", "json").splitlines())
    assert started["event"] == "started"
    assert said == {
        "schema_version": 1,
        "operation": "logs",
        "event": "progress",
        "ok": True,
        "at": "1970-01-01T00:00:01.500000000Z",
        "node": "n1",
        "service": "web",
        "container": "c-web",
        "stream": "stderr",
        "line": "hello",
    }
    assert (result["event"], result["ok"], result["problems"]) == ("result", True, [])


def test_unreachable_node_is_a_warning(cluster: FakeAgentCluster) -> None:
    cluster.node("n1", "web").say(log_line("web", 1, "here"))
    cluster.node("n2", "web", serves=False)
    n3 = cluster.node("n3", "web")
    n3.refusal = (grpc.StatusCode.UNAVAILABLE, "Docker does not answer")
    done = cluster.run("logs")
    assert (done.returncode, done.stdout.decode()) == (0, "n1/web │ here\n")
    assert done.stderr.decode().splitlines() == [
        "Warning: node n2 has no heartbeat: its agent is not running or cannot reach etcd",
        "Warning: node n3: Docker does not answer",
    ]


def test_no_reachable_node_is_an_error(cluster: FakeAgentCluster) -> None:
    cluster.node("n1", "web", serves=False)
    cluster.node("n2", "web")
    cluster.servers["n2"].stop()
    error = cluster.error("logs")
    assert (error["code"], error["exit_code"]) == ("agent_unreachable", 1)


def test_unknown_service_is_an_error_with_known_services(cluster: FakeAgentCluster) -> None:
    cluster.node("n1", "web", "redis")
    error = cluster.error("logs", "wbe")
    assert "wbe" in error["message"]
    assert error["message"].endswith("redis, web")


def test_agent_with_certificate_of_another_node_is_refused(cluster: FakeAgentCluster) -> None:
    cluster.node("n1", "web")
    impostor = cluster.node("n2", "web")
    cluster.write_heartbeat("n1", cluster.servers["n2"].address)
    assert cluster.error("logs", "--node", "n1")["code"] == "agent_unreachable"
    assert impostor.asked == []


def test_following_ends_quietly_with_control_c(cluster: FakeAgentCluster) -> None:
    n1, n2 = cluster.node("n1", "web"), cluster.node("n2", "web")
    n1.say(log_line("web", 1, "before"))
    process = cluster.start("logs", "-f")
    assert lines_of(process, 1) == ["n1/web │ before"]
    n2.say(log_line("web", 2, "more"))
    assert lines_of(process, 1) == ["n2/web │ more"]
    assert end(process) == (130, b"")


def test_broken_stream_resumes_without_gap_or_repetition(cluster: FakeAgentCluster) -> None:
    n1 = cluster.node("n1", "web")
    n1.breaks_after = 3
    # Two lines at one time, one of them said twice.
    n1.say(*[log_line("web", second, str(second)) for second in (1, 2)])
    n1.say(log_line("web", 3, "x"), log_line("web", 3, "x"), log_line("web", 3, "y"), log_line("web", 4, "4"))
    process = cluster.start("logs", "-f", "web", "--lines", "all")
    assert lines_of(process, 6) == ["1", "2", "x", "x", "y", "4"]
    assert n1.asked[1].since.ToJsonString() == "1970-01-01T00:00:03Z"
    assert end(process) == (130, b"")


def test_restarted_agent_is_found_again(cluster: FakeAgentCluster) -> None:
    n1, n2 = cluster.node("n1", "web"), cluster.node("n2", "web")
    n1.say(log_line("web", 1, "before"))
    process = cluster.start("logs", "-f")
    assert lines_of(process, 1) == ["n1/web │ before"]
    cluster.servers["n1"].stop()
    n1.say(log_line("web", 2, "while it was away"))
    n2.say(log_line("web", 3, "meanwhile"))
    assert lines_of(process, 1) == ["n2/web │ meanwhile"]
    cluster.servers["n1"].start()
    assert lines_of(process, 1) == ["n1/web │ while it was away"]
    code, errors = end(process)
    assert (code, errors) == (130, b"Warning: lost connection to node n1; reconnecting\n")


def test_control_characters_are_escaped_on_terminal(cluster: FakeAgentCluster) -> None:
    cluster.node("n1", "web", "redis").say(log_line("web", 1, b"\x1b[2Jclear \x1b[31mred"))
    window = ResizableTerminal(cluster, "logs")
    window.read_until(b"red")
    assert window.end() == 0
    assert b"n1/web   \xe2\x94\x82 \x1b[0m\\x1b[2Jclear \x1b[31mred\x1b[0m\r\n" in window.seen
    plain = ResizableTerminal(cluster, "logs", "--no-color")
    plain.read_until(b"red")
    assert plain.end() == 0
    assert b"\x1b" not in plain.seen


def test_closed_reader_ends_logs(cluster: FakeAgentCluster) -> None:
    n1 = cluster.node("n1", "web")
    process = cluster.start("logs", "-f", "web")
    n1.say(log_line("web", 1, "one"))
    assert lines_of(process, 1) == ["one"]
    assert process.stdout is not None
    process.stdout.close()
    n1.say(log_line("web", 2, "two"))
    process.wait(timeout=TIMEOUT)
    assert process.stderr is not None
    assert process.stderr.read() == b""
    process.stderr.close()


def test_flood_of_logs_passes_in_little_memory(cluster: FakeAgentCluster) -> None:
    n1, n2 = cluster.node("n1", "web"), cluster.node("n2", "web")
    n1.batch = 500
    process = cluster.start("logs", "-f", "--lines", "all")
    assert process.stdout is not None
    n2.say(log_line("web", 1, "begin"))
    assert lines_of(process, 1) == ["n2/web │ begin"]
    before = psutil.Process(process.pid).memory_info().rss
    text = "x" * 100
    n1.say(*[log_line("web", 2 + number / 1000, text) for number in range(100_000)])
    # Nobody reads for a while: nothing may pile up here.
    until("the pipe is full", lambda: _is_full(process.pid))
    for number in range(100_000):
        assert process.stdout.readline() == f"n1/web │ {text}\n".encode(), number
    assert psutil.Process(process.pid).memory_info().rss - before < 64 << 20
    assert end(process)[0] == 130


def _is_full(pid: int) -> bool:
    """Return True if the pipe at the process's stdout is full."""
    pipe = os.open(f"/proc/{pid}/fd/1", os.O_WRONLY | os.O_NONBLOCK)
    try:
        return not select.select([], [pipe], [], 0)[1]
    finally:
        os.close(pipe)
