"""etcd's members on the command line."""

from __future__ import annotations

import pytest

from devopsellence.cli.cluster.init import parse_controllers, parse_members
from devopsellence.cli.output import CliError


def test_members_keep_their_order() -> None:
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


def test_controllers_are_addresses_of_one_kind() -> None:
    assert parse_controllers(["10.0.0.2", "10.0.0.1", "10.0.0.2"]) == ("10.0.0.2", "10.0.0.1")
    for said in (["10.0.0.1:2381"], ["10.0.0.1", "fd00::1"], [""]):
        with pytest.raises(CliError) as failure:
            parse_controllers(said)
        assert (failure.value.code, failure.value.exit_code) == ("invalid_address", 2)
