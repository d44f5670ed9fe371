"""The real controller gives the nodes that serve an ingress what they need besides, and takes it back."""

from __future__ import annotations

import signal

import pytest

from devopsellence.api.v1 import stored_pb2 as pb
from devopsellence.api.v1 import workload_pb2
from devopsellence.store.keys import PEERS, EnvironmentRef
from tests.support.controller import REF, EnvironmentDriver, StartController, routed
from tests.support.until import eventually

pytestmark = pytest.mark.etcd
HOST, OTHER = "app.example.com", "other.example.com"
SETTLED, REMOVED = pb.AssignmentStatus.SETTLED, pb.AssignmentStatus.REMOVED


async def report(environment: EnvironmentDriver, *names: str) -> None:
    """All of ``names`` have settled at what they are assigned now."""
    for name in names:
        await environment.report(await environment.assignment(name), SETTLED)


async def test_parts_follow_attachments_labels_and_certificates(
    start: StartController, environment: EnvironmentDriver
) -> None:
    keys = environment.keys
    start()
    await environment.add_node("n1", "web")
    await environment.add_node("n2", "web")
    await environment.add_node("n3", "worker")
    await environment.certify(HOST, "aa")
    await environment.release(1, hosts=[HOST, OTHER], web="web", redis="worker")
    await environment.attach("n1", "n3", latest=1)
    first = await environment.part("n1", HOST)
    assert (first.certificate.serial, first.node_uid) == ("aa", "uid-n1")
    assert (await environment.assignment("n1")).HasField("ingress")
    assert not (await environment.assignment("n3")).HasField("ingress")
    await report(environment, "n1", "n3")

    # A node that is attached is told of the others, and they of it.
    await environment.attach("n1", "n2", "n3", latest=1)
    assert [peer.address for peer in (await environment.part("n2", PEERS)).peers] == ["n1:7444"]
    assert [peer.address for peer in (await environment.part("n1", PEERS)).peers] == ["n2:7444"]
    assert (await environment.part("n2", HOST)).certificate == first.certificate
    await report(environment, "n1", "n2", "n3")

    # Another certificate is no other assignment.
    generation = (await environment.assignment("n1")).generation
    await environment.certify(OTHER, "bb")
    await environment.part("n1", OTHER, lambda one: one.certificate.serial == "bb")
    assert (await environment.assignment("n1")).generation == generation

    # What cannot be read takes nothing away, and stops nobody else.
    await environment.etcd.put(keys.certificate(REF, HOST), b"{")
    await environment.etcd.put(keys.ingress("n1", REF, OTHER), b"[]")
    await environment.part("n1", OTHER, lambda one: one.certificate.serial == "bb")
    assert (await environment.part("n1", HOST)).certificate.serial == "aa"
    await environment.certify(HOST, "cc")
    await environment.part("n1", HOST, lambda one: one.certificate.serial == "cc")

    # Without the service there is nothing to serve; n2 serves alone.
    await environment.add_node("n1", "worker")
    await environment.assignment("n1", lambda one: not one.HasField("ingress"))
    await report(environment, "n1")
    await environment.gone(keys.ingress("n1", REF, HOST))
    await environment.part("n2", PEERS, lambda one: not one.peers and not one.forwarders)
    assert await environment.parts("n1") == []
    assert await environment.parts("n2") == [PEERS, HOST, OTHER]

    # Detached: all of it stays until the node says that it has removed what it ran.
    await environment.attach("n1", "n3", latest=1)
    tombstone = await environment.assignment("n2", lambda one: one.removed)
    assert await environment.parts("n2") == [PEERS, HOST, OTHER]
    await environment.report(tombstone, REMOVED)
    await environment.gone(keys.ingress("n2", REF, OTHER))
    assert await environment.parts("n2") == []
    await environment.gone(keys.host_claim("n2", OTHER))


async def test_next_leader_takes_back_what_is_left_of_deleted_environment(
    start: StartController, environment: EnvironmentDriver
) -> None:
    keys = environment.keys
    first = start("--identity", "first")
    await environment.leader("first")
    second = start("--identity", "second")
    await environment.add_node("n1", "web")
    await environment.certify(HOST, "aa")
    await environment.release(1, hosts=[HOST], web="web")
    await environment.attach("n1", latest=1)
    await environment.part("n1", HOST)
    await environment.part("n1", PEERS, lambda one: list(one.held_hosts) == [HOST])
    await second.logged("standing by")
    first.send(signal.SIGKILL)
    # Also of a node that nobody has heard of.
    await environment.write(keys.ingress("gone", REF, HOST), pb.NodeIngress(node="gone", part=HOST))
    await environment.etcd.delete(keys.environment(REF))
    await environment.gone(keys.ingress("gone", REF, HOST))
    assert await environment.parts("n1") == [PEERS, HOST]
    await environment.report(await environment.assignment("n1", lambda one: one.removed), REMOVED)
    await environment.gone(keys.ingress("n1", REF, HOST))
    await environment.gone(keys.host_claim("n1", HOST))
    await environment.gone(keys.rollout(REF))


