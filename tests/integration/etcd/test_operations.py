"""Operations on etcd by hand: compaction, defragmentation, no space, a lost member, a snapshot.

Agents and controllers are never restarted, and a container is not touched.
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
from tests.integration.etcd.secured_cluster import SecuredCluster
from tests.support.until import until

pytestmark = [pytest.mark.docker, pytest.mark.etcd, pytest.mark.usefixtures("untouched")]

FILLER = "/filler"


def revision(cluster: SecuredCluster) -> str:
    output = cluster.etcdctl("get", FILLER, "--write-out=fields", at=cluster.members[:1]).stdout
    return next(line.split(" : ")[1] for line in output.splitlines() if line.startswith('"Revision"'))


@contextmanager
def load(cluster: SecuredCluster) -> Iterator[list[int]]:
    """Write to etcd inside the block; yield a list that grows by one entry for each write."""
    stop, written = threading.Event(), []

    async def write() -> None:
        async with Etcd(cluster.settings) as etcd:
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


def test_changes_compacted_while_disconnected_are_not_missed(cluster: SecuredCluster) -> None:
    with ExitStack() as paused:
        for program in cluster.controllers:
            paused.enter_context(program.paused())
        cluster.configure("unseen")
        # The gateways are paused with the controllers.
        cluster.cli_at_etcd.ok("deploy", "--detach")
        paused.enter_context(cluster.programs[-1].paused())
        cluster.etcdctl("put", FILLER, "x")
        cluster.etcdctl("compact", "--physical", revision(cluster), at=cluster.members[:1])
        # No stream outlives that, so that nothing comes from a member's memory.
        for member in cluster.members:
            member.end()
            member.start()
            cluster.ready()
    until("the release runs", lambda: cluster.probe() == "unseen")
    cluster.deploy("after that")


def test_each_member_is_defragmented_under_load_the_leader_last(cluster: SecuredCluster) -> None:
    leader = cluster.leader
    with load(cluster) as written:
        before = len(written)
        said = [line for line in cluster.script("defrag").splitlines() if line.startswith("Finished")]
        cluster.deploy("defragmented")
        assert len(written) > before
    assert len(said) == 3
    if cluster.leader is leader:
        assert leader.endpoint in said[-1]


def test_lost_member_is_replaced(cluster: SecuredCluster) -> None:
    lost = cluster.members[2]
    output = cluster.script("replace", lost.name, "--pki", str(cluster.pki), check=False)
    assert f"{lost.name} answers at" in output
    lost.end()
    (finding,) = [each for each in cluster.cli_at_etcd.error("doctor")["findings"] if each["severity"] == "error"]
    assert (finding["code"], lost.endpoint in finding["message"]) == ("etcd_member_away", True)
    lost.wipe()
    for _ in range(2):
        output = cluster.script("replace", lost.name, "--pki", str(cluster.pki))
        assert f"{lost.name} is added" in output
    cluster.deploy("while it is replaced")
    lost.start()
    cluster.ready()
    # It counts: without another one there is still a majority.
    cluster.members[1].end()
    cluster.deploy("on the new one")
    cluster.members[1].start()
    cluster.ready()


def test_restored_snapshot_undoes_later_releases_only(cluster: SecuredCluster, tmp_path: Path) -> None:
    kept = cluster.deploy("kept")
    for _ in range(3):
        cluster.etcdctl("put", FILLER, "x")
    taken = [cluster.script("snapshot", str(tmp_path / "taken"), "--keep", "1") for _ in range(2)]
    (snapshot,) = (tmp_path / "taken").iterdir()
    assert taken[-1].strip() == str(snapshot)
    assert cluster.deploy("lost") == kept + 1
    for member in cluster.members:
        settings = str(member.bundle / "etcd.env")
        assert "etcd runs on this machine" in cluster.script(
            "restore", str(snapshot), "--settings", settings, check=False
        )
    for member in cluster.members:
        member.end()
    for member in cluster.members:
        cluster.script("restore", str(snapshot), "--settings", str(member.bundle / "etcd.env"))
        assert list(member.data.parent.glob(f"{member.data.name}.before-*"))
    for member in cluster.members:
        member.start()
    cluster.ready()
    until("the release that is known runs again", lambda: cluster.probe() == "kept")
    until("it says so", lambda: cluster.cli.json("status")["rollout"]["phase"] == "settled")
    assert cluster.cli.json("status")["release"]["number"] == kept
    assert any(controller.lines("etcd came back with another history") for controller in cluster.controllers)
    # Its number is given out again.
    assert cluster.deploy("written anew") == kept + 1


# The last one: a member that joins afterwards is sent all that was written, and may raise the alarm again.
def test_full_etcd_refuses_writes_until_space_is_freed(cluster: SecuredCluster) -> None:
    healthy = cluster.cli.ok("status")
    assert "alarm" not in healthy

    async def fill() -> None:
        async with Etcd(cluster.settings) as etcd:
            for _ in range(100):
                await etcd.put(FILLER, b"x" * 1_000_000)

    with pytest.raises(StoreError, match="space exceeded"):
        asyncio.run(fill())
    until("the alarm is raised", lambda: "NOSPACE" in cluster.etcdctl("alarm", "list").stdout)
    number = cluster.cli.json("status")["release"]["number"]
    cluster.configure("too much")
    refused = cluster.cli.run("deploy")
    assert refused.exit_code == 1
    assert refused.stderr.count("NOSPACE") == 1
    assert cluster.cli.error("deploy")["code"] == "etcd_no_space"
    assert cluster.cli.json("status")["release"]["number"] == number
    assert cluster.cli.error("release", "show", str(number + 1))["code"] == "release_unknown"
    assert cluster.cli.ok("status").count("NOSPACE alarm") == 1
    assert len(cluster.cli.json("status")["warnings"]) == 1
    findings = {finding["code"]: finding for finding in cluster.cli.error("doctor")["findings"]}
    assert "etcdctl alarm disarm" in [
        next_action["command"] for next_action in findings["etcd_no_space"]["next_actions"]
    ]
    output = cluster.script("free")
    assert output.endswith("etcd accepts writes again\n")
    cluster.deploy("room again")
    assert "alarm" not in cluster.cli.ok("status")
    assert cluster.script("free").endswith("etcd accepts writes again\n"), "it may be repeated"
