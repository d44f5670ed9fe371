"""Certificates and keys read from files, and the key that needs a passphrase."""

from __future__ import annotations

from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from devopsellence.certificates.pem import CertificateError, encrypted_key, is_encrypted, load_key


def test_foreign_key_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "tls.key"
    pkcs8 = serialization.PrivateFormat.PKCS8
    other = ed25519.Ed25519PrivateKey.generate().private_bytes(
        serialization.Encoding.PEM, pkcs8, serialization.NoEncryption()
    )
    locked = ec.generate_private_key(ec.SECP256R1()).private_bytes(
        serialization.Encoding.PEM, pkcs8, serialization.BestAvailableEncryption(b"pw")
    )
    for content in (b"", b"nonsense", other, locked):
        path.write_bytes(content)
        with pytest.raises(CertificateError, match=str(path)):
            load_key(path)


def test_key_with_a_passphrase_is_read_with_that_alone(tmp_path: Path) -> None:
    path, key = tmp_path / "ca.key", ec.generate_private_key(ec.SECP256R1())
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    path.write_bytes(pem)
    assert not is_encrypted(path)
    path.write_bytes(encrypted_key(pem, "a long passphrase"))
    assert is_encrypted(path)
    assert load_key(path, "a long passphrase").private_numbers() == key.private_numbers()
    for passphrase, problem in (("", "it needs a passphrase"), ("another one", "the passphrase is wrong")):
        with pytest.raises(CertificateError, match=problem):
            load_key(path, passphrase)