async def test_ingress_that_fails_is_told_by_rollout_that_has_settled(
    start: StartController, environment: EnvironmentDriver
) -> None:
    start()
    await environment.add_node("n1", "web")
    await environment.release(1, hosts=[HOST], web="web")
    await environment.attach("n1", latest=1)
    assigned = await environment.assignment("n1")
    status = pb.AssignmentStatus(
        node="n1",
        node_uid=assigned.node_uid,
        generation=assigned.generation,
        release=1,
        phase=SETTLED,
        ingress=pb.IngressStatus(phase=pb.IngressStatus.FAILED, reason="port 80 is taken"),
    )
    await environment.write(environment.keys.status("n1", REF), status)
    rollout = await environment.rollout(lambda one: one.phase == pb.Rollout.SETTLED)
    assert rollout.reason == "ingress on n1: port 80 is taken"
    await environment.report(assigned, SETTLED)
    await environment.rollout(lambda one: one.phase == pb.Rollout.SETTLED and not one.reason)


async def test_deleted_records_of_the_controller_are_written_anew(
    start: StartController, environment: EnvironmentDriver
) -> None:
    keys, etcd = environment.keys, environment.etcd
    start()
    await environment.add_node("n1", "web")
    await environment.add_node("n2", "web")
    await environment.certify(HOST, "aa")
    await environment.release(1, hosts=[HOST], web="web")
    await environment.attach("n1", "n2", latest=1)
    await environment.part("n1", HOST)
    await environment.part("n1", PEERS)
    await report(environment, "n1", "n2")
    await environment.rollout(lambda rollout: rollout.phase == pb.Rollout.SETTLED)
    written = [
        *(keys.assignment("n1", REF), keys.rollout(REF)),
        *(keys.ingress("n1", REF, HOST), keys.ingress("n1", REF, PEERS)),
    ]
    for key in written:
        deleted = await etcd.delete(key)

        async def again(key: str = key, deleted: int = deleted) -> bool:
            record = await etcd.get(key)
            return record is not None and record.create_revision > deleted

        await eventually(f"{key} again", again)
    await report(environment, "n1")
    await environment.rollout(lambda rollout: rollout.phase == pb.Rollout.SETTLED)


async def test_host_stays_with_its_holder_and_is_free_once_it_is_gone(
    start: StartController, environment: EnvironmentDriver
) -> None:
    keys, first = environment.keys, EnvironmentRef("acme", "another", "production")
    assert first < REF
    start()
    await environment.add_node("n1", "web")
    await environment.release(1, hosts=[HOST], web="web")
    await environment.attach("n1", latest=1)
    await environment.part("n1", PEERS, lambda one: list(one.held_hosts) == [HOST])
    await report(environment, "n1")

    # As two deploys at the same moment would: no command has refused it.
    release = pb.Release(organization="acme", project="another", environment="production", number=1)
    release.services.add(name="web", kind=workload_pb2.Service.WEB)
    release.ingress.CopyFrom(routed([HOST, OTHER]))
    await environment.write(keys.release(first, 1), release)
    record = pb.Environment(organization="acme", project="another", environment="production", latest_release=1)
    record.nodes.append("n1")
    await environment.write(keys.environment(first), record)
    key = keys.ingress("n1", first, PEERS)
    # Told at once, or a moment after its own hosts, when the controller has seen its own claim for the other one.
    part = await environment.until(pb.NodeIngress, key, lambda one: one is not None and bool(one.taken_hosts))
    assert part is not None
    assert (list(part.held_hosts), dict(part.taken_hosts)) == ([OTHER], {HOST: str(REF)})

    await environment.etcd.delete(keys.environment(REF))
    await environment.report(await environment.assignment("n1", lambda one: one.removed), REMOVED)
    part = await environment.until(pb.NodeIngress, key, lambda one: one is not None and len(one.held_hosts) == 2)
    assert part is not None
    assert not part.taken_hosts
