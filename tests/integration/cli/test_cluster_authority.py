"""Authorities of a cluster's folder: passphrase of the root, renewal of the issuing authority, earlier clusters."""

from __future__ import annotations

import datetime
from pathlib import Path

import pytest

from devopsellence.certificates.authority import LONG_LIFE
from devopsellence.certificates.facts import life_of
from devopsellence.certificates.life import LEAF_LIFE
from devopsellence.certificates.pem import load_certificate, load_key
from devopsellence.cli.cluster.authority import Passphrase, establish
from devopsellence.cli.cluster.folder import ClusterFolder
from tests.support.certificates import make_certificate
from tests.support.cli import Cli

DAY = datetime.timedelta(days=1)
HOUR = datetime.timedelta(hours=1)
PASSPHRASE = "correct horse battery"


def unencrypted() -> Passphrase:
    return Passphrase(str, lambda: pytest.fail("asked for a passphrase"))


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_key_of_the_root_needs_its_passphrase_to_renew_the_issuing_authority(bare: Cli, pki: Path) -> None:
    (pki.parent / "passphrase").write_text(f"{PASSPHRASE}\n")
    init = ("cluster", "init", "--pki", str(pki), "--etcd", "e1=10.0.0.1")
    bare.ok(*init, "--passphrase-file", str(pki.parent / "passphrase"))
    assert b"BEGIN" not in (pki / "ca.key").read_bytes()
    load_key(pki / "ca.key", PASSPHRASE)
    # As long as the issuing authority lasts, nobody is asked, and the root's key may be elsewhere.
    assert {bundle["outcome"] for bundle in bare.json(*init)["bundles"]} == {"kept"}
    bare.ok("cluster", "issue", "node", "n1", "--uid", "u1", "--pki", str(pki))
    (pki / "issuing.crt").unlink()
    missing = bare.error(*init)
    assert (missing["code"], missing["exit_code"]) == ("passphrase_missing", 2)
    (pki.parent / "passphrase").write_text("another passphrase")
    wrong = bare.error(*init, "--passphrase-file", str(pki.parent / "passphrase"))
    assert wrong["code"] == "authority_unusable"
    assert "the passphrase is wrong" in wrong["message"]


@pytest.mark.parametrize(
    ("content", "options", "code"),
    [
        ("", [], "passphrase_missing"),
        ("short", ["--passphrase-file"], "passphrase_short"),
        (PASSPHRASE, ["--no-passphrase", "--passphrase-file"], "usage"),
        (None, ["--passphrase-file"], "passphrase_unreadable"),
    ],
)
def test_authority_is_not_created_without_a_passphrase(
    bare: Cli, pki: Path, content: str | None, options: list[str], code: str
) -> None:
    file = pki.parent / "passphrase"
    if content is not None:
        file.write_text(content)
    given = [*options, str(file)] if "--passphrase-file" in options else options
    error = bare.error("cluster", "init", "--pki", str(pki), *given)
    assert (error["code"], error["exit_code"]) == (code, 2)
    assert not pki.exists() or set(files(pki)) == {".lock"}


def test_issuing_authority_is_renewed_after_two_thirds_of_its_life(pki: Path) -> None:
    folder, now = ClusterFolder(pki), datetime.datetime.now(datetime.UTC)
    with folder.locked():
        first = establish(folder, now, unencrypted())
        assert establish(folder, now + 240 * DAY, unencrypted()).certificate == first.certificate
        second = establish(folder, now + 250 * DAY, unencrypted())
    assert second.certificate != first.certificate
    assert second.root == first.root == load_certificate(pki / "ca.crt")


def test_root_of_an_earlier_version_signs_certificates_itself(bare: Cli, pki: Path) -> None:
    pki.mkdir(mode=0o700)
    root = make_certificate("devopsellence cluster", ca=True, ends=3000 * DAY)
    (pki / "ca.crt").write_bytes(root.pem)
    (pki / "ca.key").write_bytes(root.key_pem())
    bare.ok("cluster", "init", "--pki", str(pki), "--etcd", "e1=10.0.0.1")
    bare.ok("cluster", "issue", "node", "n1", "--uid", "u1", "--pki", str(pki))
    assert not list(pki.rglob("issuing*"))
    certificate = load_certificate(pki / "node-n1" / "tls.crt")
    certificate.verify_directly_issued_by(root.certificate)
    assert (pki / "node-n1" / "ca.crt").read_bytes() == root.pem
    life = life_of(certificate)
    assert life.ends - life.begins == LONG_LIFE + HOUR


def test_leaf_of_a_cluster_comes_with_the_issuing_authority(bare: Cli, pki: Path) -> None:
    bare.ok("cluster", "init", "--no-passphrase", "--pki", str(pki), "--etcd", "e1=10.0.0.1")
    issuing = (pki / "issuing.crt").read_bytes()
    bare.ok("cluster", "issue", "node", "n1", "--uid", "u1", "--pki", str(pki))
    for bundle, life in (
        ("controller", LONG_LIFE),
        ("root", LONG_LIFE),
        ("etcd-e1", LONG_LIFE),
        ("node-n1", LEAF_LIFE),
    ):
        assert (pki / bundle / "tls.crt").read_bytes().endswith(issuing)
        assert (pki / bundle / "ca.crt").read_bytes() == (pki / "ca.crt").read_bytes()
        found = life_of(load_certificate(pki / bundle / "tls.crt"))
        assert found.ends - found.begins in (life, life + HOUR)
    assert files(pki / "controller")["issuing.key"] == (pki / "issuing.key").read_bytes()
