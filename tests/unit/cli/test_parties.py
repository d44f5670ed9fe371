"""What each party's certificate says."""

from __future__ import annotations

import pytest

from devopsellence.cli import parties
from devopsellence.cli.pki import CertificateError
from devopsellence.peers import is_operator, server_name


def test_a_node_is_a_server_under_the_one_name_that_is_its_own() -> None:
    request = parties.node("prod-1")
    assert request.common_name == "node:prod-1"
    assert request.server_names == (server_name("prod-1"),)
    assert not is_operator(request.common_name)


def test_operators_and_controllers_are_clients_alone() -> None:
    for request in (parties.root(), parties.operator("ann"), parties.controller()):
        assert request.server_names == ()
    assert is_operator(parties.root().common_name)
    assert is_operator(parties.operator("ann").common_name)
    assert not is_operator(parties.controller().common_name)


def test_a_member_of_etcd_answers_under_every_name_that_it_is_called_by() -> None:
    names = parties.member("10.0.0.1", "127.0.0.1").server_names
    assert len(set(names)) == len(names)
    assert {"10.0.0.1", "127.0.0.1", "::1", "etcd.devopsellence.internal"} <= set(names)


def test_the_longest_names_that_a_certificate_holds() -> None:
    assert len(parties.node("n" * 59).common_name) == len(parties.operator("o" * 55).common_name) == 64
    with pytest.raises(CertificateError, match="a node's certificate has room for a name of 59"):
        parties.node("n" * 60)
    with pytest.raises(CertificateError, match="an operator's certificate has room for a name of 55"):
        parties.operator("o" * 56)
