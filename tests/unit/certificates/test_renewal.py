"""Installation of a renewed certificate."""

from __future__ import annotations

from pathlib import Path

import pytest

from devopsellence.certificates.files import Busy, KeyPair, locked
from devopsellence.certificates.renewal import (
    RenewalFailed,
    check_replaceable,
    check_writable,
    install,
    read_certificate,
)
from devopsellence.server_certificate import CertificateFiles
from tests.support.authority import Authority


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    authority = Authority(tmp_path / "ca")
    authority.issue_by_intermediate()
    return authority


@pytest.fixture
def files(authority: Authority) -> CertificateFiles:
    return authority.issue("node:u1", file="own")


def renewed_by(authority: Authority) -> KeyPair:
    other = authority.issue("node:u1")
    return KeyPair(other.certificate.read_bytes(), other.key.read_bytes())


def pair(files: CertificateFiles) -> tuple[bytes, bytes]:
    return files.certificate.read_bytes(), files.key.read_bytes()


def test_renewed_certificate_is_installed_with_its_key(files: CertificateFiles, authority: Authority) -> None:
    renewed = renewed_by(authority)
    beside = {*files.certificate.parent.iterdir()}
    # Of a process that was killed.
    left = files.certificate.parent / ".renewed-1"
    left.mkdir()
    (left / "tls.key").write_bytes(b"secret")
    install(files, renewed, read_certificate(files))
    assert pair(files) == (renewed.certificate, renewed.key)
    assert {*files.certificate.parent.iterdir()} == beside


def test_certificate_that_nobody_would_accept_is_not_installed(
    files: CertificateFiles, authority: Authority, tmp_path: Path
) -> None:
    before = pair(files)
    stranger = renewed_by(Authority(tmp_path / "other"))
    mixed = KeyPair(renewed_by(authority).certificate, renewed_by(authority).key)
    without_issuing = renewed_by(authority)
    leaf, end, _ = without_issuing.certificate.partition(b"-----END CERTIFICATE-----\n")
    for renewed in (stranger, mixed, KeyPair(leaf + end, without_issuing.key)):
        with pytest.raises(RenewalFailed, match="does not fit the authority"):
            install(files, renewed, read_certificate(files))
        assert pair(files) == before


def test_certificate_that_was_replaced_meanwhile_stays(files: CertificateFiles, authority: Authority) -> None:
    seen = read_certificate(files)
    install(files, first := renewed_by(authority), seen)
    install(files, renewed_by(authority), seen)
    assert pair(files) == (first.certificate, first.key)


def test_two_processes_do_not_install_at_once(files: CertificateFiles, authority: Authority) -> None:
    with locked(files.certificate.parent), pytest.raises(Busy):
        install(files, renewed_by(authority), read_certificate(files))


def test_files_of_another_user_are_left_alone(files: CertificateFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    check_replaceable(files)
    monkeypatch.setattr("os.geteuid", lambda: files.key.stat().st_uid + 1)
    with pytest.raises(RenewalFailed, match=r"own\.key belongs to another user"):
        check_replaceable(files)


def test_folder_that_cannot_be_written_is_named(files: CertificateFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    # Root may write to every folder but one on a read-only file system.
    monkeypatch.setattr("os.access", lambda *_: False)
    with pytest.raises(RenewalFailed, match="cannot be written"):
        check_replaceable(files)
    files.key.unlink()
    with pytest.raises(RenewalFailed, match=r"cannot read the key .*own\.key"):
        check_replaceable(files)


def test_missing_certificate_is_named(files: CertificateFiles) -> None:
    files.certificate.write_text("nonsense")
    with pytest.raises(RenewalFailed, match=r"own\.crt: there is no certificate"):
        read_certificate(files)
    files.certificate.unlink()
    with pytest.raises(RenewalFailed, match=r"own\.crt"):
        read_certificate(files)


def test_first_certificate_is_installed_where_there_is_none(files: CertificateFiles, authority: Authority) -> None:
    folder = files.certificate.parent / "router"
    folder.mkdir()
    first = CertificateFiles(files.authority, folder / "tls.crt", folder / "tls.key")
    check_writable(folder)
    install(first, renewed := renewed_by(authority), None)
    assert pair(first) == (renewed.certificate, renewed.key)
    assert first.key.stat().st_mode & 0o777 == 0o600
    with pytest.raises(RenewalFailed, match="cannot be written"):
        check_writable(folder / "missing")
