"""Identity of a node by uid: another machine under the same name replaces the machine before."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from devopsellence.api.v1.stored_pb2 import Heartbeat, Node
from devopsellence.store import acl
from devopsellence.store.codec import encode
from devopsellence.store.errors import PermissionDenied, StoreError, Unauthenticated
from devopsellence.store.etcd import Etcd
from devopsellence.store.lease import LeaseKeeper
from tests.integration.machines.cluster import AgentCluster
from tests.support.agent import worker
from tests.support.cli import REF, Cli
from tests.support.docker import docker
from tests.support.need import need_docker
from tests.support.until import eventually

pytestmark = pytest.mark.etcd


async def test_replaced_machine_has_no_access_to_etcd(cluster: AgentCluster) -> None:
    first = (await cluster.json("node", "register", "n1", "--labels", "web,worker", "--address", "10.0.0.5"))["uid"]
    await cluster.command("node", "register", "n2")
    async with Etcd(cluster.settings(first)) as old, LeaseKeeper(old) as keeper:
        keys = old.keys
        lease = await keeper.grant(30)
        await old.put(keys.heartbeat("n1"), encode(Heartbeat(node="n1", uid=first)), lease=lease.id)
        await old.put(keys.status("n1", REF), b"{}")
        document = await cluster.json("node", "register", "n1", "--replace", "-y")
        second = document["uid"]
        assert (document["replaced"], document["labels"], document["address"]) == (first, ["web", "worker"], "10.0.0.5")
        # Its sign of life goes with it.
        assert await cluster.etcd.get(keys.heartbeat("n1")) is None
        for attempt in (
            old.put(keys.heartbeat("n1"), b"{}"),
            old.put(keys.status("n1", REF), b"{}"),
            old.get(keys.node("n1")),
            old.list(keys.assignments_prefix("n1")),
            old.put(keys.event(REF, "e1"), b"{}"),
        ):
            with pytest.raises((PermissionDenied, Unauthenticated)):
                await attempt
    async with Etcd(cluster.settings(second)) as new:
        await new.put(new.keys.heartbeat("n1"), encode(Heartbeat(node="n1", uid=second)))
        with pytest.raises(PermissionDenied):
            await new.get(new.keys.node("n2"))
    assert f"node:{first}" not in cluster.users()
    assert (await cluster.listed("n1"))["state"] == "ready"


async def test_old_certificate_loses_access_with_its_machine(cluster: AgentCluster) -> None:
    """Earlier versions called the etcd user of a node after the name."""
    uid = (await cluster.json("node", "register", "n1"))["uid"]
    await cluster.etcd.user_add("node:n1")
    await cluster.etcd.user_grant_role("node:n1", acl.role_of_node("n1"))
    legacy = cluster.server.settings(user="node:n1")
    async with Etcd(legacy) as old:
        # Registered again it goes on, until its agent has the new certificate.
        assert (await cluster.json("node", "register", "n1"))["uid"] == uid
        await old.put(old.keys.heartbeat("n1"), b"{}")
        await cluster.command("node", "register", "n1", "--replace", "-y")
        with pytest.raises((PermissionDenied, Unauthenticated)):
            await old.put(old.keys.heartbeat("n1"), b"{}")


async def test_interrupted_replacement_can_be_repeated(cluster: AgentCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut after each of the calls to etcd, then repeated: one machine has the name, and no other has access."""
    await cluster.command("node", "register", "n1")
    users = {f"node:{(await cluster.json('node', 'register', 'n1'))['uid']}"}
    cut = 0
    while True:
        with monkeypatch.context() as patch:
            counted = _cut_after(patch, cut)
            result = await asyncio.to_thread(cluster.cli.run, "node", "register", "n1", "--replace", "-y")
        done = result.exit_code == 0
        users |= {each for each in cluster.users() if each.startswith("node:")}
        document = await cluster.json("node", "register", "n1")
        node = cluster.etcd.keys.node("n1")
        assert await cluster.etcd.get(node)
        if done:
            break
        assert counted[0] > cut
        cut += 1
    assert cut > 5
    final = (await cluster.json("node", "register", "n1", "--replace", "-y"))["uid"]
    assert final != document["uid"]
    for user in users - {f"node:{final}"}:
        async with Etcd(cluster.settings(user.removeprefix("node:"))) as old:
            with pytest.raises((PermissionDenied, Unauthenticated)):
                await old.get(node)
    async with Etcd(cluster.settings(final)) as new:
        assert await new.get(node)


