"""Content and renewal of certificates."""

import datetime
import ipaddress
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from devopsellence.certificates import subjects
from devopsellence.certificates.authority import (
    BACKDATE,
    ISSUING_LIFE,
    LONG_LIFE,
    CertificateAuthority,
    CertificateRequest,
)
from devopsellence.certificates.facts import why_expires
from devopsellence.certificates.life import LEAF_LIFE
from devopsellence.certificates.pem import CertificateError, load_key

NOW = datetime.datetime(2026, 3, 1, 12, tzinfo=datetime.UTC)
DAY = datetime.timedelta(days=1)
MEMBER = CertificateRequest("etcd", ("etcd.devopsellence.internal", "localhost", "127.0.0.1", "::1"))
OPERATOR = CertificateRequest("root")


@pytest.fixture(scope="module")
def authority() -> CertificateAuthority:
    return CertificateAuthority.create("test", NOW)


def issue(
    authority: CertificateAuthority, request: CertificateRequest, now: datetime.datetime = NOW
) -> x509.Certificate:
    return x509.load_pem_x509_certificate(authority.issue(request, now).certificate)


def test_root_is_valid_ten_years_and_signs_one_level_of_authorities(authority: CertificateAuthority) -> None:
    certificate = authority.certificate
    assert certificate.not_valid_after_utc - NOW == 3650 * DAY
    constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints)
    assert constraints.critical
    assert (constraints.value.ca, constraints.value.path_length) == (True, 1)


def test_leaf_of_a_root_is_valid_a_year_and_no_authority(authority: CertificateAuthority) -> None:
    leaf = issue(authority, OPERATOR)
    leaf.verify_directly_issued_by(authority.certificate)
    assert leaf.not_valid_before_utc == NOW - BACKDATE
    assert leaf.not_valid_after_utc == NOW + LONG_LIFE
    assert leaf.subject.rfc4514_string() == "CN=root"
    assert not leaf.extensions.get_extension_for_class(x509.BasicConstraints).value.ca


def test_leaf_does_not_outlive_authority(authority: CertificateAuthority) -> None:
    leaf = issue(authority, OPERATOR, NOW + 3600 * DAY)
    assert leaf.not_valid_after_utc == authority.certificate.not_valid_after_utc


@pytest.fixture(scope="module")
def issuing(authority: CertificateAuthority) -> CertificateAuthority:
    return authority.create_issuing("issuing", NOW)


def test_issuing_authority_is_valid_a_year_and_signs_leaves_only(
    authority: CertificateAuthority, issuing: CertificateAuthority
) -> None:
    certificate = issuing.certificate
    certificate.verify_directly_issued_by(authority.certificate)
    assert certificate.not_valid_after_utc == NOW + ISSUING_LIFE
    constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
    assert (constraints.ca, constraints.path_length) == (True, 0)
    assert (authority.can_create_issuing, issuing.can_create_issuing) == (True, False)
    assert issuing.trusted == authority.issued.certificate


@pytest.mark.parametrize(
    ("request_", "life"), [(subjects.node("n1", "u1"), LEAF_LIFE), (subjects.member("10.0.0.1"), LONG_LIFE)]
)
def test_leaf_of_an_issuing_authority_comes_with_it(
    issuing: CertificateAuthority, request_: CertificateRequest, life: datetime.timedelta
) -> None:
    leaf, behind = x509.load_pem_x509_certificates(issuing.issue(request_, NOW).certificate)
    leaf.verify_directly_issued_by(issuing.certificate)
    assert behind == issuing.certificate
    assert leaf.not_valid_after_utc == NOW + life


def test_leaf_does_not_outlive_issuing_authority(issuing: CertificateAuthority) -> None:
    late = issue(issuing, OPERATOR, NOW + 350 * DAY)
    assert late.not_valid_after_utc == issuing.certificate.not_valid_after_utc


