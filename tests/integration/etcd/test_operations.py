"""What is done to etcd by hand, and has to be: compaction, defragmentation, no space, a lost member, a snapshot.

Agents and controllers are never restarted, and a container does not notice.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from devopsellence.store.errors import StoreError
from devopsellence.store.etcd import Etcd
from tests.integration.etcd.secured_cluster import Stage
from tests.support.until import until

pytestmark = [pytest.mark.docker, pytest.mark.etcd, pytest.mark.usefixtures("untouched")]

FILLER = "/filler"


def revision(stage: Stage) -> str:
    said = stage.etcdctl("get", FILLER, "--write-out=fields", at=stage.members[:1]).stdout
    return next(line.split(" : ")[1] for line in said.splitlines() if line.startswith('"Revision"'))


@contextmanager
def load(stage: Stage) -> Iterator[list[int]]:
    """Writes one after the other meanwhile; what is yielded grows by one entry for each."""
    stop, written = threading.Event(), []

    async def write() -> None:
        async with Etcd(stage.settings) as etcd:
            while not stop.is_set():
                try:
                    written.append(await etcd.put(FILLER, b"x" * 1000))
                except StoreError:
                    continue
                await asyncio.sleep(0.01)

    thread = threading.Thread(target=lambda: asyncio.run(write()))
    thread.start()
    try:
        until("there is load", lambda: written)
        yield written
    finally:
        stop.set()
        thread.join()


def test_changes_compacted_while_disconnected_are_not_missed(stage: Stage) -> None:
    with ExitStack() as paused:
        for program in stage.controllers:
            paused.enter_context(program.paused())
        stage.configure("unseen")
        stage.cli.ok("deploy", "--detach")
        paused.enter_context(stage.programs[-1].paused())
        stage.etcdctl("put", FILLER, "x")
        stage.etcdctl("compact", "--physical", revision(stage), at=stage.members[:1])
        # No stream outlives that, so that nothing comes from a member's memory.
        for member in stage.members:
            member.end()
            member.start()
            stage.ready()
    until("the release runs", lambda: stage.probe() == "unseen")
    stage.deploy("after that")


def test_each_member_is_defragmented_under_load_the_leader_last(stage: Stage) -> None:
    leader = stage.leader
    with load(stage) as written:
        before = len(written)
        said = [line for line in stage.script("defrag").splitlines() if line.startswith("Finished")]
        stage.deploy("defragmented")
        assert len(written) > before
    assert len(said) == 3
    if stage.leader is leader:
        assert leader.endpoint in said[-1]


def test_users_that_change_all_the_time_disturb_nobody(stage: Stage) -> None:
    stop = threading.Event()

    def change() -> None:
        while not stop.is_set():
            stage.etcdctl("user", "add", "passer-by", "--no-password")
            stage.etcdctl("user", "delete", "passer-by")

    thread = threading.Thread(target=change)
    thread.start()
    try:
        stage.deploy("users changed")
        for _ in range(5):
            stage.cli.ok("status")
    finally:
        stop.set()
        thread.join()


def test_a_lost_member_is_replaced(stage: Stage) -> None:
    lost = stage.members[2]
    said = stage.script("replace", lost.name, "--pki", str(stage.pki), check=False)
    assert f"{lost.name} answers at" in said
    lost.end()
    (finding,) = [each for each in stage.cli.error("doctor")["findings"] if each["severity"] == "error"]
    assert (finding["code"], lost.endpoint in finding["message"]) == ("etcd_member_away", True)
    lost.wipe()
    for _ in range(2):
        said = stage.script("replace", lost.name, "--pki", str(stage.pki))
        assert f"{lost.name} is added" in said
    stage.deploy("while it is replaced")
    lost.start()
    stage.ready()
    # It counts: without another one there is still a majority.
    stage.members[1].end()
    stage.deploy("on the new one")
    stage.members[1].start()
    stage.ready()


def test_a_restored_snapshot_takes_the_releases_since_then_back_and_nothing_else(stage: Stage, tmp_path: Path) -> None:
    kept = stage.deploy("kept")
    for _ in range(3):
        stage.etcdctl("put", FILLER, "x")
    taken = [stage.script("snapshot", str(tmp_path / "taken"), "--keep", "1") for _ in range(2)]
    (snapshot,) = (tmp_path / "taken").iterdir()
    assert taken[-1].strip() == str(snapshot)
    assert stage.deploy("lost") == kept + 1
    for member in stage.members:
        settings = str(member.bundle / "etcd.env")
        assert "etcd runs on this machine" in stage.script(
            "restore", str(snapshot), "--settings", settings, check=False
        )
    for member in stage.members:
        member.end()
    for member in stage.members:
        stage.script("restore", str(snapshot), "--settings", str(member.bundle / "etcd.env"))
        assert list(member.data.parent.glob(f"{member.data.name}.before-*"))
    for member in stage.members:
        member.start()
    stage.ready()
    until("the release that is known runs again", lambda: stage.probe() == "kept")
    until("it says so", lambda: stage.cli.json("status")["rollout"]["phase"] == "settled")
    assert stage.cli.json("status")["release"]["number"] == kept
    assert any(controller.lines("etcd came back with another history") for controller in stage.controllers)
    # Its number is given out again.
    assert stage.deploy("written anew") == kept + 1


# The last one: a member that joins afterwards is sent all that was written, and may raise the alarm again.
def test_a_full_etcd_refuses_in_one_sentence_and_takes_writes_again_without_a_restart(stage: Stage) -> None:
    healthy = stage.cli.ok("status")
    assert "alarm" not in healthy

    async def fill() -> None:
        async with Etcd(stage.settings) as etcd:
            for _ in range(100):
                await etcd.put(FILLER, b"x" * 1_000_000)

    with pytest.raises(StoreError, match="space exceeded"):
        asyncio.run(fill())
    until("the alarm is raised", lambda: "NOSPACE" in stage.etcdctl("alarm", "list").stdout)
    number = stage.cli.json("status")["release"]["number"]
    stage.configure("too much")
    refused = stage.cli.run("deploy")
    assert refused.exit_code == 1
    assert refused.stderr.count("NOSPACE") == 1
    assert stage.cli.error("deploy")["code"] == "etcd_no_space"
    assert stage.cli.json("status")["release"]["number"] == number
    assert stage.cli.error("release", "show", str(number + 1))["code"] == "release_unknown"
    assert stage.cli.ok("status").count("NOSPACE alarm") == 1
    assert len(stage.cli.json("status")["warnings"]) == 1
    findings = {each["code"]: each for each in stage.cli.error("doctor")["findings"]}
    assert "etcdctl alarm disarm" in [each["command"] for each in findings["etcd_no_space"]["next_actions"]]
    said = stage.script("free")
    assert said.endswith("etcd accepts writes again\n")
    stage.deploy("room again")
    assert "alarm" not in stage.cli.ok("status")
    assert stage.script("free").endswith("etcd accepts writes again\n"), "it may be repeated"
