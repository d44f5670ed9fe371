"""Authorities of a program's file: added at once, dropped only if the program's own certificate does without."""

from __future__ import annotations

from pathlib import Path

import pytest

from devopsellence.api.v1.stored_pb2 import Authorities
from devopsellence.certificates.facts import fingerprint
from devopsellence.certificates.pem import load_certificate
from devopsellence.certificates.trust import (
    AuthorityNeeded,
    InvalidAuthorities,
    by_fingerprint,
    certificates_in,
    check_authorities,
    should_renew,
    trust,
)
from devopsellence.server_certificate import CertificateFiles
from tests.support.authority import Authority


@pytest.fixture
def former(tmp_path: Path) -> Authority:
    authority = Authority(tmp_path / "former")
    authority.issue_by_intermediate()
    return authority


@pytest.fixture
def coming(tmp_path: Path) -> Authority:
    authority = Authority(tmp_path / "coming")
    authority.issue_by_intermediate()
    return authority


def record(*authorities: Authority) -> Authorities:
    return Authorities(certificates=[authority.ca_cert.read_text() for authority in authorities])


def trusted(files: CertificateFiles) -> list[bytes]:
    return certificates_in(files.authority.read_bytes())


def test_rotation_of_a_program(former: Authority, coming: Authority) -> None:
    files = former.issue("node:one")
    both = record(former, coming)
    assert not trust(files, record(former))
    assert trust(files, both)
    assert not trust(files, both)
    assert len(trusted(files)) == 2
    assert not should_renew(files, both)
    assert should_renew(files, record(coming, former))
    with pytest.raises(AuthorityNeeded):
        trust(files, record(coming))
    assert len(trusted(files)) == 2
    renewed = coming.issue("node:one")
    own = CertificateFiles(files.authority, renewed.certificate, renewed.key)
    assert not should_renew(own, record(coming, former))
    assert trust(own, record(coming))
    assert trusted(own) == trusted(renewed)


def test_authority_of_a_further_certificate_is_kept(former: Authority, coming: Authority) -> None:
    files, router = coming.issue("node:one"), former.issue("router:one")
    own = CertificateFiles(former.ca_cert, files.certificate, files.key)
    assert trust(own, record(coming, former))
    with pytest.raises(AuthorityNeeded, match="router"):
        trust(own, record(coming), [router])
    assert trust(own, record(coming), [coming.issue("router:one")])


def test_authorities_are_named_by_their_fingerprints(former: Authority, coming: Authority) -> None:
    found = by_fingerprint(former.ca_cert.read_bytes() + coming.ca_cert.read_bytes())
    roots = [load_certificate(authority.ca_cert) for authority in (former, coming)]
    assert sorted(found) == sorted(map(fingerprint, roots))
    assert certificates_in(found[fingerprint(roots[0])].encode()) == certificates_in(former.ca_cert.read_bytes())


def test_text_without_a_line_end_is_joined(former: Authority, coming: Authority) -> None:
    files = former.issue("node:one")
    stripped = [authority.ca_cert.read_text().strip() for authority in (former, coming)]
    assert trust(files, Authorities(certificates=stripped))
    assert len(trusted(files)) == 2


def test_unusable_records_are_refused(former: Authority, coming: Authority) -> None:
    leaf = former.issue("node:one")
    before = leaf.authority.read_bytes()
    pem = former.ca_cert.read_text()
    for certificates in (
        [],
        ["nonsense"],
        [""],
        ["é"],
        [pem[:200]],
        [leaf.certificate.read_text().split("-----END")[0] + "-----END CERTIFICATE-----\n"],
        [pem + coming.ca_cert.read_text()],
        [pem * 100],
        [pem, pem, pem],
        [pem + leaf.key.read_text() + leaf.certificate.read_text()],
    ):
        with pytest.raises(InvalidAuthorities):
            check_authorities(Authorities(certificates=certificates))
        with pytest.raises(InvalidAuthorities):
            trust(leaf, Authorities(certificates=certificates))
    assert leaf.authority.read_bytes() == before
