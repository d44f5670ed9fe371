"""Facts in certificates, with and without the extensions that tell them."""

from __future__ import annotations

import datetime

import pytest
from cryptography import x509

from devopsellence.certificates import facts
from devopsellence.certificates.authority import CertificateAuthority, CertificateRequest

NOW = datetime.datetime(2026, 3, 1, 12, tzinfo=datetime.UTC)


@pytest.fixture(scope="module")
def authority() -> CertificateAuthority:
    return CertificateAuthority.create("test", NOW)


def test_facts_of_a_leaf(authority: CertificateAuthority) -> None:
    request = CertificateRequest("node:u1", ("a.internal", "10.0.0.1"), unit="n1")
    pem = authority.issue(request, NOW, life=datetime.timedelta(days=30)).certificate
    leaf = x509.load_pem_x509_certificate(pem)
    assert (facts.common_name(leaf), facts.unit(leaf)) == ("node:u1", "n1")
    assert [str(name.value) for name in facts.alternative_names(leaf)] == ["a.internal", "10.0.0.1"]
    assert facts.certificate_end(pem) == facts.life_of(leaf).ends == NOW + datetime.timedelta(days=30)
    assert not facts.basic_constraints(leaf).ca
    assert facts.is_signed_by(leaf, authority.certificate)
    assert not facts.is_signed_by(leaf, CertificateAuthority.create("test", NOW).certificate)


def test_facts_that_a_certificate_lacks(authority: CertificateAuthority) -> None:
    leaf = x509.load_pem_x509_certificate(authority.issue(CertificateRequest("root"), NOW).certificate)
    assert (facts.unit(leaf), list(facts.alternative_names(leaf))) == ("", [])
