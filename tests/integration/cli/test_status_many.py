"""``status`` of many nodes: in a pipe, on a terminal, and the number of reads."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from typing import Any, Self

import pytest

from devopsellence.api.v1.stored_pb2 import (
    AssignmentStatus,
    Candidate,
    Environment,
    Heartbeat,
    Node,
    NodeCounts,
    NodeProgress,
    Release,
    Rollout,
    RolloutOutcome,
    ServiceStatus,
)
from devopsellence.api.v1.workload_pb2 import Service
from devopsellence.cli.store.watcher import EnvironmentWatcher
from devopsellence.store.codec import encode
from devopsellence.store.etcd import Etcd
from devopsellence.store.settings import Settings
from tests.integration.cli.rollout_writer import timestamp_now
from tests.integration.cli.test_terminal import HIDE, SHOW, Terminal
from tests.support.cli import REF, Cli

DASH = "\N{EN DASH}"
NAMES = [f"n{number:02}" for number in range(1, 41)]


def rollout(settled: int, phase: Rollout.Phase.ValueType = Rollout.PROGRESSING, **more: Any) -> Rollout:
    """Return a rollout as the controller writes it, with a list that leaves out most nodes."""
    waiting = NAMES[settled : settled + 10]
    nodes = [
        NodeProgress(node=name, phase=NodeProgress.WAITING, release=1, reason=f"{name} waits its turn")
        for name in waiting
    ]
    counts = NodeCounts(
        total=len(NAMES),
        settled=settled,
        waiting=len(NAMES) - settled,
        services_settled=settled,
        services_total=settled,
    )
    fields: dict[str, Any] = {
        "release": 2,
        "target": 2,
        "last_settled": 1,
        "nodes": nodes,
        "started_at": timestamp_now(),
    }
    return Rollout(phase=phase, counts=counts, **{**fields, **more})


async def settle(etcd: Etcd, release: int, *names: str) -> None:
    for name in names:
        web = ServiceStatus(name="web", phase=ServiceStatus.RUNNING, health=ServiceStatus.HEALTHY, release=release)
        message = AssignmentStatus(node=name, release=release, phase=AssignmentStatus.SETTLED, services=[web])
        await etcd.put(etcd.keys.status(name, REF), encode(message))


async def prepare(etcd: Etcd) -> None:
    """Write forty nodes at release 1, and a rollout of release 2."""
    keys = etcd.keys
    await etcd.put(keys.environment(REF), encode(Environment(nodes=NAMES, latest_release=2)))
    for number in (1, 2):
        message = Release(number=number, services=[Service(name="web", kind=Service.WEB)])
        await etcd.put(keys.release(REF, number), encode(message))
    await etcd.put(keys.candidate(7), encode(Candidate(identity="test/1")))
    for name in NAMES:
        await etcd.put(keys.node(name), encode(Node(name=name, uid="u", labels=["web"])))
        await etcd.put(keys.heartbeat(name), encode(Heartbeat(node=name, uid="u")))
    await settle(etcd, 1, *NAMES)
    await etcd.put(keys.rollout(REF), encode(rollout(0)))


@pytest.fixture
def many(cli: Cli) -> Cli:
    cli.etcd(prepare)
    return cli


def test_status_in_pipe_folds_nodes_unless_all_are_asked_for(many: Cli) -> None:
    shown = many.ok("status")
    assert f"waiting 40 n01{DASH}n40: waits its turn" in " ".join(shown.split())
    assert len(shown.splitlines()) < 8
    assert len(many.ok("status", "--all").splitlines()) > 40
    document = many.json("status")
    assert len(document["nodes"]) == len(document["services"]) == 40
    assert document["rollout"]["counts"]["waiting"] == 40
    assert {node["phase"] for node in document["nodes"]} == {"waiting"}


class StatusWatch:
    """``status --watch`` in a pipe inside a ``with`` block; ended if it takes far too long."""

    def __init__(self, cli: Cli) -> None:
        command = [sys.executable, "-m", "devopsellence.cli", "--env", str(REF), "status", "--watch"]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(command, env=cli.process_environ(), stdout=pipe, stderr=pipe, text=True)
        self.seen: list[str] = []
        self._timer = threading.Timer(60, self.process.kill)

    def __enter__(self) -> Self:
        self._timer.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()
        self.process.kill()
        self.process.communicate()

    def until(self, part: str) -> None:
        """Read lines up to one with ``part``."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.seen.append(line.rstrip("\n"))
            if part in line:
                return
        raise AssertionError(self.seen)

    def end(self) -> tuple[int, str]:
        """Return exit code and stderr."""
        _, error = self.process.communicate()
        return self.process.returncode, error


