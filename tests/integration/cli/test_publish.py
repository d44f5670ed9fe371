"""Writing releases: many at once, and with lost answers."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from devopsellence.api.v1.stored_pb2 import Environment, Node, Release
from devopsellence.api.v1.workload_pb2 import Service
from devopsellence.cli.deploy.publish import publish
from devopsellence.cli.output import CliError
from devopsellence.store.codec import decode, encode
from devopsellence.store.errors import Ambiguous, MalformedRecord
from devopsellence.store.etcd import Compare, Delete, Etcd, Put, TxnResult
from devopsellence.store.settings import Settings
from tests.support.cli import REF

DRAFT = Release(
    organization=REF.organization,
    project=REF.project,
    environment=REF.environment,
    services=[Service(name="web", kind=Service.WEB)],
)


@pytest.fixture(autouse=True)
async def node(etcd: Etcd) -> None:
    """Attached node for web services."""
    await etcd.put(etcd.keys.node("n1"), encode(Node(name="n1", uid="u1", labels=["web"])))
    environment = Environment(
        organization=REF.organization, project=REF.project, environment=REF.environment, nodes=["n1"]
    )
    await etcd.put(etcd.keys.environment(REF), encode(environment))


async def numbers(etcd: Etcd) -> list[int]:
    """Return the numbers of the stored releases, in the order of the keys."""
    listing = await etcd.list(etcd.keys.releases_prefix(REF))
    return [decode(Release, item.key, item.value).number for item in listing.items]


async def latest(etcd: Etcd) -> int:
    record = await etcd.get(etcd.keys.environment(REF))
    assert record is not None
    return decode(Environment, record.key, record.value).latest_release


async def test_concurrent_deploys_get_different_numbers(etcd: Etcd) -> None:
    published = await asyncio.gather(*(publish(etcd, REF, DRAFT) for _ in range(6)))
    assert sorted(release.number for release, _ in published) == [1, 2, 3, 4, 5, 6]
    assert await numbers(etcd) == [1, 2, 3, 4, 5, 6]
    assert await latest(etcd) == 6
    assert len((await etcd.list(etcd.keys.events_prefix(REF))).items) == 6


class LossyEtcd(Etcd):
    """Etcd client that loses the answer to the first transaction. ``when``: executed "before" the retry, "never", or
    "later".
    """

    def __init__(self, settings: Settings, when: str) -> None:
        super().__init__(settings)
        self.when = when
        self.sent = 0

    async def txn(self, compares: Sequence[Compare], operations: Sequence[Put | Delete]) -> TxnResult:
        self.sent += 1
        if self.sent == 1:
            if self.when == "before":
                await super().txn(compares, operations)
            self.held = (compares, operations)
            raise Ambiguous("no answer")
        if self.sent == 2 and self.when == "later":
            await super().txn(*self.held)
        return await super().txn(compares, operations)


@pytest.mark.parametrize("when", ["before", "never", "later"])
async def test_an_unanswered_write_happens_exactly_once(etcd: Etcd, settings: Settings, when: str) -> None:
    async with LossyEtcd(settings, when) as unlucky:
        release, _ = await publish(unlucky, REF, DRAFT)
    assert release.number == 1
    assert await numbers(etcd) == [1]
    assert await latest(etcd) == 1
    assert len((await etcd.list(etcd.keys.events_prefix(REF))).items) == 1


async def test_first_deploy_attaches_default_node(etcd: Etcd) -> None:
    await etcd.delete(etcd.keys.environment(REF))
    release, target = await publish(etcd, REF, DRAFT, default_node="n1")
    assert (release.number, target.attached_now) == (1, "n1")
    record = await etcd.get(etcd.keys.environment(REF))
    assert record is not None
    environment = decode(Environment, record.key, record.value)
    assert (list(environment.nodes), environment.latest_release) == (["n1"], 1)
    assert environment.created_at.seconds
    _, target = await publish(etcd, REF, DRAFT, default_node="n1")
    assert target.attached_now == ""


async def test_unregistered_default_node_is_ignored(etcd: Etcd) -> None:
    await etcd.delete(etcd.keys.environment(REF))
    with pytest.raises(CliError, match="no node is attached"):
        await publish(etcd, REF, DRAFT, default_node="nobody")
    assert await numbers(etcd) == []
    assert await etcd.get(etcd.keys.environment(REF)) is None


async def test_unreadable_release_is_never_overwritten(etcd: Etcd) -> None:
    prefix = etcd.keys.releases_prefix(REF)
    garbage = [f"{prefix}zzz", f"{prefix}0000000003", f"{prefix}9999999999"]
    for key in garbage:
        await etcd.put(key, b"garbage")
    release, _ = await publish(etcd, REF, DRAFT)
    assert release.number == 4
    for key in garbage:
        record = await etcd.get(key)
        assert record is not None
        assert record.value == b"garbage"


async def test_unreadable_environment_stops_deploy(etcd: Etcd) -> None:
    await etcd.put(etcd.keys.environment(REF), b"garbage")
    with pytest.raises(MalformedRecord):
        await publish(etcd, REF, DRAFT)
    assert await numbers(etcd) == []
