"""Certificates installed by an operator: stored, encrypted for the nodes that serve them, and for no others."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import Result

from devopsellence.age import AgeIdentity, EncryptionError
from devopsellence.api.v1.stored_pb2 import Certificate, Issuance
from devopsellence.api.v1.workload_pb2 import Ingress
from tests.integration.cli.ingress_records import ingress, key_of, released
from tests.integration.cli.secret_operator import Operator, own
from tests.support.certificates import SignedCertificate, make_certificate
from tests.support.cli import REF

HOST, OTHER = "app.example.com", "www.example.com"
ROOT = make_certificate("Some Authority", ca=True)
LEAF = make_certificate("app", [HOST, OTHER], by=ROOT)


@pytest.fixture
def shop(ann: Operator) -> Operator:
    """Node n1 is attached, and a release with two hosts of the kind manual is out."""
    ann.node("n1")
    ann.ok("node", "attach", "n1")
    released(ann, ingress(HOST, OTHER, mode=Ingress.MANUAL), ["n1"])
    return ann


def files(tmp_path: Path, leaf: SignedCertificate = LEAF, *issuers: SignedCertificate) -> list[str]:
    """Return the flags for the files of a certificate."""
    (tmp_path / "chain.pem").write_bytes(b"".join(issued.pem for issued in (leaf, *(issuers or (ROOT,)))))
    (tmp_path / "key.pem").write_bytes(leaf.key_pem(pkcs8=False))
    return ["--cert-file", str(tmp_path / "chain.pem"), "--key-file", str(tmp_path / "key.pem")]


def installed(operator: Operator, tmp_path: Path, *arguments: str, leaf: SignedCertificate = LEAF) -> Result:
    result = operator.run("ingress", "cert", "install", *files(tmp_path, leaf), *arguments)
    assert result.exit_code == 0, (result.output, result.exception)
    return result


def stored(operator: Operator, host: str = HOST) -> Certificate | None:
    return operator.read(key_of(host), Certificate)


def test_certificate_is_stored_for_covered_hosts(shop: Operator, tmp_path: Path) -> None:
    key = shop.node("n2")
    shop.ok("node", "attach", "n2")
    document = json.loads(installed(shop, tmp_path, "-o", "json").stdout)
    assert (document["hosts"], document["installed"]) == ([HOST, OTHER], [HOST, OTHER])
    for host in (HOST, OTHER):
        certificate = stored(shop, host)
        assert certificate is not None
        assert (certificate.source, certificate.issuer, certificate.serial) == (
            Certificate.INSTALLED,
            "Some Authority",
            LEAF.serial,
        )
        assert certificate.chain_pem.encode() == LEAF.pem + ROOT.pem
        assert key.decrypt(certificate.key_age) == own(shop).decrypt(certificate.key_age) == LEAF.key_pem()
        assert len(certificate.recipients) == 3
    assert LEAF.key_pem() not in shop.dump()
    assert b"PRIVATE KEY" not in shop.dump()
    assert "certificate_installed" in [event["code"] for event in shop.json("events")["events"]]


def test_same_certificate_writes_nothing_and_another_replaces(shop: Operator, tmp_path: Path) -> None:
    installed(shop, tmp_path)
    before = shop.dump()
    assert "already has this certificate" in installed(shop, tmp_path).stdout
    assert shop.dump() == before
    newer = make_certificate("app", [HOST], by=ROOT)
    installed(shop, tmp_path, leaf=newer)
    first, second = stored(shop, HOST), stored(shop, OTHER)
    assert first is not None
    assert second is not None
    assert (first.serial, second.serial) == (newer.serial, LEAF.serial)


@pytest.mark.parametrize(
    ("arguments", "leaf", "why"),
    [
        (["--host", "other.example.com"], LEAF, "the certificate is not for other.example.com: it covers"),
        (
            [],
            make_certificate("x", ["x.example.com"], by=ROOT),
            "the certificate covers x.example.com, and the hosts of",
        ),
        ([], make_certificate("x", [HOST]), "certificate 2 of the file (Some Authority) did not issue certificate 1"),
    ],
    ids=["another host", "none of ours", "another issuer"],
)
def test_mismatched_certificate_is_refused_and_not_written(
    shop: Operator, tmp_path: Path, arguments: list[str], leaf: SignedCertificate, why: str
) -> None:
    before = shop.dump()
    error = shop.error("ingress", "cert", "install", *files(tmp_path, leaf, ROOT), *arguments)
    assert (error["code"], error["exit_code"]) == ("invalid_certificate", 2)
    assert why in error["message"]
    assert shop.dump() == before


def test_unused_certificate_is_reported(ann: Operator, tmp_path: Path) -> None:
    ann.node("n1")
    ann.ok("node", "attach", "n1")
    result = ann.run("ingress", "cert", "install", *files(tmp_path), "--host", HOST)
    assert "no ingress" in result.stderr
    released(ann, ingress(OTHER, mode=Ingress.AUTO), ["n1"])
    result = installed(ann, tmp_path, "--host", HOST)
    assert "not served" in result.stderr
    assert "ingress.tls.mode is auto" in result.stderr


def test_attached_node_gets_certificate_and_detached_node_is_named(shop: Operator, tmp_path: Path) -> None:
    installed(shop, tmp_path)
    key = shop.node("n2")
    document = shop.json("node", "attach", "n2")
    assert (document["certificates_sealed"], document["secrets_sealed"]) == ([HOST, OTHER], [])
    certificate = stored(shop)
    assert certificate is not None
    assert key.decrypt(certificate.key_age) == LEAF.key_pem()
    left = shop.run("node", "detach", "n2", "-y")
    assert f"the private keys of the certificates of {HOST}, {OTHER}" in left.stdout
    assert shop.json("node", "detach", "n1", "-y")["certificates_seen"] == [HOST, OTHER]
    replaced = shop.json("node", "register", "n2", "--replace", "-y")
    assert replaced["certificates_seen"] == [{"environment": str(REF), "host": host} for host in (HOST, OTHER)]


def test_operator_with_access_grants_certificate_to_new_operator(shop: Operator, bob: Operator, tmp_path: Path) -> None:
    installed(shop, tmp_path)
    assert bob.error("secret", "reencrypt")["code"] == "secret_sealed"
    certificate = stored(bob)
    assert certificate is not None
    with pytest.raises(EncryptionError):
        own(bob).decrypt(certificate.key_age)
    error = bob.error("node", "attach", bob_node(bob))
    assert error["code"] == "secret_sealed"
    assert f"cannot decrypt the private key of {HOST}'s certificate" in error["message"]
    assert sorted(shop.json("secret", "reencrypt")["certificates"]) == [HOST, OTHER]
    bob.ok("node", "attach", "n3")
    certificate = stored(bob)
    assert certificate is not None
    assert own(bob).decrypt(certificate.key_age) == LEAF.key_pem()


def bob_node(bob: Operator) -> str:
    bob.node("n3")
    return "n3"


def test_acme_certificate_does_not_block_attach(shop: Operator, bob: Operator, tmp_path: Path) -> None:
    installed(shop, tmp_path)
    certificate = stored(shop)
    assert certificate is not None
    certificate.source = Certificate.ACME
    certificate.issuance.phase = Issuance.ORDER
    shop.write(key_of(HOST), certificate)
    shop.ok("ingress", "cert", "remove", OTHER, "-y")
    bob.node("n3")
    result = bob.run("node", "attach", "n3")
    assert result.exit_code == 0, result.output
    assert f"cannot decrypt the private keys of {HOST}: the controller obtains new certificates" in result.stderr
    assert stored(shop) == certificate
    assert shop.json("secret", "reencrypt")["certificates"] == [HOST]
    after = stored(shop)
    assert after is not None
    assert (after.issuance.phase, own(bob).decrypt(after.key_age)) == (Issuance.ORDER, LEAF.key_pem())


def test_certificate_list_shows_recipients_and_next_step(shop: Operator, tmp_path: Path) -> None:
    assert "has no certificates" in shop.ok("ingress", "cert", "list")
    installed(shop, tmp_path)
    wish = Certificate(host="new.example.com", issuance=Issuance(phase=Issuance.BACKOFF, reason="DNS leads elsewhere"))
    shop.write(key_of("new.example.com"), wish)
    shop.write(lambda etcd: f"{etcd.keys.certificates_prefix(REF)}broken.example.com", b"{")
    result = shop.run("ingress", "cert", "list", "-o", "json")
    listed = {certificate["host"]: certificate for certificate in json.loads(result.stdout)["certificates"]}
    assert listed[HOST]["nodes"] == ["n1"]
    assert (listed[HOST]["source"], listed[HOST]["issuer"]) == ("installed", "Some Authority")
    assert listed["new.example.com"]["issuance"]["reason"] == "DNS leads elsewhere"
    assert "key_age" not in result.stdout
    assert "broken.example.com is not a readable Certificate" in result.stderr
    table = shop.ok("ingress", "cert", "list").splitlines()
    assert table[0].split() == ["HOST", "ISSUER", "EXPIRES", "SOURCE", "READABLE", "ON", "NEXT"]
    assert "DNS leads elsewhere" in next(line for line in table if line.startswith("new.example.com"))


def test_certificate_is_removed_even_if_unreadable(shop: Operator, tmp_path: Path) -> None:
    installed(shop, tmp_path)
    shop.ok("ingress", "cert", "remove", "APP.example.com", "-y")
    assert stored(shop) is None
    assert shop.error("ingress", "cert", "remove", HOST, "-y")["code"] == "certificate_unknown"
    shop.write(key_of(HOST), b"{")
    shop.ok("ingress", "cert", "remove", HOST, "-y")
    assert stored(shop) is None


def test_unreadable_certificate_is_replaced(shop: Operator, tmp_path: Path) -> None:
    shop.write(key_of(HOST), b"{")
    installed(shop, tmp_path)
    assert stored(shop) is not None


def test_certificate_for_150_hosts_is_stored(ann: Operator, tmp_path: Path) -> None:
    ann.node("n1", key=AgeIdentity.generate())
    ann.ok("node", "attach", "n1")
    hosts = [f"h{number}.example.com" for number in range(150)]
    released(ann, ingress(*hosts, mode=Ingress.MANUAL), ["n1"])
    installed(ann, tmp_path, leaf=make_certificate("wild", ["*.example.com"], by=ROOT))
    assert len(ann.json("ingress", "cert", "list")["certificates"]) == 150
