"""Supervisor with scripts as processes: kill -9, crash loops, order, no orphans."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from devopsellence.cli.dev import state, supervisor_control
from devopsellence.cli.dev.cluster import environment
from devopsellence.cli.dev.logs import BoundedLog
from devopsellence.cli.dev.paths import DevLayout
from devopsellence.cli.dev.process import ProcessIdentity, identify
from devopsellence.cli.dev.spec import (
    BACKOFF,
    RUNNING,
    ProcessReport,
    ProcessSpec,
    SupervisorSnapshot,
    write_snapshot,
    write_specs,
)
from devopsellence.cli.dev.supervisor import ALREADY_RUNS
from tests.support.until import until


class SupervisedCluster:
    """Supervisor with a state folder."""

    def __init__(self, root: Path) -> None:
        self.layout = DevLayout(root)
        state.make_folders(self.layout)
        self.supervisor = ProcessIdentity(0, "")

    def start(self, *specs: ProcessSpec) -> None:
        write_specs(self.layout.processes, specs)
        self.supervisor = supervisor_control.start(self.layout, environment(os.environ))

    def tell(self, *specs: ProcessSpec) -> None:
        supervisor_control.tell(self.layout, specs, self.supervisor)

    def report(self, name: str) -> ProcessReport:
        snapshot = supervisor_control.running(self.layout)
        assert snapshot is not None
        return snapshot.process(name)

    def runs(self, name: str, *, other_than: int = 0) -> ProcessReport:
        """Return the report on a running process, with another pid than the previous."""

        def look() -> ProcessReport | None:
            report = self.report(name)
            return report if report.alive and report.pid != other_than else None

        report = until(f"{name} runs", look, seconds=10)
        assert report is not None
        return report

    def log(self, name: str) -> str:
        path = self.layout.log(name)
        return path.read_text() if path.exists() else ""


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[SupervisedCluster]:
    cluster = SupervisedCluster(tmp_path / "home" / "dev")
    yield cluster
    supervisor_control.stop(cluster.layout)


def script(name: str, text: str, *, stop_seconds: float = 5, stamp: str = "") -> ProcessSpec:
    """Return a process that runs a shell script."""
    return ProcessSpec(name, ("/bin/sh", "-c", text), {"PATH": os.environ["PATH"]}, stop_seconds, stamp)


def sleeper(name: str) -> ProcessSpec:
    return script(name, "echo here; exec sleep 600")


def test_killed_process_restarts_at_once_and_is_counted(cluster: SupervisedCluster) -> None:
    cluster.start(sleeper("a"), sleeper("b"))
    first, other = cluster.runs("a"), cluster.runs("b")
    until("its first line is in the log", lambda: cluster.log("a") == "here\n")
    first.identity.send(signal.SIGKILL)
    again = cluster.runs("a", other_than=first.pid)
    assert (again.restarts, again.last_end) == (1, "was killed by SIGKILL")
    assert again.last_lines == ("here",)
    assert cluster.report("b").pid == other.pid
    until("the next run's line is in the log", lambda: cluster.log("a") == "here\nhere\n")


def test_crash_loop_shows_last_log_lines_and_ends_with_cause(cluster: SupervisedCluster) -> None:
    switch = cluster.layout.root / "mended"
    spec = script("a", f"[ -e {switch} ] && exec sleep 600; echo no; sleep 0.05; echo way >&2; exit 3")
    cluster.start(spec)

    def looping() -> ProcessReport | None:
        report = cluster.report("a")
        return report if report.phase == BACKOFF and report.restarts >= 2 else None

    report = until("the crash loop shows", looping, seconds=10)
    assert report is not None
    assert report.last_end == "exited with code 3"
    assert report.last_lines == ("no", "way")
    assert report.next_attempt_at > report.last_end_at
    switch.touch()
    cluster.tell(spec)  # somebody believes that the cause is gone
    assert cluster.runs("a")


def test_missing_command_is_a_crash_loop(cluster: SupervisedCluster) -> None:
    cluster.start(ProcessSpec("a", ("/nowhere/etcd",), {}, 1), sleeper("b"))
    assert cluster.runs("b")
    assert "could not be started" in cluster.report("a").last_end


def test_killed_supervisor_leaves_no_orphans(cluster: SupervisedCluster) -> None:
    cluster.start(sleeper("a"), sleeper("b"))
    processes = [cluster.runs("a").identity, cluster.runs("b").identity]
    cluster.supervisor.send(signal.SIGKILL)
    assert all(process.wait_gone(5) for process in processes)
    assert supervisor_control.running(cluster.layout) is None
    cluster.start(sleeper("a"))
    assert cluster.runs("a")


def test_processes_stop_in_reverse_order(cluster: SupervisedCluster) -> None:
    order = cluster.layout.root / "order"
    text = "trap 'sleep 0.1; echo {0} >> {1}; exit' TERM; echo up; while :; do sleep 0.02; done"
    cluster.start(*(script(name, text.format(name, order)) for name in "abc"))
    for name in "abc":
        until(f"{name} listens", lambda name=name: "up" in cluster.log(name))  # type: ignore[misc]
    assert supervisor_control.stop(cluster.layout) == ["c", "b", "a", "supervisor"]
    assert order.read_text().split() == ["c", "b", "a"]
    assert supervisor_control.stop(cluster.layout) == []


def test_process_ignoring_sigterm_is_killed_after_grace_period(cluster: SupervisedCluster) -> None:
    deaf = (
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(600)"
    )
    cluster.start(ProcessSpec("a", (sys.executable, "-c", deaf), {}, 0.2))
    until("it ignores SIGTERM", lambda: "up" in cluster.log("a"))
    process = cluster.runs("a").identity
    supervisor_control.stop(cluster.layout)
    assert not process.alive
    assert "did not stop in time" in cluster.log("supervisor")


def test_changed_process_restarts_and_removed_process_stops(cluster: SupervisedCluster) -> None:
    cluster.start(sleeper("a"), sleeper("b"), sleeper("c"))
    a, b, c = (cluster.runs(name) for name in "abc")
    cluster.tell(sleeper("a"), script("b", "echo here; exec sleep 600", stamp="renewed"))
    assert cluster.runs("b", other_than=b.pid).restarts == 0
    assert cluster.report("a").pid == a.pid
    assert c.identity.wait_gone(5)


def test_unreadable_process_list_changes_nothing(cluster: SupervisedCluster) -> None:
    cluster.start(sleeper("a"))
    before = cluster.runs("a")
    cluster.layout.processes.write_text("[{")
    cluster.supervisor.send(signal.SIGHUP)
    until("it says so", lambda: "cannot read" in cluster.log("supervisor"))
    assert cluster.report("a") == before


def test_second_supervisor_exits(cluster: SupervisedCluster) -> None:
    cluster.start(sleeper("a"))
    command = [sys.executable, "-m", "devopsellence.cli.dev.supervisor", str(cluster.layout.root)]
    second = subprocess.run(command, env=environment(os.environ), timeout=10, check=False)
    assert second.returncode == ALREADY_RUNS
    assert cluster.runs("a")


def test_supervisor_ends_when_its_folder_is_removed(cluster: SupervisedCluster) -> None:
    cluster.start(sleeper("a"))
    process = cluster.runs("a").identity
    shutil.rmtree(cluster.layout.root)
    process.send(signal.SIGKILL)
    assert cluster.supervisor.wait_gone(5)


def test_idle_supervisor_uses_little_cpu_and_memory(cluster: SupervisedCluster) -> None:
    cluster.start(sleeper("a"))
    cluster.runs("a")
    until("its line is in the log", lambda: cluster.log("a"))
    proc = Path(f"/proc/{cluster.supervisor.pid}")
    cluster.supervisor.wait_gone(0.3)  # it has written its first snapshot by then
    before = status_field(proc, "voluntary_ctxt_switches")
    assert not cluster.supervisor.wait_gone(1.0)
    assert status_field(proc, "voluntary_ctxt_switches") == before
    assert status_field(proc, "VmRSS") < 20 * 1024
    mapped = (proc / "maps").read_text()
    assert "grpc" not in mapped
    assert "cryptography" not in mapped


def status_field(proc: Path, name: str) -> int:
    """Return a number of /proc/PID/status; sizes in kB."""
    lines = dict(line.split(":", 1) for line in (proc / "status").read_text().splitlines())
    return int(lines[name].split()[0])


def test_reused_pid_is_not_ours(cluster: SupervisedCluster) -> None:
    stranger = subprocess.Popen(["sleep", "600"])
    try:
        me = identify(stranger.pid)
        assert me is not None
        stale = ProcessIdentity(stranger.pid, me.started + "0")
        cluster.layout.supervisor_pid.write_text(f"{stale.pid} {stale.started}\n")
        report = ProcessReport("a", RUNNING, pid=stale.pid, started=stale.started)
        write_snapshot(cluster.layout.snapshot, SupervisorSnapshot(stale, 1.0, (report,)))
        assert supervisor_control.stop(cluster.layout) == []
        assert not stale.send(signal.SIGKILL)
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


def test_zombie_counts_as_ended() -> None:
    process = subprocess.Popen(["sleep", "600"])
    identity = identify(process.pid)
    assert identity is not None
    process.kill()
    assert identity.wait_gone(5)
    until("it is a zombie", lambda: not identity.alive)
    process.wait()


def test_log_is_bounded_and_keeps_newest_lines(tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    log = BoundedLog(path, limit=100)
    for number in range(100):
        log.write(f"line {number:03}\n".encode())
    log.close()
    assert path.read_text().endswith("line 099\n")
    older = path.with_name("a.log.1").read_text()
    assert len(older) <= 100
    assert len(path.read_text()) <= 100
    assert (older + path.read_text()).startswith(older.splitlines()[0])
