"""Identity of a node by uid: another machine under the same name replaces the machine before."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from pathlib import Path

import pytest

from devopsellence.access.roles import Role
from devopsellence.api.v1.stored_pb2 import Heartbeat, Node
from devopsellence.store.codec import encode
from devopsellence.store.errors import PermissionDenied, StoreError
from devopsellence.store.etcd import Etcd
from devopsellence.store.lease import LeaseKeeper
from tests.integration.machines.cluster import AgentCluster
from tests.support.agent import worker
from tests.support.cli import REF, Cli
from tests.support.docker import docker
from tests.support.need import need_docker
from tests.support.until import eventually

pytestmark = pytest.mark.etcd


async def admitted(etcd: Etcd, node: str) -> None:
    """Return once the gateway admits the machine of a node that was just registered."""

    async def reads() -> bool:
        with suppress(PermissionDenied):
            return await etcd.get(etcd.keys.node(node)) is not None
        return False

    await eventually(f"the gateway admits {node}", reads, every=0.01)


async def test_replaced_machine_has_no_access(cluster: AgentCluster) -> None:
    first = (await cluster.json("node", "register", "n1", "--labels", "web,worker", "--address", "10.0.0.5"))["uid"]
    await cluster.command("node", "register", "n2")
    async with Etcd(cluster.settings(first)) as old, LeaseKeeper(old) as keeper:
        keys = old.keys
        await admitted(old, "n1")
        lease = await keeper.grant(30)
        beat = encode(Heartbeat(node="n1", uid=first))
        await old.put(keys.heartbeat("n1"), beat, lease=lease.id)
        document = await cluster.json("node", "register", "n1", "--replace", "-y")
        second = document["uid"]
        assert (document["replaced"], document["labels"], document["address"]) == (first, ["web", "worker"], "10.0.0.5")
        # Its sign of life goes with it.
        assert await cluster.etcd.get(keys.heartbeat("n1")) is None
        for attempt in (
            old.put(keys.heartbeat("n1"), beat, lease=lease.id),
            old.get(keys.node("n1")),
            old.list(keys.assignments_prefix("n1")),
        ):
            with pytest.raises(PermissionDenied):
                await attempt
    async with Etcd(cluster.settings(second)) as new, LeaseKeeper(new) as keeper:
        await admitted(new, "n1")
        lease = await keeper.grant(30)
        await new.put(new.keys.heartbeat("n1"), encode(Heartbeat(node="n1", uid=second)), lease=lease.id)
        with pytest.raises(PermissionDenied):
            await new.get(new.keys.node("n2"))
        assert (await cluster.listed("n1"))["state"] == "ready"


@pytest.mark.parametrize(
    "command", [("remove", "n1", "-y"), ("remove", "n1", "--force", "-y"), ("register", "n1", "--replace", "-y")]
)
async def test_heartbeat_of_a_running_agent_does_not_stay(cluster: AgentCluster, command: tuple[str, ...]) -> None:
    """An agent writes its heartbeat again at once, also while its gateway does not know of the change yet."""
    uid = (await cluster.json("node", "register", "n1"))["uid"]
    key, written = cluster.etcd.keys.heartbeat("n1"), asyncio.Event()

    async def write_again_and_again() -> None:
        async with Etcd(cluster.settings(uid)) as agent, LeaseKeeper(agent) as keeper:
            await admitted(agent, "n1")
            lease = await keeper.grant(30)
            with suppress(PermissionDenied):
                while True:
                    await agent.put(key, encode(Heartbeat(node="n1", uid=uid)), lease=lease.id)
                    written.set()

    agent = asyncio.create_task(write_again_and_again())
    await written.wait()
    await cluster.command("node", *command)
    async with asyncio.timeout(10):
        await agent
    assert await cluster.etcd.get(key) is None


async def test_interrupted_replacement_can_be_repeated(cluster: AgentCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut after each of the calls to etcd, then repeated: one machine has the name, and no other has access."""
    uids = {(await cluster.json("node", "register", "n1"))["uid"]}
    await cluster.command("node", "attach", "n1", "--env", str(REF))
    heartbeat, cut = cluster.etcd.keys.heartbeat("n1"), 0
    while True:
        await cluster.etcd.put(heartbeat, b"{}")
        with monkeypatch.context() as patch:
            counted = _cut_after(patch, cut)
            result = await asyncio.to_thread(cluster.cli.run, "node", "register", "n1", "--replace", "-y")
        done = result.exit_code == 0
        document = await cluster.json("node", "register", "n1")
        uids.add(document["uid"])
        if done:
            break
        assert counted[0] > cut
        cut += 1
    assert cut == 3
    final = (await cluster.json("node", "register", "n1", "--replace", "-y"))["uid"]
    assert final != document["uid"]
    assert await cluster.etcd.get(heartbeat) is None
    async with Etcd(cluster.settings(final)) as new:
        await admitted(new, "n1")
    for uid in uids - {final}:
        async with Etcd(cluster.settings(uid)) as old:
            with pytest.raises(PermissionDenied):
                await old.get(old.keys.node("n1"))


@pytest.mark.parametrize(
    ("role", "environments"), [(Role.DEPLOYER, ["*"]), (Role.ADMIN, ["acme/shop/*", "acme/Shop/staging"])]
)
async def test_operator_without_the_rights_removes_nothing(
    cluster: AgentCluster, role: Role, environments: list[str]
) -> None:
    uid = (await cluster.json("node", "register", "n1"))["uid"]
    await cluster.command("node", "attach", "n1", "--env", str(REF))
    await cluster.gateway.grant("ann", *environments, roles=[role])
    before = await cluster.etcd.list(cluster.etcd.keys.prefix)
    ann = Cli(cluster.gateway.operator("ann"), cluster.folder)
    for arguments in (
        ("register", "n1", "--replace", "-y"),
        ("remove", "n1", "-y"),
        ("remove", "n1", "--force", "-y"),
        ("drain", "n1"),
    ):
        error = await asyncio.to_thread(ann.error, "node", *arguments)
        assert (error["code"], error["exit_code"]) == ("etcd_permission_denied", 1)
        assert error["message"].startswith(
            "access denied: operator ann may not change node n1, which needs the role admin"
        )
    assert (await cluster.etcd.list(cluster.etcd.keys.prefix)).items == before.items
    async with Etcd(cluster.settings(uid)) as still:
        await still.get(still.keys.node("n1"))


async def test_replacement_encrypts_secrets_for_new_machine_and_names_seen_ones(
    cluster: AgentCluster, tmp_path: Path
) -> None:
    from devopsellence.age import AgeIdentity
    from tests.integration.cli.secret_operator import CONFIG, Operator

    (tmp_path / "devopsellence.yml").write_text(CONFIG)
    ann = Operator(cluster.gateway.root(), tmp_path, tmp_path / "operator.age")
    ann.direct = cluster.direct
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

    for name in ("txn", "put", "delete", "grant_lease", "revoke_lease"):
        monkeypatch.setattr(Etcd, name, cutting(getattr(Etcd, name)))
    return counted
