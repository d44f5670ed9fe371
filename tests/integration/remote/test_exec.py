"""``exec`` and ``task run``: bytes, input, signals and exit codes of real processes behind a stand-in for an agent."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys

import grpc
import pytest

from devopsellence.api.v1.agent_pb2 import RunStart
from devopsellence.api.v1.workload_pb2 import Service, Task
from tests.integration.remote.cluster import TIMEOUT, FakeAgentCluster
from tests.integration.remote.resizable_terminal import ResizableTerminal
from tests.support.fake_agent import FakeAgent
from tests.support.until import until

EVERY_BYTE = bytes(range(256)) * 4096


def started(agent: FakeAgent) -> RunStart:
    """Return the only command started."""
    (start,) = agent.started
    return start


@pytest.mark.parametrize("code", [0, 1, 2, 127, 137, 255])
def test_exec_returns_exit_code(cluster: FakeAgentCluster, code: int) -> None:
    agent = cluster.node("n1", "web")
    assert cluster.run("exec", "web", "--", "sh", "-c", f"exit {code}").returncode == code
    assert list(started(agent).command.command) == ["sh", "-c", f"exit {code}"]
    assert (started(agent).interactive, started(agent).tty) == (False, False)


def test_exec_passes_output_unchanged_and_separate(cluster: FakeAgentCluster) -> None:
    cluster.node("n1", "web")
    file = cluster.folder / "bytes"
    file.write_bytes(EVERY_BYTE)
    done = cluster.run("exec", "web", "--", "sh", "-c", f"cat {file}; cat {file} >&2")
    assert (done.returncode, done.stdout == EVERY_BYTE, done.stderr == EVERY_BYTE) == (0, True, True)


def test_exec_passes_input_of_any_size(cluster: FakeAgentCluster) -> None:
    cluster.node("n1", "web")
    sent = EVERY_BYTE * 20
    done = cluster.run("exec", "web", "-i", "--", "sha256sum", stdin=sent)
    assert done.stdout.split()[0].decode() == hashlib.sha256(sent).hexdigest()


def test_exec_passes_input_from_file(cluster: FakeAgentCluster) -> None:
    cluster.node("n1", "web")
    file = cluster.folder / "bytes"
    file.write_bytes(EVERY_BYTE)
    with file.open("rb") as source:
        process = cluster.start("exec", "web", "-i", "cat", stdin=source)
        out, _ = process.communicate(timeout=TIMEOUT)
    assert out == EVERY_BYTE


def test_exec_ends_with_unread_input(cluster: FakeAgentCluster) -> None:
    cluster.node("n1", "web")
    done = cluster.run("exec", "web", "-i", "--", "sh", "-c", "exit 7", stdin=EVERY_BYTE * 20)
    assert done.returncode == 7


def test_first_running_node_is_chosen_and_named(cluster: FakeAgentCluster) -> None:
    cluster.node("n1", "redis")
    cluster.node("n2", "web", serves=False)
    n3, n4 = cluster.node("n3", "web"), cluster.node("n4", "web")
    done = cluster.run("exec", "web", "true")
    assert done.stderr.decode() == "on node n3; web also runs on n2, n4 (--node chooses)\n"
    assert len(n3.started) == 1
    done = cluster.run("exec", "web", "--node", "n4", "true")
    assert (done.stderr, len(n4.started)) == (b"", 1)


def test_exec_refusal_is_a_sentence(cluster: FakeAgentCluster) -> None:
    agent = cluster.node("n1", "web")
    assert cluster.error("exec", "wbe", "true")["code"] == "service_unknown"
    assert cluster.error("exec", "web", "--node", "n9", "true")["code"] == "node_not_attached"
    assert cluster.error("exec", "web", "-t", "true")["code"] == "no_terminal"
    agent.refusal = (grpc.StatusCode.FAILED_PRECONDITION, "nothing of web runs here")
    error = cluster.error("exec", "web", "true")
    assert error["code"] == "not_running"
    assert "node n1" in error["message"]
    assert "web" in error["message"]
    cluster.servers["n1"].stop()
    assert cluster.error("exec", "web", "true")["code"] == "agent_unreachable"


def test_closed_stdin_is_reported_in_a_sentence(cluster: FakeAgentCluster) -> None:
    command = f"exec {sys.executable} -m devopsellence.cli exec web -i true <&-"
    done = subprocess.run(["sh", "-c", command], env=cluster.environ, capture_output=True, timeout=TIMEOUT, check=False)
    assert done.returncode == 2
    assert b"stdin" in done.stderr.splitlines()[-1]


def test_exec_json_has_output_and_exit_code(cluster: FakeAgentCluster) -> None:
    cluster.node("n1", "web")
    done = cluster.run("exec", "web", "-o", "json", "--", "sh", "-c", "echo out; echo err >&2; exit 3")
    *output, result = map(json.loads, done.stdout.splitlines())
    assert done.returncode == 3
    assert {(each["stream"], each["data"]) for each in output} == {("stdout", "out\n"), ("stderr", "err\n")}
    assert (result["event"], result["ok"], result["exit_code"], result["node"]) == ("result", False, 3, "n1")


def test_control_c_is_forwarded_and_second_control_c_ends_exec(cluster: FakeAgentCluster) -> None:
    agent = cluster.node("n1", "web")
    # Ends only when it is killed; says that it was asked to.
    command = "trap 'echo asked' INT; echo begun; while :; do read -r _ < fifo; done 2>/dev/null"
    os.mkfifo(cluster.folder / "fifo")
    process = cluster.start("exec", "web", "--", "sh", "-c", command.replace("fifo", str(cluster.folder / "fifo")))
    assert process.stdout is not None
    assert process.stdout.readline() == b"begun\n"
    process.send_signal(signal.SIGINT)
    assert process.stdout.readline() == b"asked\n"
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=TIMEOUT)
    assert (process.returncode, agent.signals) == (130, ["SIGINT"])
    assert errors == b"Warning: sent SIGINT; press Ctrl-C again to end the session\n"
    until("the command is ended", lambda: agent.ended == 1)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_ended_client_ends_command(cluster: FakeAgentCluster, number: signal.Signals, code: int) -> None:
    agent = cluster.node("n1", "web")
    process = cluster.start("exec", "web", "--", "sh", "-c", "echo begun; exec sleep 300")
    assert process.stdout is not None
    assert process.stdout.readline() == b"begun\n"
    process.send_signal(number)
    _, said = process.communicate(timeout=TIMEOUT)
    assert process.returncode == code
    assert f"ended by {number.name}; the command on node n1 is ended, too".encode() in said
    until("the command is ended", lambda: agent.ended == 1)


def test_lost_agent_is_an_error(cluster: FakeAgentCluster) -> None:
    cluster.node("n1", "web")
    process = cluster.start("exec", "web", "--", "sh", "-c", "echo begun; exec sleep 300")
    assert process.stdout is not None
    assert process.stdout.readline() == b"begun\n"
    cluster.servers["n1"].stop()
    _, errors = process.communicate(timeout=TIMEOUT)
    assert process.returncode == 1
    assert b"Error: " in errors
    assert b"n1" in errors


def test_terminal_passes_raw_keys_and_resizes(cluster: FakeAgentCluster) -> None:
    agent = cluster.node("n1", "web")
    window = ResizableTerminal(cluster, "exec", "web", "-it", "--", "cat")
    window.resize(101, 31)
    until("it has begun", lambda: agent.started and window.is_raw)
    assert (started(agent).size.columns, started(agent).size.rows) == (101, 31)
    window.type(b"hello\r")
    window.read_until(b"hello\r\nhello\r\n")
    window.resize(90, 20)
    until("the size is followed", lambda: (90, 20) in agent.sizes)
    window.type(b"\x03")
    assert window.left() == (130, True)
    assert agent.signals == []


def test_terminal_is_restored_after_lost_agent(cluster: FakeAgentCluster) -> None:
    cluster.node("n1", "web")
    window = ResizableTerminal(cluster, "exec", "web", "-it", "--", "echo", "begun;", "sleep", "300")
    window.read_until(b"begun")
    assert window.is_raw
    cluster.servers["n1"].stop()
    assert window.left() == (1, True)


def test_task_runs_on_node_of_service_with_its_variables(cluster: FakeAgentCluster) -> None:
    cluster.node("n1", labels=["web"])
    cluster.node("n2", labels=["worker"], serves=False)
    n3 = cluster.node("n3", labels=["worker"])
    report = Task(name="report", service="jobs", command=["sh", "-c"], args=['echo "$WHO" "$0"; exit 9'])
    report.env["WHO"] = "report"
    cluster.release(Service(name="jobs", kind=Service.WORKER), tasks=[report])
    done = cluster.run("task", "run", "report")
    assert (done.returncode, done.stdout) == (9, b"report sh\n")
    done = cluster.run("task", "run", "report", "--", 'echo "$0" instead', "-x")
    assert (done.returncode, done.stdout) == (0, b"-x instead\n")
    assert len(n3.started) == 2
    assert n3.started[0].task.name == "report"


def test_control_c_stops_a_task_with_sigterm(cluster: FakeAgentCluster) -> None:
    n1 = cluster.node("n1", labels=["web"])
    task = Task(name="long", service="web", command=["sh", "-c", "echo begun; exec sleep 300"])
    cluster.release(Service(name="web", kind=Service.WEB), tasks=[task])
    process = cluster.start("task", "run", "long")
    assert process.stdout is not None
    assert process.stdout.readline() == b"begun\n"
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=TIMEOUT)
    assert (process.returncode, n1.signals) == (143, ["SIGTERM"])


def test_release_task_needs_confirmation(cluster: FakeAgentCluster) -> None:
    n1 = cluster.node("n1", labels=["web"])
    release = Task(name="release", service="web", command=["true"])
    cluster.release(Service(name="web", kind=Service.WEB), tasks=[Task(name="x", service="web")], release_task=release)
    error = cluster.error("task", "run", "release")
    assert (error["code"], error["exit_code"], n1.started) == ("release_task", 2, [])
    assert cluster.run("task", "run", "release", "--yes").returncode == 0
    assert cluster.error("task", "run", "other")["message"].endswith("release, x")
    assert cluster.ok("task", "list").splitlines() == [
        "TASK     SERVICE  COMMAND  RUNS",
        "release  web      true     in every rollout",
        "x        web               by hand",
    ]


def test_task_without_node_reports_reason(cluster: FakeAgentCluster) -> None:
    cluster.node("n1", labels=["worker"])
    cluster.node("n2", labels=["web"], serves=False)
    cluster.release(Service(name="web", kind=Service.WEB), tasks=[Task(name="x", service="web", command=["true"])])
    error = cluster.error("task", "run", "x")
    assert error["code"] == "no_node_for_task"
    assert 'n1 is not labelled "web"' in error["message"]
    assert "node n2 has no heartbeat" in error["message"]


def test_shell_completes_names_from_configuration(cluster: FakeAgentCluster) -> None:
    path = cluster.folder / "devopsellence.yml"
    path.write_text("services: {web: {}, worker: {}, redis: {}}\ntasks: {report: {}}\n")
    assert complete(cluster, "exec w") == ["plain,web", "plain,worker"]
    assert complete(cluster, "task run r") == ["plain,report"]
    path.write_text("{[")
    assert complete(cluster, "logs w") == []


def complete(cluster: FakeAgentCluster, words: str) -> list[str]:
    typed = f"devopsellence {words}"
    asked = {"_DEVOPSELLENCE_COMPLETE": "bash_complete", "COMP_WORDS": typed, "COMP_CWORD": str(len(typed.split()) - 1)}
    process = cluster.start(environ=asked)
    out, errors = process.communicate(timeout=TIMEOUT)
    assert errors == b""
    return out.decode().split()
