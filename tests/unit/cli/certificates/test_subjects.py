"""What each party's certificate says."""

from __future__ import annotations

import pytest

from devopsellence.agent_identity import is_operator, server_name
from devopsellence.cli.certificates import subjects
from devopsellence.cli.certificates.pki import CertificateError
from devopsellence.store.keys import InvalidName


def test_a_node_is_a_server_under_the_one_name_that_is_its_machines_own() -> None:
    request = subjects.node("prod-1", "6c8f")
    assert request.common_name == "node:6c8f"
    assert request.server_names == (server_name("6c8f"),)
    assert request.unit == "prod-1"
    assert not is_operator(request.common_name)


def test_operators_and_controllers_are_clients_alone() -> None:
    for request in (subjects.root(), subjects.operator("ann"), subjects.controller()):
        assert request.server_names == ()
    assert is_operator(subjects.root().common_name)
    assert is_operator(subjects.operator("ann").common_name)
    assert not is_operator(subjects.controller().common_name)


def test_a_member_of_etcd_answers_under_every_name_that_it_is_called_by() -> None:
    names = subjects.member("10.0.0.1", "127.0.0.1").server_names
    assert len(set(names)) == len(names)
    assert {"10.0.0.1", "127.0.0.1", "::1", "etcd.devopsellence.internal"} <= set(names)


def test_the_longest_names_that_a_certificate_holds() -> None:
    assert subjects.node("n" * 63, 32 * "a").unit == "n" * 63
    with pytest.raises(InvalidName):
        subjects.node("n" * 64, 32 * "a")
    assert len(subjects.operator("o" * 55).common_name) == 64
    with pytest.raises(CertificateError, match="a certificate allows 55 at most"):
        subjects.operator("o" * 56)
