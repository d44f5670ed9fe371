"""``doctor`` and the certificates that etcd presents."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.authority import Authority
from tests.support.cli import Cli
from tests.support.etcd import EtcdServer
from tests.support.need import need_etcd


@pytest.mark.parametrize(
    ("days_old", "line"),
    [
        (10, "ok    server certificates: the first of the certificates expires in 354 days"),
        (360, "warn  certificate of {endpoint}: the certificate of {endpoint} expires in 4 days"),
        (366, "FAIL  certificate of {endpoint}: clients refuse the certificate of {endpoint}: certificate has"),
    ],
)
def test_expiry_of_member_certificate_is_shown(tmp_path: Path, days_old: int, line: str) -> None:
    need_etcd()
    authority = Authority(tmp_path / "ca")
    with EtcdServer(tmp_path / "etcd", authority=authority) as server:
        server.replace_certificate(authority, days_old=days_old)
        output = Cli(server.settings(user="root"), tmp_path).run("doctor").stdout
        assert line.format(endpoint=server.endpoint) in output, output