def test_watch_in_pipe_groups_changes_of_nodes(many: Cli) -> None:
    with StatusWatch(many) as watch:
        watch.until("release 2: progressing, 0/40 nodes")
        assert watch.seen[0] == f"n01{DASH}n40: waiting: waits its turn"
        many.etcd(lambda etcd: settle(etcd, 2, *NAMES[:5]))
        many.write(lambda etcd: etcd.keys.rollout(REF), rollout(5))
        watch.until("release 2: progressing, 5/40 nodes, 5/5 services")
        many.etcd(lambda etcd: settle(etcd, 2, *NAMES[5:]))
        many.write(lambda etcd: etcd.keys.rollout(REF), rollout(40, Rollout.SETTLED, finished_at=timestamp_now()))
        watch.until("release 2: settled, 40/40 nodes")
        assert watch.end() == (0, "")
    assert len(watch.seen) < 30, "far fewer lines than nodes that changed"
    assert not any("\x1b" in line for line in watch.seen)


def test_watch_on_terminal_fits_screen_and_restores_cursor(many: Cli) -> None:
    terminal = Terminal(many, "--env", str(REF), "status", "--watch", LINES="12", COLUMNS="70")
    terminal.read_until(f"n01{DASH}n40".encode())
    many.etcd(lambda etcd: settle(etcd, 2, *NAMES))
    many.write(lambda etcd: etcd.keys.rollout(REF), rollout(40, Rollout.SETTLED, finished_at=timestamp_now()))
    terminal.read_until(b"settled in")
    assert terminal.end() == 0
    assert terminal.seen.count(HIDE) == terminal.seen.count(SHOW) == 1
    frames, _, _ = terminal.seen.partition(b"Release 2 of")
    assert frames.count(b"Environment") == 1, "what does not change is drawn once"
    assert frames.count(b"\n") < 12


def test_watch_ends_with_failure_of_rolled_back_release(many: Cli) -> None:
    failed = ServiceStatus(name="web", phase=ServiceStatus.BACKOFF, failed=True, reason="ended with exit code 3")
    failed.last_exit.code = 3
    failed.last_exit.log_lines.append("cannot bind")
    message = AssignmentStatus(node="n01", release=2, phase=AssignmentStatus.FAILED, services=[failed])
    many.write(lambda etcd: etcd.keys.status("n01", REF), message)
    back: dict[str, Any] = {"target": 1, "halted": "web ended"}
    with StatusWatch(many) as watch:
        watch.until("failed: web failed (ended with exit code 3")
        many.write(lambda etcd: etcd.keys.rollout(REF), rollout(39, Rollout.ROLLING_BACK, **back))
        watch.until("release 2: failed, rolling back to release 1")
        many.etcd(lambda etcd: settle(etcd, 1, "n01"))
        reason = "web ended; release 1 runs again"
        ended = rollout(40, Rollout.FAILED, finished_at=timestamp_now(), reason=reason, **back)
        many.write(lambda etcd: etcd.keys.rollout(REF), ended)
        code, error = watch.end()
    assert code == 1
    assert "failed: web ended; release 1 runs again" in error
    assert "n01 web: failed (ended with exit code 3" in error
    assert "cannot bind" in error
    assert "devopsellence logs" in error


def test_release_after_rollback_is_marked_and_rolled_back_from(many: Cli) -> None:
    outcome = RolloutOutcome(release=1, phase=Rollout.SETTLED)
    more: dict[str, Any] = {"target": 1, "reason": "web ended; release 1 runs again", "history": [outcome]}
    many.write(lambda etcd: etcd.keys.rollout(REF), rollout(40, Rollout.FAILED, **more))
    listed = many.json("release", "list")["releases"]
    assert [(each["number"], each["outcome"], each["runs"], each["rolled_back"]) for each in listed] == [
        (2, "failed", False, True),
        (1, "settled", True, False),
    ]
    shown = many.ok("--env", str(REF), "status")
    assert "Runs         1" in shown
    error = many.error("release", "rollback")
    assert "before release 1" in error["message"]
    assert many.error("release", "rollback", "1")["code"] == "rollback_pointless"
    assert json.loads(many.ok("release", "rollback", "2", "--dry-run", "-o", "json"))["rollback_of"] == 2


async def test_watch_reads_all_nodes_with_few_calls(etcd: Etcd, settings: Settings) -> None:
    await prepare(etcd)
    async with EnvironmentWatcher(etcd, REF) as watcher:
        snapshot = watcher.snapshot()
        assert len(watcher._informers) < 8
    assert len(snapshot.statuses) == len(snapshot.nodes) == 40
    assert set(snapshot.older_releases) == {1}
