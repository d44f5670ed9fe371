"""Encryption for several recipients, decryption only by recipients."""

from __future__ import annotations

import pytest

from devopsellence.age import (
    MAX_BYTES,
    AgeIdentity,
    EncryptionError,
    encrypt,
    is_recipient,
    node_recipient,
    plaintext_size,
)
from devopsellence.api.v1.stored_pb2 import Heartbeat, Node

# Fixed, so that every process of the tests collects the same ones.
OLD = "age1mendh2wxy5ggtjh097gkess6qlsvpc70aucj9j5z87h0shml59vqjfpejn"
NEW = "age1s0u5zaz6fslazmacdwsckff5t3aqmxa7s0d8ehp7e9xch7vhd5aspd35ft"


def test_only_recipients_can_decrypt() -> None:
    node, operator, stranger = AgeIdentity.generate(), AgeIdentity.generate(), AgeIdentity.generate()
    sealed = encrypt(b"s3cret\x00\n", [node.recipient, operator.recipient, node.recipient])
    assert "s3cret" not in sealed
    assert node.decrypt(sealed) == operator.decrypt(sealed) == b"s3cret\x00\n"
    with pytest.raises(EncryptionError, match=stranger.recipient):
        stranger.decrypt(sealed)


def test_identity_round_trip_without_leaks() -> None:
    identity = AgeIdentity.generate()
    assert AgeIdentity(identity.text()).recipient == identity.recipient
    assert "SECRET" not in repr(identity)
    assert is_recipient(identity.recipient)


@pytest.mark.parametrize("text", ["", "# a comment\n", "AGE-SECRET-KEY-1NOT", "age1xyz"])
def test_invalid_identity_is_refused_without_being_printed(text: str) -> None:
    with pytest.raises(EncryptionError) as caught:
        AgeIdentity(text)
    assert "NOT" not in str(caught.value)


@pytest.mark.parametrize("recipients", [[], ["age1nonsense"], [""]])
def test_encryption_without_recipients_is_refused(recipients: list[str]) -> None:
    with pytest.raises(EncryptionError):
        encrypt(b"value", recipients)


def test_oversized_secret_is_rejected() -> None:
    with pytest.raises(EncryptionError, match="64 KiB"):
        encrypt(b"x" * (MAX_BYTES + 1), [AgeIdentity.generate().recipient])


def test_non_age_file_is_not_decrypted() -> None:
    with pytest.raises(EncryptionError):
        AgeIdentity.generate().decrypt("nonsense")


@pytest.mark.parametrize(
    ("recorded", "uid", "said", "key", "because"),
    [
        ("", "u1", NEW, NEW, "the agent says its key for the first time"),
        (OLD, "u1", NEW, NEW, "the machine was set up anew"),
        (OLD, "u2", NEW, OLD, "the agent is another machine's"),
        (OLD, "u1", "", OLD, "an agent that says nothing takes nothing back"),
        (OLD, "u1", "age1nonsense", OLD, "what it says is no key"),
        ("nonsense", "u1", "", "", "nor is what was recorded"),
        ("", "u2", NEW, "", "nothing is known"),
    ],
)
def test_node_recipient_is_trusted_only_for_its_uid(recorded: str, uid: str, said: str, key: str, because: str) -> None:
    node = Node(name="n1", uid="u1", age_recipient=recorded)
    assert node_recipient(node, Heartbeat(node="n1", uid=uid, age_recipient=said)) == key, because


def test_node_without_a_heartbeat_keeps_its_key() -> None:
    assert node_recipient(Node(name="n1", age_recipient=OLD), None) == OLD


@pytest.mark.parametrize("size", [0, 1, 65535, 65536])
@pytest.mark.parametrize("readers", [1, 7])
def test_size_of_a_value_is_known_without_a_key(size: int, readers: int) -> None:
    keys = [AgeIdentity.generate().recipient for _ in range(readers)]
    assert plaintext_size(encrypt(b"x" * size, keys)) == size


@pytest.mark.parametrize("text", ["", "no age file", "-----BEGIN AGE ENCRYPTED FILE-----\n*\n", "AAAA"])
def test_size_of_what_is_no_age_file_is_0(text: str) -> None:
    assert plaintext_size(text) == 0
