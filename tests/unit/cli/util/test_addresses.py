"""Addresses of machines."""

from __future__ import annotations

import pytest

from devopsellence.cli.output import CliError
from devopsellence.cli.util.addresses import check_host, is_ip, with_port


@pytest.mark.parametrize("host", ["10.0.0.1", "::1", "fd00::5", "vm", "n1.example.com", "1st.example.com", "a-b"])
def test_valid_addresses_are_accepted(host: str) -> None:
    assert check_host(host) == host


@pytest.mark.parametrize(
    "text", ["", " ", "a b", "10.0.0.256", "10.0.0", "-a", "a-", "a..b", "a/b", "a:7443", "[::1]", "x" * 64, "a\n"]
)
def test_invalid_addresses_are_refused(text: str) -> None:
    with pytest.raises(CliError, match="invalid address"):
        check_host(text)


def test_with_port_and_is_ip() -> None:
    assert with_port("10.0.0.1", 7443) == "10.0.0.1:7443"
    assert with_port("fd00::5", 7443) == "[fd00::5]:7443"
    assert is_ip("::1")
    assert not is_ip("vm")
