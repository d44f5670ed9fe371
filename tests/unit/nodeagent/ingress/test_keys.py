"""Certificates are judged, private keys made and sealed; what is secret is in no answer."""

from __future__ import annotations

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from devopsellence.age import Identity
from devopsellence.nodeagent.ingress.crypto_main import Unusable, answer, answered, judged
from tests.unit.nodeagent.ingress.certificates import LET_THROUGH, UNTIL, make, signed

HOST = "app.example.com"
NODE, OTHER = Identity.generate(), Identity.generate()
_, CHAIN, KEY = make(HOST)


@pytest.mark.parametrize("kind", LET_THROUGH)
def test_until_when_a_certificate_is_valid(kind: str) -> None:
    assert judged(*signed(LET_THROUGH[kind](), HOST)[1:]) == UNTIL.timestamp()


@pytest.mark.parametrize(
    ("pair", "why"),
    [
        (("nothing", KEY), "it is no certificate in PEM"),
        (("", KEY), "it is no certificate in PEM"),
        ((CHAIN, "s3cret"), "its key cannot be used: it is no private key in PEM"),
        ((CHAIN, make(HOST)[2]), "its key belongs to another certificate"),
        (
            signed(rsa.generate_private_key(65537, 1024), HOST)[1:],  # noqa: S505
            "its key is neither RSA of 2,048 bits or more nor EC",
        ),
        (signed(ec.generate_private_key(ec.SECP256K1()), HOST)[1:], "its key is neither RSA of 2,048 bits or more nor"),
        (signed(ed25519.Ed25519PrivateKey.generate(), HOST)[1:], "its key is neither RSA of 2,048 bits or more nor EC"),
    ],
    ids=["no chain", "an empty chain", "no key", "of another", "short", "another curve", "ed25519"],
)
def test_what_cannot_be_served(pair: tuple[str, str], why: str) -> None:
    with pytest.raises(Unusable) as raised:
        judged(*pair)
    assert str(raised.value).startswith(why)
    assert "s3cret" not in str(raised.value)


def test_a_key_is_made_and_sealed_for_those_who_are_to_have_it() -> None:
    csr_pem, key_age = answer("ab12", HOST, [NODE.recipient, OTHER.recipient])
    asked = x509.load_pem_x509_csr(csr_pem.encode())
    assert asked.is_signature_valid
    names = asked.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == [HOST]
    for identity in (NODE, OTHER):
        key = serialization.load_pem_private_key(identity.open(key_age), password=None)
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        assert isinstance(key.curve, ec.SECP256R1)
        assert key.public_key() == asked.public_key()
    assert "PRIVATE" not in csr_pem + key_age


@pytest.mark.parametrize(
    ("asked", "why"),
    [
        (("ab", HOST, []), "there is nobody to seal it for"),
        (("ab", HOST, ["me"]), "one of the recipients is not an age public key"),
        (("ab", "a b", [NODE.recipient]), "host 'a b' is not a name"),
        (("../x", HOST, [NODE.recipient]), "its id '../x' is not"),
    ],
    ids=["for nobody", "for somebody unknown", "no host", "no id"],
)
def test_what_cannot_be_answered(asked: tuple[str, str, list[str]], why: str) -> None:
    with pytest.raises(Unusable) as raised:
        answer(*asked)
    assert str(raised.value).startswith(why)


def test_one_that_is_broken_leaves_the_others() -> None:
    said = {"certificates": [(7, "s3cret"), ("none", KEY), (CHAIN, KEY)], "requests": [("", HOST, [])]}
    found = answered(said)
    assert found == {
        "certificates": [
            {"unusable": "it is malformed (AttributeError)"},
            {"unusable": "it is no certificate in PEM"},
            {"found": UNTIL.timestamp()},
        ],
        "requests": [{"unusable": "its id '' is not lower-case hex"}],
    }
