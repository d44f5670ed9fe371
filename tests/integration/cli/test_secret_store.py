"""Setting and deleting secrets with lost answers."""

from __future__ import annotations

import pytest

from devopsellence.age import MAX_BYTES, AgeIdentity
from devopsellence.api.v1.stored_pb2 import Secret
from devopsellence.cli.output import CliError
from devopsellence.cli.secrets import vault
from devopsellence.cli.secrets.identity import OperatorIdentity
from devopsellence.cli.secrets.recipients import Recipients
from devopsellence.cli.secrets.records import SecretId
from devopsellence.store.codec import decode
from devopsellence.store.etcd import Etcd
from devopsellence.store.settings import Settings
from tests.integration.cli.test_publish import LossyEtcd
from tests.support.cli import REF

TOKEN = SecretId("web", "TOKEN")
ANN = OperatorIdentity("ann", AgeIdentity.generate(), "operator.age")
READERS = Recipients(nodes={}, operators={"ann": ANN.identity.recipient}, keyless=())


async def stored(etcd: Etcd) -> Secret | None:
    key = etcd.keys.secret(REF, TOKEN.service, TOKEN.name)
    record = await etcd.get(key)
    return decode(Secret, key, record.value) if record else None


async def events(etcd: Etcd) -> int:
    return len((await etcd.list(etcd.keys.events_prefix(REF), keys_only=True)).items)


@pytest.mark.parametrize("when", ["before", "never", "later"])
async def test_an_unanswered_value_is_set_exactly_once(etcd: Etcd, settings: Settings, when: str) -> None:
    await vault.store(etcd, REF, TOKEN, b"one", me=ANN, recipients=READERS)
    async with LossyEtcd(settings, when) as unlucky:
        done = await vault.store(unlucky, REF, TOKEN, b"two", me=ANN, recipients=READERS)
    assert (done.changed, done.version.version) == (True, 2)
    secret = await stored(etcd)
    assert secret is not None
    assert [ANN.identity.decrypt(version.age) for version in secret.versions] == [b"one", b"two"]
    assert await events(etcd) == 2


@pytest.mark.parametrize("when", ["before", "never", "later"])
async def test_unanswered_deletion_happens_exactly_once(etcd: Etcd, settings: Settings, when: str) -> None:
    await vault.store(etcd, REF, TOKEN, b"one", me=ANN, recipients=READERS)
    async with LossyEtcd(settings, when) as unlucky:
        await vault.delete(unlucky, REF, TOKEN)
    assert await stored(etcd) is None
    assert await events(etcd) == 2
    with pytest.raises(CliError, match="no secret TOKEN of web"):
        await vault.delete(etcd, REF, TOKEN)


async def test_largest_secrets_for_hundred_nodes_fit_in_etcd(etcd: Etcd) -> None:
    nodes = {f"n{number}": AgeIdentity.generate().recipient for number in range(100)}
    many = Recipients(nodes=nodes, operators=READERS.operators, keyless=())
    for number in range(11):
        value = bytes([ord("a") + number]) * MAX_BYTES
        done = await vault.store(etcd, REF, TOKEN, value, me=ANN, recipients=many)
        assert done.version.version == number + 1
