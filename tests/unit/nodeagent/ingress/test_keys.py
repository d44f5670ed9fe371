"""Private keys: made and sealed here, opened here, and in no error."""

from __future__ import annotations

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from devopsellence.api.v1 import stored_pb2
from devopsellence.nodeagent.ingress.keys import Unusable, answer, opened
from devopsellence.nodeagent.secrets import Vault
from devopsellence.sealed import Identity, seal
from tests.unit.nodeagent.ingress.certificates import UNTIL, make, sealed

HOST = "app.example.com"
NODE, OTHER = Identity.generate(), Identity.generate()
VAULT = Vault(NODE)


def test_a_certificate_with_its_key() -> None:
    sent = sealed(HOST, NODE.recipient, OTHER.recipient)
    found, until = opened(sent, VAULT)
    assert (found.serial, found.chain_pem) == (sent.serial, sent.chain_pem)
    assert "PRIVATE KEY" in found.key_pem
    assert "PRIVATE" not in repr(found)
    assert until == UNTIL.timestamp()


def certificate(
    *, chain: str | None = None, key: bytes | None = None, to: Identity = NODE
) -> stored_pb2.HostCertificate:
    serial, good_chain, good_key = make(HOST)
    return stored_pb2.HostCertificate(
        serial=serial,
        chain_pem=good_chain if chain is None else chain,
        key_age=seal(good_key.encode() if key is None else key, [to.recipient]),
    )


@pytest.mark.parametrize(
    ("sent", "why"),
    [
        (lambda: certificate(chain="nothing"), "it is no certificate in PEM"),
        (lambda: certificate(chain=""), "it is no certificate in PEM"),
        (lambda: certificate(to=OTHER), "its key cannot be used: it cannot be opened with the identity of age1"),
        (lambda: stored_pb2.HostCertificate(chain_pem=make(HOST)[1], key_age="none"), "its key cannot be used: it "),
        (lambda: certificate(key=b"s3cret"), "its key cannot be used: it is no private key in PEM"),
        (lambda: certificate(key=b"\xff"), "its key cannot be used: it is not PEM"),
        (lambda: certificate(key=make(HOST)[2].encode()), "its key belongs to another certificate"),
    ],
    ids=["no chain", "an empty chain", "for another node", "not sealed", "no key", "no text", "of another"],
)
def test_what_cannot_be_served(sent: object, why: str) -> None:
    assert callable(sent)
    with pytest.raises(Unusable) as raised:
        opened(sent(), VAULT)
    assert str(raised.value).startswith(why)
    assert "s3cret" not in str(raised.value)


def test_a_key_is_made_and_sealed_for_those_who_are_to_have_it() -> None:
    request = stored_pb2.KeyRequest(id="ab12", host=HOST, recipients=[NODE.recipient, OTHER.recipient])
    made = answer(request)
    assert (made.id, list(made.recipients)) == ("ab12", [NODE.recipient, OTHER.recipient])
    asked = x509.load_pem_x509_csr(made.csr_pem.encode())
    assert asked.is_signature_valid
    names = asked.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == [HOST]
    for identity in (NODE, OTHER):
        key = serialization.load_pem_private_key(identity.open(made.key_age), password=None)
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        assert isinstance(key.curve, ec.SECP256R1)
        assert key.public_key() == asked.public_key()
    assert "PRIVATE" not in made.csr_pem + made.key_age


@pytest.mark.parametrize(
    ("request_", "why"),
    [
        (stored_pb2.KeyRequest(id="ab", host=HOST), "there is nobody to seal it for"),
        (
            stored_pb2.KeyRequest(id="ab", host=HOST, recipients=["me"]),
            "one of the recipients is not an age public key",
        ),
        (stored_pb2.KeyRequest(id="ab", host="a b", recipients=[NODE.recipient]), "host 'a b' is not a name"),
        (stored_pb2.KeyRequest(id="../x", host=HOST, recipients=[NODE.recipient]), "its id '../x' is not"),
    ],
    ids=["for nobody", "for somebody unknown", "no host", "no id"],
)
def test_what_cannot_be_answered(request_: stored_pb2.KeyRequest, why: str) -> None:
    with pytest.raises(Unusable) as raised:
        answer(request_)
    assert str(raised.value).startswith(why)
