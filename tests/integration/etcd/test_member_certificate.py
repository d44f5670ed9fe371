"""Certificate of an etcd member renewed by the command beside a controller: under a watch, without a restart."""

from __future__ import annotations

import asyncio
import os
import shutil
import ssl
from collections.abc import Iterator
from contextlib import aclosing
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from devopsellence.certificates.pem import load_certificate
from devopsellence.controller.access.member_certificate import main
from devopsellence.server_certificate import CertificateFiles
from devopsellence.store.etcd import Etcd
from devopsellence.store.settings import ETCD_SERVER_NAME
from tests.support.authority import Authority, settings_with
from tests.support.etcd import EtcdServer
from tests.support.need import lack

pytestmark = pytest.mark.etcd


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    authority = Authority(tmp_path / "ca")
    authority.issue_by_intermediate()
    return authority


@pytest.fixture
def member(tmp_path: Path, authority: Authority) -> CertificateFiles:
    """Folder of a member, whose certificate is nearly at its end; the key belongs to another user."""
    if os.geteuid() != 0:
        lack("needs root, as on a member's machine")
    issued = authority.issue("etcd", ETCD_SERVER_NAME, "127.0.0.1", days_old=80)
    folder = tmp_path / "member"
    folder.mkdir()
    files = CertificateFiles(folder / "ca.crt", folder / "tls.crt", folder / "tls.key")
    for source, target in zip(
        (issued.authority, issued.certificate, issued.key), (files.authority, files.certificate, files.key), strict=True
    ):
        shutil.copy2(source, target)
    os.chown(files.key, 12345, 12345)
    return files


@pytest.fixture
def etcd_server(tmp_path: Path, authority: Authority, member: CertificateFiles) -> Iterator[EtcdServer]:
    with EtcdServer(tmp_path / "etcd", authority=authority, files=member) as server:
        yield server


def renew(member: CertificateFiles, authority: Authority) -> Result:
    folders = ("--folder", str(member.certificate.parent), "--controller-folder", str(authority.ca_cert.parent))
    return CliRunner().invoke(main, folders)


async def presented(address: str, authority: Authority) -> int:
    """Return the serial number of the certificate that etcd presents."""
    context = ssl.create_default_context(cafile=authority.ca_cert)
    files = authority.issue("root", "etcd-client.devopsellence.internal")
    context.load_cert_chain(files.certificate, files.key)
    host, _, port = address.rpartition(":")
    _, writer = await asyncio.open_connection(host, int(port), ssl=context, server_hostname=ETCD_SERVER_NAME)
    serial = int(writer.get_extra_info("peercert")["serialNumber"], 16)
    writer.transport.abort()
    return serial


async def test_member_is_renewed_under_a_watch(
    etcd_server: EtcdServer, authority: Authority, member: CertificateFiles
) -> None:
    settings = settings_with(etcd_server.settings(), authority.issue("root", "etcd-client.devopsellence.internal"))
    before = load_certificate(member.certificate)
    async with Etcd(settings) as etcd, aclosing(etcd.watch("/watched/", start_revision=0)) as watch:
        await anext(watch)
        done = await asyncio.to_thread(renew, member, authority)
        assert (done.exit_code, "was renewed (expires on" in done.output) == (0, True), done.output
        after = load_certificate(member.certificate)
        assert after.serial_number != before.serial_number
        assert await presented(settings.endpoints[0], authority) == after.serial_number
        await etcd.put("/watched/key", b"value")
        batch = await anext(watch)
        assert [event.key for event in batch.events] == ["/watched/key"]
    status = member.key.stat()
    assert (status.st_uid, status.st_gid, status.st_mode & 0o777) == (12345, 12345, 0o600)
    again = await asyncio.to_thread(renew, member, authority)
    assert (again.exit_code, "is valid until" in again.output) == (0, True)
    assert load_certificate(member.certificate) == after


def test_other_certificates_and_missing_files_are_left_alone(
    authority: Authority, member: CertificateFiles, tmp_path: Path
) -> None:
    other = authority.issue("controller", ETCD_SERVER_NAME, days_old=80)
    shutil.copy2(other.certificate, member.certificate)
    shutil.copy2(other.key, member.key)
    before = member.certificate.read_bytes()
    done = renew(member, authority)
    assert (done.exit_code, "not of etcd" in done.output) == (1, True)
    assert member.certificate.read_bytes() == before
    shutil.copy2(member.certificate, tmp_path / "copy")
    member.certificate.unlink()
    missing = renew(member, authority)
    assert (missing.exit_code, "cannot read the certificate" in missing.output) == (1, True)
