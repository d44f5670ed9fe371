"""What is said of etcd's members, and which addresses there are."""

from __future__ import annotations

import pytest

from devopsellence.cli.cluster.init import parse_members
from devopsellence.cli.output import CliError
from devopsellence.cli.util.addresses import check_host, is_ip, with_port


def test_members_in_the_order_said() -> None:
    assert parse_members(["e2=10.0.0.2", "e1=10.0.0.1"]) == {"e2": "10.0.0.2", "e1": "10.0.0.1"}
    assert parse_members([]) == {}


@pytest.mark.parametrize(
    ("said", "code"),
    [
        (["e1"], "invalid_member"),
        (["=10.0.0.1"], "invalid_member"),
        (["../e1=10.0.0.1"], "invalid_member"),
        (["e1=10.0.0.1", "e1=10.0.0.2"], "invalid_member"),
        (["e1=10.0.0.1:2379"], "invalid_address"),
        (["e1="], "invalid_address"),
        (["e1=https://10.0.0.1"], "invalid_address"),
        (["e1=10.0.0.1", "e2=etcd.example.com"], "invalid_member"),
    ],
)
def test_invalid_member_is_a_usage_error(said: list[str], code: str) -> None:
    with pytest.raises(CliError) as failure:
        parse_members(said)
    assert (failure.value.code, failure.value.exit_code) == (code, 2)


@pytest.mark.parametrize("host", ["10.0.0.1", "::1", "fd00::5", "vm", "n1.example.com", "1st.example.com", "a-b"])
def test_addresses(host: str) -> None:
    assert check_host(host) == host


@pytest.mark.parametrize(
    "text", ["", " ", "a b", "10.0.0.256", "10.0.0", "-a", "a-", "a..b", "a/b", "a:7443", "[::1]", "x" * 64, "a\n"]
)
def test_invalid_addresses_are_refused(text: str) -> None:
    with pytest.raises(CliError, match="invalid address"):
        check_host(text)


def test_ports_and_kinds() -> None:
    assert with_port("10.0.0.1", 7443) == "10.0.0.1:7443"
    assert with_port("fd00::5", 7443) == "[fd00::5]:7443"
    assert is_ip("::1")
    assert not is_ip("vm")
