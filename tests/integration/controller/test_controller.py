"""The real controller against a real etcd; operators and agents are played by the test."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from devopsellence.api.v1 import stored_pb2 as pb
from devopsellence.store.settings import Settings
from tests.support.controller import REF, ControllerProcess, EnvironmentDriver, StartController

pytestmark = pytest.mark.etcd
SETTLED = pb.AssignmentStatus.SETTLED
HOST = "app.example.com"


async def settle(
    environment: EnvironmentDriver, number: int, *names: str, hosts: Sequence[str] = (), **services: str
) -> None:
    """Attach ``names``, deploy, and have all of them report that they have settled."""
    await environment.release(number, hosts=hosts, **services)
    await environment.attach(*names, latest=number)
    for name in names:
        assignment = await environment.assignment(name, lambda one: one.release == number)
        await environment.report(assignment, SETTLED)
    await environment.rollout(lambda one: one.release == number and one.phase == pb.Rollout.SETTLED)


async def test_from_release_to_settled_relabelled_detached_and_deleted(
    start: StartController, environment: EnvironmentDriver
) -> None:
    keys = environment.keys
    controller = start("--debug")
    await environment.add_node("n1", "web")
    await environment.add_node("n2", "web", "worker")
    await environment.release(1, web="web", redis="worker")
    await environment.attach("n1", "n2", latest=1)
    first = await environment.assignment("n1")
    second = await environment.assignment("n2")
    assert [service.name for service in first.services] == ["web"]
    assert [service.name for service in second.services] == ["redis", "web"]
    assert (first.node_uid, first.generation, first.release) == ("uid-n1", 1, 1)
    await environment.rollout(lambda one: one.phase == pb.Rollout.PROGRESSING)
    await environment.report(first, SETTLED)
    await environment.report(second, SETTLED)
    await environment.rollout(lambda one: one.phase == pb.Rollout.SETTLED)
    assert await environment.read(pb.Assignment, keys.assignment("n1", REF)) == first, "the generation is stable"

    # A label moves a service.
    await environment.add_node("n1", "web", "worker")
    moved = await environment.assignment("n1", lambda one: one.generation == 2)
    assert [service.name for service in moved.services] == ["redis", "web"]
    await environment.add_node("n1", "web")
    moved = await environment.assignment("n1", lambda one: one.generation == 3)
    assert [service.name for service in moved.services] == ["web"]

    # A crash after it has settled.
    crashed = pb.ServiceStatus(name="web", phase=pb.ServiceStatus.BACKOFF, failed=True, reason="ended")
    crashed.last_exit.code = 3
    await environment.report(second, pb.AssignmentStatus.FAILED, crashed)
    rollout = await environment.rollout(lambda one: "exit code 3" in one.reason)
    assert rollout.phase == pb.Rollout.SETTLED

    # Detached: tombstone, carried out, gone.
    await environment.attach("n1", latest=1)
    tombstone = await environment.assignment("n2", lambda one: one.removed)
    assert (list(tombstone.services), tombstone.generation) == ([], 2)
    await environment.report(tombstone, pb.AssignmentStatus.REMOVED)
    await environment.gone(keys.status("n2", REF))
    assert await environment.read(pb.Assignment, keys.assignment("n2", REF)) is None

    # The environment is deleted.
    await environment.etcd.delete(keys.environment(REF))
    tombstone = await environment.assignment("n1", lambda one: one.removed)
    await environment.report(tombstone, pb.AssignmentStatus.REMOVED)
    await environment.gone(keys.rollout(REF))

    events = (await environment.etcd.list(keys.events_prefix(REF))).items
    assert all(event.lease for event in events)
    assert [line["code"] for line in controller.lines("decided")][:3] == [
        "rollout_started",
        "assignment_written",
        "assignment_written",
    ]
    assert len(events) == len(controller.lines("decided"))
    assert await controller.stop() == 0
    assert not (await environment.etcd.list(keys.election_prefix)).items, "the lease was revoked"


async def test_garbage_stops_its_own_key_only(start: StartController, environment: EnvironmentDriver) -> None:
    etcd, keys = environment.etcd, environment.keys
    controller = start()
    await environment.add_node("n1", "web")
    await environment.add_node("n2", "web")
    await settle(environment, 1, "n1", "n2", web="web")

    said = "nodes heartbeats environments releases rollouts assignments status secrets certificates ingress"
    kinds = [f"{kind}/" for kind in said.split()]
    for prefix in kinds:
        await etcd.put(f"{keys.prefix}{prefix}", b"{")
        await etcd.put(f"{keys.prefix}{prefix}no/such/thing/at/all/either", b"\xff")
    await etcd.put(keys.node("n1"), b"nonsense")
    rollout = await environment.rollout(lambda one: one.nodes[0].phase == pb.NodeProgress.ERROR)
    assert keys.node("n1") in rollout.nodes[0].reason

    await environment.release(2, web="web", redis="web")
    await environment.attach("n1", "n2", latest=2)
    await environment.assignment("n2", lambda one: one.release == 2)
    kept = await environment.assignment("n1")
    assert (kept.release, kept.removed) == (1, False)

    await environment.add_node("n1", "web")
    await environment.assignment("n1", lambda one: one.release == 2)

    await etcd.put(keys.assignment("n2", REF), b"[]")
    renewed = await environment.assignment("n2", lambda one: one.generation > 0)
    assert (renewed.generation, [service.name for service in renewed.services]) == (2, ["redis", "web"])

    await etcd.put(keys.rollout(REF), b"")
    await environment.rollout(lambda one: one.release == 2)

    await etcd.put(keys.release(REF, 3), b"?")
    await environment.attach("n1", "n2", latest=3)
    rollout = await environment.rollout(lambda one: one.release == 3)
    assert rollout.phase == pb.Rollout.FAILED
    assert keys.release(REF, 3) in rollout.reason
    assert (await environment.assignment("n1")).release == 2

    await etcd.put(keys.environment(REF), b"{}")
    await environment.rollout(lambda one: keys.environment(REF) in one.reason)
    await environment.release(4, web="web")
    await environment.attach("n1", "n2", latest=4)
    await environment.assignment("n1", lambda one: one.release == 4)
    complained = [line["key"] for line in controller.lines("key ignored")]
    assert len(complained) == len(set(complained)) == 2 * len(kinds)
    assert not [line for line in controller.lines("not reconciled") if line["level"] == "error"]


async def test_other_controller_goes_on_when_leader_is_killed(
    start: StartController, environment: EnvironmentDriver
) -> None:
    first = start("--identity", "first")
    await environment.leader("first")
    second = start("--identity", "second")
    await environment.add_node("n1", "web")
    await settle(environment, 1, "n1", web="web")
    await second.logged("standing by")
    before = await environment.assignment("n1")

    first.send(signal.SIGKILL)
    await environment.release(2, web="web")
    await environment.attach("n1", latest=2)
    await environment.leader("second")
    after = await environment.assignment("n1", lambda one: one.release == 2)
    assert after.generation == before.generation + 1
    rollout = await environment.rollout(lambda one: one.release == 2)
    assert [(outcome.release, outcome.phase) for outcome in rollout.history] == [(1, pb.Rollout.SETTLED)]


async def test_clean_stop_hands_over_at_once(start: StartController, environment: EnvironmentDriver) -> None:
    first = start("--identity", "first")
    await environment.leader("first")
    second = start("--identity", "second")
    await second.logged("standing by")
    assert await first.stop() == 0
    async with asyncio.timeout(2):
        await environment.leader("second")


async def test_paused_leader_writes_nothing_when_it_wakes(
    start: StartController, environment: EnvironmentDriver
) -> None:
    first = start("--identity", "first")
    await environment.leader("first")
    await environment.add_node("n1", "web")
    await settle(environment, 1, "n1", web="web")
    second = start("--identity", "second")
    await second.logged("standing by")
    first.send(signal.SIGSTOP)
    # What it decided about release 1.
    decided = len(first.lines("decided"))
    await environment.leader("second")
    await environment.release(2, web="web")
    await environment.attach("n1", latest=2)
    moved = await environment.assignment("n1", lambda one: one.release == 2)
    await environment.report(moved, SETTLED)
    await environment.rollout(lambda one: one.release == 2 and one.phase == pb.Rollout.SETTLED)
    first.send(signal.SIGCONT)
    await first.logged("not leading")
    assert len(first.lines("decided")) == decided
    assert await environment.assignment("n1") == moved


async def test_idle_controller_writes_nothing(start: StartController, environment: EnvironmentDriver) -> None:
    controller = start()
    await environment.add_node("n1", "web")
    await environment.add_node("n2", "web")
    await environment.certify(HOST, "aa")
    await settle(environment, 1, "n1", "n2", hosts=[HOST], web="web")
    await environment.part("n2", HOST)
    revision = (await environment.etcd.list(environment.keys.prefix)).revision
    written: list[str] = []

    async def watch() -> None:
        async for batch in environment.etcd.watch(environment.keys.prefix, start_revision=revision + 1):
            written.extend(event.key for event in batch.events)

    with pytest.raises(TimeoutError):
        await asyncio.wait_for(watch(), 2)
    assert written == []
    assert not controller.lines("not reconciled")


async def test_controller_starts_and_stops_without_etcd(settings: Settings, tmp_path: Path) -> None:
    nowhere = Settings(endpoints=("127.0.0.1:1",), prefix=settings.prefix)
    controller = ControllerProcess(nowhere, tmp_path / "controller.log")
    try:
        await controller.logged("started")
        assert await controller.stop() == 0
    finally:
        controller.end()


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], "no etcd configured: use --etcd-endpoints 127.0.0.1:2379 or set DEVOPSELLENCE_ETCD_ENDPOINTS"),
        (["--etcd-endpoints", "nonsense"], "'nonsense' is not address:port"),
        (["--etcd-endpoints", "127.0.0.1:1", "--prefix", "x"], "must begin and end with '/'"),
        (
            ["--etcd-endpoints", "127.0.0.1:1", "--acme-ca-cert", "nowhere.pem"],
            "nowhere.pem: No such file or directory",
        ),
        (["--etcd-endpoints", "127.0.0.1:1", "--acme-ca-cert", "README.md"], "README.md: contains no certificate"),
    ],
    ids=["no etcd", "no address", "no prefix", "no file", "no certificate"],
)
def test_settings_that_cannot_be_right_are_usage_error(arguments: list[str], expected: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "devopsellence.controller", *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=20,
    )
    assert done.returncode == 2
    assert expected in " ".join(done.stderr.split())


def test_acme_client_is_not_imported_without_orders() -> None:
    heavy = {"acme", "josepy", "requests", "cryptography", "pyrage"}
    code = f"import sys, devopsellence.controller.__main__; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"
