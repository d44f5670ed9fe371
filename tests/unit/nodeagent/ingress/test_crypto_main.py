"""Certificate checks, new keys and CSRs; no secret in any result."""

from __future__ import annotations

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from devopsellence.age import AgeIdentity
from devopsellence.nodeagent.ingress.crypto_main import UnusableInput, check_certificate, create_csr, run_tasks
from tests.support.host_certificates import ACCEPTED_KEYS, EXPIRY, make_certificate, signed

HOST = "app.example.com"
NODE, OTHER = AgeIdentity.generate(), AgeIdentity.generate()
_, CHAIN, KEY = make_certificate(HOST)


@pytest.mark.parametrize("kind", ACCEPTED_KEYS)
def test_check_returns_expiry_for_accepted_keys(kind: str) -> None:
    assert check_certificate(*signed(ACCEPTED_KEYS[kind](), HOST)[1:]) == EXPIRY.timestamp()


@pytest.mark.parametrize(
    ("pair", "reason"),
    [
        (("nothing", KEY), "it is not a certificate in PEM format"),
        (("", KEY), "it is not a certificate in PEM format"),
        ((CHAIN, "s3cret"), "its key cannot be used: it is not a private key in PEM format"),
        ((CHAIN, make_certificate(HOST)[2]), "its key belongs to another certificate"),
        (
            signed(rsa.generate_private_key(65537, 1024), HOST)[1:],  # noqa: S505
            "its key is neither RSA of 2,048 bits or more nor EC",
        ),
        (signed(ec.generate_private_key(ec.SECP256K1()), HOST)[1:], "its key is neither RSA of 2,048 bits or more nor"),
        (signed(ed25519.Ed25519PrivateKey.generate(), HOST)[1:], "its key is neither RSA of 2,048 bits or more nor EC"),
    ],
    ids=["no chain", "an empty chain", "no key", "of another", "short", "another curve", "ed25519"],
)
def test_check_rejects_unusable_certificate(pair: tuple[str, str], reason: str) -> None:
    with pytest.raises(UnusableInput) as raised:
        check_certificate(*pair)
    assert str(raised.value).startswith(reason)
    assert "s3cret" not in str(raised.value)


def test_csr_key_is_encrypted_for_recipients() -> None:
    csr_pem, key_age = create_csr("ab12", HOST, [NODE.recipient, OTHER.recipient])
    csr = x509.load_pem_x509_csr(csr_pem.encode())
    assert csr.is_signature_valid
    names = csr.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == [HOST]
    for identity in (NODE, OTHER):
        key = serialization.load_pem_private_key(identity.decrypt(key_age), password=None)
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        assert isinstance(key.curve, ec.SECP256R1)
        assert key.public_key() == csr.public_key()
    assert "PRIVATE" not in csr_pem + key_age


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("ab", HOST, []), "there is no recipient"),
        (("ab", HOST, ["me"]), "one of the recipients is not an age public key"),
        (("ab", "a b", [NODE.recipient]), "host 'a b' is not a name"),
        (("../x", HOST, [NODE.recipient]), "its id '../x' is not"),
    ],
    ids=["no recipient", "unusable recipient", "no host", "no id"],
)
def test_csr_rejects_invalid_request(arguments: tuple[str, str, list[str]], reason: str) -> None:
    with pytest.raises(UnusableInput) as raised:
        create_csr(*arguments)
    assert str(raised.value).startswith(reason)


def test_failed_task_leaves_remaining_tasks() -> None:
    payload = {"certificates": [(7, "s3cret"), ("none", KEY), (CHAIN, KEY)], "requests": [("", HOST, [])]}
    results = run_tasks(payload)
    assert results == {
        "certificates": [
            {"unusable": "it is malformed (AttributeError)"},
            {"unusable": "it is not a certificate in PEM format"},
            {"result": EXPIRY.timestamp()},
        ],
        "requests": [{"unusable": "its id '' is not lower-case hex"}],
    }