async def test_operator_other_than_root_cannot_replace(cluster: AgentCluster) -> None:
    uid = (await cluster.json("node", "register", "n1"))["uid"]
    await acl.grant_operator(cluster.etcd, "ann")
    ann = Cli(cluster.server.settings(user="operator:ann"), cluster.folder)
    for arguments in (("register", "n1", "--replace", "-y"), ("remove", "n1", "-y"), ("remove", "n1", "--force", "-y")):
        error = await asyncio.to_thread(ann.error, "node", *arguments)
        assert error["code"] == "etcd_permission_denied"
        assert "nothing was changed" in error["message"]
    record = await cluster.etcd.get(cluster.etcd.keys.node("n1"))
    assert record is not None
    assert uid.encode() in record.value
    async with Etcd(cluster.settings(uid)) as still:
        await still.get(still.keys.node("n1"))


async def test_replacement_encrypts_secrets_for_new_machine_and_names_seen_ones(
    cluster: AgentCluster, tmp_path: Path
) -> None:
    from devopsellence.age import AgeIdentity
    from tests.integration.cli.secret_operator import CONFIG, Operator

    (tmp_path / "devopsellence.yml").write_text(CONFIG)
    ann = Operator(cluster.server.settings(user="root"), tmp_path, tmp_path / "operator.age")
    old, new = AgeIdentity.generate(), AgeIdentity.generate()

    def work() -> None:
        ann.node("n1", key=old)
        ann.set("DATABASE_URL", b"postgres://", "--env", str(REF))
        ann.ok("node", "attach", "n1", "--env", str(REF))
        document = ann.json("node", "register", "n1", "--replace", "-y")
        assert [each["name"] for each in document["secrets_seen"]] == ["DATABASE_URL"]
        node = ann.read(lambda etcd: etcd.keys.node("n1"), Node)
        assert node is not None
        assert node.age_recipient == ""
        # Nobody's key is taken for the new machine's.
        assert "the public key of n1 is not known yet" in ann.run("secret", "reencrypt", "--env", str(REF)).output
        ann.beat("n1", document["uid"], new.recipient)
        ann.ok("secret", "reencrypt", "--env", str(REF))
        stored = ann.stored("DATABASE_URL")
        assert stored is not None
        assert new.decrypt(stored.versions[-1].age) == b"postgres://"
        # What is set from now on is not for the old one.
        ann.set("DATABASE_URL", b"postgres://2", "--env", str(REF))
        stored = ann.stored("DATABASE_URL")
        assert stored is not None
        assert old.recipient not in stored.versions[-1].recipients
        assert new.recipient in stored.versions[-1].recipients

    await asyncio.to_thread(work)


@pytest.mark.docker
async def test_replaced_agent_keeps_containers_and_logs_reason(cluster: AgentCluster) -> None:
    need_docker()
    cluster.controller()
    old = await cluster.registered("n1", "--labels", "worker")
    old.start("--api-listen", "127.0.0.1:0")
    await cluster.release(1, worker("jobs", "sleep", "1000"), nodes=("n1",))
    (container,) = await old.runs(1)
    await cluster.listed_as("n1", "ready")
    document = await cluster.json("node", "register", "n1", "--replace", "-y")
    new = cluster.machine("n1", document["uid"])
    new.start("--api-listen", "127.0.0.1:0")
    await new.runs(1)
    listed = await cluster.listed_as("n1", "ready")
    assert listed["uid"] == new.uid

    async def complains() -> bool:
        return "etcd denies access to this machine" in old.log.read_text()

    await eventually("the old agent says so", complains)
    assert old.containers("status=running") == [container]
    # Clearing up by hand, as an operator would; the agent is not in the way of it.
    docker("rm", "-f", container)


def _cut_after(monkeypatch: pytest.MonkeyPatch, calls: int) -> list[int]:
    """Make etcd unavailable for the command after so many calls that change something; count the calls."""
    counted = [0]

    def cutting(real: object) -> object:
        async def call(self: Etcd, *arguments: object, **named: object) -> object:
            counted[0] += 1
            if counted[0] > calls:
                raise StoreError("cut")
            assert callable(real)
            return await real(self, *arguments, **named)

        return call

    for name in ("txn", "put", "delete", "revoke_lease", "user_add", "user_delete", "user_grant_role", "role_add"):
        monkeypatch.setattr(Etcd, name, cutting(getattr(Etcd, name)))
    for name in ("role_delete", "role_grant"):
        monkeypatch.setattr(Etcd, name, cutting(getattr(Etcd, name)))
    return counted
