"""Name and end of a client certificate."""

from __future__ import annotations

from pathlib import Path

import pytest

from devopsellence.client_certificate import certificate_end, common_name
from tests.support.authority import Authority

DAY = 24 * 3600


@pytest.mark.parametrize("days_old", [0, 300])
def test_end_is_that_of_the_client_certificate(tmp_path: Path, days_old: int) -> None:
    authority = Authority(tmp_path / "ca")
    files = authority.issue("controller", days_old=days_old)
    end = certificate_end(files.authority, files.certificate, files.key)
    assert round((end - authority.created_at.timestamp()) / DAY) == 365 - days_old


def test_unusable_certificate_has_no_end(tmp_path: Path) -> None:
    authority = Authority(tmp_path / "ca")
    files, other, expired = authority.issue("a"), authority.issue("b"), authority.issue("c", days_old=400)
    stranger = Authority(tmp_path / "other").issue("a")
    assert certificate_end(None, None, None) == 0
    assert certificate_end(files.authority, files.certificate, other.key) == 0
    assert certificate_end(files.authority, files.certificate, tmp_path / "missing") == 0
    assert certificate_end(stranger.authority, files.certificate, files.key) == 0
    assert certificate_end(expired.authority, expired.certificate, expired.key) == 0


def test_common_name_is_that_of_a_valid_certificate(tmp_path: Path) -> None:
    authority = Authority(tmp_path / "ca")
    files, expired = authority.issue("operator:ann"), authority.issue("operator:ann", days_old=400)
    assert common_name(files.certificate, files.key) == "operator:ann"
    assert common_name(None, None) == ""
    assert common_name(files.certificate, authority.issue("b").key) == ""
    assert common_name(tmp_path / "missing", files.key) == ""
    assert common_name(expired.certificate, expired.key) == ""