def test_authority_is_loaded_with_its_root_alone(
    authority: CertificateAuthority, issuing: CertificateAuthority, tmp_path: Path
) -> None:
    files, trusted = (tmp_path / "issuing.crt", tmp_path / "issuing.key"), tmp_path / "ca.crt"
    issuing.issued.write(*files)
    stranger = CertificateAuthority.create("test", NOW)
    trusted.write_bytes(stranger.trusted + authority.trusted)
    loaded = CertificateAuthority.load(*files, trusted=trusted)
    assert (loaded.certificate, loaded.root, loaded.is_root) == (issuing.certificate, authority.certificate, False)
    trusted.write_bytes(stranger.trusted)
    with pytest.raises(CertificateError, match="is not signed by an authority in"):
        CertificateAuthority.load(*files, trusted=trusted)
    issuing.issue(OPERATOR, NOW).write(*files)
    with pytest.raises(CertificateError, match="is not the certificate of an authority"):
        CertificateAuthority.load(*files, trusted=trusted)


def test_root_may_sign_leaves_itself(authority: CertificateAuthority, tmp_path: Path) -> None:
    files = tmp_path / "ca.crt", tmp_path / "ca.key"
    authority.issued.write(*files)
    loaded = CertificateAuthority.load(*files, trusted=files[0])
    assert loaded.is_root
    assert len(x509.load_pem_x509_certificates(loaded.issue(OPERATOR, NOW).certificate)) == 1


def test_expired_authority_signs_nothing(issuing: CertificateAuthority) -> None:
    with pytest.raises(CertificateError, match="the authority has expired on 2027-03-01"):
        issuing.issue(OPERATOR, NOW + ISSUING_LIFE)


def test_server_certificate_has_names_and_client_usage(authority: CertificateAuthority) -> None:
    leaf = issue(authority, MEMBER)
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["etcd.devopsellence.internal", "localhost"]
    assert names.get_values_for_type(x509.IPAddress) == [
        ipaddress.ip_address("127.0.0.1"),
        ipaddress.ip_address("::1"),
    ]
    usage = leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert set(usage) == {ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH}


def test_client_certificate_has_no_server_usage(authority: CertificateAuthority) -> None:
    usage = issue(authority, OPERATOR).extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(usage) == [ExtendedKeyUsageOID.CLIENT_AUTH]


def test_certificate_renewal_keeps_the_key(authority: CertificateAuthority, tmp_path: Path) -> None:
    first = authority.issue(OPERATOR, NOW)
    first.write(tmp_path / "tls.crt", tmp_path / "tls.key")
    again = authority.issue(OPERATOR, NOW + 340 * DAY, key=load_key(tmp_path / "tls.key"))
    assert again.key == first.key
    assert again.certificate != first.certificate
    before, after = (x509.load_pem_x509_certificate(each.certificate) for each in (first, again))
    assert after.public_key() == before.public_key()
    assert after.not_valid_after_utc == before.not_valid_after_utc + 340 * DAY


@pytest.mark.parametrize("name", ["", "node:" + 60 * "n"])
def test_invalid_common_name_is_an_error(authority: CertificateAuthority, name: str) -> None:
    with pytest.raises(CertificateError, match="common name"):
        authority.issue(CertificateRequest(name), NOW)


def test_new_certificate_needs_no_renewal(authority: CertificateAuthority) -> None:
    assert authority.why_renew(issue(authority, MEMBER), MEMBER, NOW) == ""


@pytest.mark.parametrize(
    ("passed", "due"),
    [(243 * DAY, False), (244 * DAY, True), (366 * DAY, True), (-1 * DAY, True)],
    ids=["below two thirds", "two thirds", "over", "not yet valid"],
)
def test_certificate_is_renewed_after_two_thirds_of_its_life(
    authority: CertificateAuthority, passed: datetime.timedelta, due: bool
) -> None:
    leaf = issue(authority, OPERATOR)
    assert bool(authority.why_renew(leaf, OPERATOR, NOW + passed)) is due
    assert bool(why_expires(leaf, NOW + passed)) is due


def test_certificate_with_other_names_is_renewed(authority: CertificateAuthority) -> None:
    assert "not 'controller'" in authority.why_renew(issue(authority, OPERATOR), CertificateRequest("controller"), NOW)
    assert "other names" in authority.why_renew(
        issue(authority, MEMBER), CertificateRequest("etcd", ("elsewhere",)), NOW
    )


def test_certificate_of_another_authority_is_renewed(authority: CertificateAuthority) -> None:
    other = CertificateAuthority.create("test", NOW)
    assert "not signed" in authority.why_renew(issue(other, OPERATOR), OPERATOR, NOW)
