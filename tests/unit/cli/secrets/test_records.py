"""Edits of stored secrets."""

from __future__ import annotations

import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from devopsellence.age import AgeIdentity
from devopsellence.api.v1.stored_pb2 import Secret, SecretVersion
from devopsellence.cli.secrets import records
from devopsellence.cli.secrets.records import CannotDecrypt, SecretId
from devopsellence.store.errors import MalformedRecord
from devopsellence.store.keys import REGISTRY, EnvironmentRef
from devopsellence.store.size import MAX_RECORD_BYTES

REF = EnvironmentRef("acme", "shop", "production")
WEB = SecretId("web", "TOKEN")
ANN, BOB, NODE = AgeIdentity.generate(), AgeIdentity.generate(), AgeIdentity.generate()


def version(number: int, value: bytes, *readers: AgeIdentity) -> SecretVersion:
    return records.new_version(
        value, number, [reader.recipient for reader in readers], Timestamp(seconds=1), "ann@host"
    )


def stored(*versions: SecretVersion) -> Secret:
    secret = None
    for each in versions:
        secret = records.appended(secret, REF, WEB, each)
    assert secret is not None
    return secret


def test_ten_newest_versions_are_kept() -> None:
    secret = stored(*(version(number, b"x", ANN) for number in range(1, 13)))
    assert [each.version for each in secret.versions] == list(range(3, 13))
    assert records.current(secret).version == 12
    assert (secret.organization, secret.environment, secret.service, secret.name) == (
        "acme",
        "production",
        "web",
        "TOKEN",
    )


@pytest.mark.parametrize(
    ("asked", "picked", "because"),
    [
        (0, 3, "a configuration says no version: the current one"),
        (2, 2, "a release says one that is kept"),
    ],
)
def test_reference_resolves_to_a_version(asked: int, picked: int, because: str) -> None:
    assert records.version_to_pin(stored(version(2, b"x", ANN), version(3, b"x", ANN)), asked) == picked, because


@pytest.mark.parametrize("numbers", [[], [0], [2, 2], [3, 1]])
def test_record_with_invalid_versions_is_malformed(numbers: list[int]) -> None:
    secret = Secret(versions=[SecretVersion(version=number) for number in numbers])
    with pytest.raises(MalformedRecord, match="secrets/x"):
        records.checked("secrets/x", secret)


def test_reencryption_keeps_versions_and_values() -> None:
    before = stored(version(1, b"one", ANN), version(2, b"two", ANN, NODE))
    everybody = frozenset({ANN.recipient, NODE.recipient})
    must = frozenset({NODE.recipient})
    assert records.lacks(before, {1}, must)
    assert not records.lacks(before, {2}, must)
    after = records.reencrypted(before, ANN, everybody, must, {1, 2})
    assert [NODE.decrypt(each.age) for each in after.versions] == [b"one", b"two"]
    assert after.versions[1] == before.versions[1]
    assert list(after.versions[0].recipients) == sorted(everybody)
    assert (after.versions[0].set_at, after.versions[0].set_by) == (before.versions[0].set_at, "ann@host")
    assert not records.lacks(after, {1, 2}, must)


def test_reencryption_keeps_existing_recipients() -> None:
    before = stored(version(1, b"one", ANN, BOB))
    before.versions[0].recipients.append("garbage")
    after = records.reencrypted(before, ANN, frozenset({NODE.recipient}), {NODE.recipient}, {1})
    assert list(after.versions[0].recipients) == sorted(each.recipient for each in (ANN, BOB, NODE))
    assert BOB.decrypt(after.versions[0].age) == b"one"


def test_versions_of_newest_release_are_kept() -> None:
    secret = stored(*(version(number, b"x", ANN) for number in range(1, 11)))
    after = records.appended(secret, REF, WEB, version(11, b"x", ANN), in_use={1, 2})
    assert [each.version for each in after.versions] == [1, 2, *range(4, 12)]
    # But there are never more than ten.
    after = records.appended(secret, REF, WEB, version(11, b"x", ANN), in_use=set(range(1, 11)))
    assert [each.version for each in after.versions] == list(range(2, 12))


def test_oldest_unused_versions_make_room_for_a_large_new_one() -> None:
    old = [SecretVersion(version=number, age="x" * (MAX_RECORD_BYTES // 4)) for number in range(1, 4)]
    new = SecretVersion(version=4, age="x" * (MAX_RECORD_BYTES // 2))
    after = records.appended(Secret(versions=old), REF, WEB, new, in_use={1})
    assert [each.version for each in after.versions] == [1, 4]
    # What is in use stays, so that the write is refused.
    after = records.appended(Secret(versions=old), REF, WEB, new, in_use={1, 2, 3})
    assert [each.version for each in after.versions] == [1, 2, 3, 4]


def test_unneeded_versions_make_room_for_further_recipients() -> None:
    before = stored(version(1, b"one", ANN), version(2, b"two", ANN))
    before.versions[0].age = "x" * (MAX_RECORD_BYTES - 1000)
    before.versions[0].recipients.append(NODE.recipient)
    after = records.reencrypted(before, ANN, {ANN.recipient, NODE.recipient}, {NODE.recipient}, {2})
    assert [each.version for each in after.versions] == [2]
    assert NODE.decrypt(after.versions[0].age) == b"two"


def test_undecryptable_version_is_an_error_only_if_needed() -> None:
    before = stored(version(1, b"one", BOB), version(2, b"two", ANN))
    everybody = frozenset({ANN.recipient, NODE.recipient})
    after = records.reencrypted(before, ANN, everybody, {NODE.recipient}, {2})
    assert after.versions[0] == before.versions[0]
    assert NODE.decrypt(after.versions[1].age) == b"two"
    with pytest.raises(CannotDecrypt) as caught:
        records.reencrypted(before, ANN, everybody, {NODE.recipient}, {1, 2})
    assert caught.value.version.version == 1


def test_holds_value_needs_decryption() -> None:
    sealed = version(1, b"one", ANN)
    assert records.holds_value(sealed, ANN, b"one")
    assert not records.holds_value(sealed, ANN, b"two")
    assert not records.holds_value(sealed, BOB, b"one")
    assert not records.holds_value(SecretVersion(age="garbage"), ANN, b"one")


def test_secret_id_as_text() -> None:
    assert str(WEB) == "TOKEN of web"
    assert str(SecretId(REGISTRY, "PASSWORD")) == "PASSWORD of the registry"
