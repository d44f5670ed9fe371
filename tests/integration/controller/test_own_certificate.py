"""A controller with the issuing authority: signs its own certificate at each start, whatever became of the old one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from devopsellence.api.v1.stored_pb2 import Candidate, Node
from devopsellence.certificates.issuing import IssuingFiles
from devopsellence.certificates.request import new_request
from devopsellence.store.codec import decode, encode
from devopsellence.store.etcd import Etcd
from devopsellence.store.settings import ETCD_CLIENT_NAME, ETCD_SERVER_NAME
from tests.support.authority import Authority, settings_with
from tests.support.controller import ControllerProcess
from tests.support.etcd import EtcdServer
from tests.support.ports import free_ports
from tests.support.until import eventually

pytestmark = pytest.mark.etcd
NAMES = (ETCD_SERVER_NAME, "127.0.0.1", ETCD_CLIENT_NAME)


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "ca")


@pytest.fixture
def issuing(authority: Authority) -> IssuingFiles:
    return authority.issue_by_intermediate()


@pytest.fixture
def etcd_server(tmp_path: Path, authority: Authority, issuing: IssuingFiles) -> Iterator[EtcdServer]:
    with EtcdServer(tmp_path / "etcd", authority=authority) as server:
        yield server


async def test_controller_works_with_a_certificate_that_it_signs_itself(
    etcd_server: EtcdServer, authority: Authority, issuing: IssuingFiles, tmp_path: Path
) -> None:
    # A power cut of months: what was installed has expired.
    installed = authority.issue("controller", *NAMES, days_old=200, file="controller")
    before = installed.certificate.read_bytes()
    (port,) = free_ports(1)
    settings = settings_with(etcd_server.settings(), installed)
    controller = ControllerProcess(settings, tmp_path / "log", f"--gateway-listen=127.0.0.1:{port}")
    try:
        await controller.logged("leading")
        root = settings_with(etcd_server.settings(), authority.issue("root", ETCD_CLIENT_NAME))
        async with Etcd(root) as etcd:
            (candidate,) = (await etcd.list(etcd.keys.election_prefix)).items
            assert decode(Candidate, candidate.key, candidate.value).certificate_expires_at.seconds
            await etcd.put(etcd.keys.node("n1"), encode(Node(name="n1", uid="u1")))
        node = replace(settings_with(settings, authority.issue("node:u1")), endpoints=(f"127.0.0.1:{port}",))
        async with Etcd(node) as etcd:
            await eventually("the node is known", lambda: known(etcd))
            assert await etcd.renew_certificate(new_request().csr)
        assert installed.certificate.read_bytes() == before
        assert await controller.stop() == 0
    finally:
        controller.end()


async def known(etcd: Etcd) -> bool:
    return await etcd.get(etcd.keys.node("n1")) is not None
