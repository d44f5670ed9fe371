"""Certificates of nodes, operators, controllers and etcd members."""

from __future__ import annotations

import pytest

from devopsellence.agent_identity import is_operator, router_name, server_name
from devopsellence.certificates import subjects
from devopsellence.certificates.pem import CertificateError
from devopsellence.store.keys import InvalidName
from devopsellence.store.settings import ETCD_CLIENT_NAME, ETCD_SERVER_NAME


def test_node_certificate_names_the_machine() -> None:
    request = subjects.node("prod-1", "6c8f")
    assert request.common_name == "node:6c8f"
    assert request.server_names == (server_name("6c8f"),)
    assert request.unit == "prod-1"
    assert not is_operator(request.common_name)


def test_router_certificate_has_both_names_of_the_machine() -> None:
    request = subjects.router("n1", "u1")
    assert request.common_name == "router:u1"
    # That of the node for routers of earlier versions.
    assert request.server_names == (router_name("u1"), server_name("u1"))


def test_operators_have_client_certificates() -> None:
    for request in (subjects.root(), subjects.operator("ann")):
        assert request.server_names == ()
    assert is_operator(subjects.root().common_name)
    assert is_operator(subjects.operator("ann").common_name)
    assert not is_operator(subjects.controller().common_name)


def test_etcd_accepts_certificates_of_controllers_and_root_alone() -> None:
    requests = (subjects.operator("ann"), subjects.node("n1", "u1"), subjects.member("10.0.0.1"))
    for request in (subjects.root(), subjects.controller("10.0.0.1")):
        assert request.client_names == (ETCD_CLIENT_NAME,)
    for request in requests:
        assert ETCD_CLIENT_NAME not in (*request.client_names, *request.server_names)


def test_controller_certificate_is_that_of_its_gateway() -> None:
    assert {ETCD_SERVER_NAME, "127.0.0.1", "10.0.0.1"} <= set(subjects.controller("10.0.0.1").server_names)


def test_etcd_member_certificate_has_all_its_names() -> None:
    names = subjects.member("10.0.0.1", "127.0.0.1").server_names
    assert len(set(names)) == len(names)
    assert {"10.0.0.1", "127.0.0.1", "::1", "etcd.devopsellence.internal"} <= set(names)


def test_longest_names_in_certificates() -> None:
    assert subjects.node("n" * 63, 32 * "a").unit == "n" * 63
    with pytest.raises(InvalidName):
        subjects.node("n" * 64, 32 * "a")
    assert len(subjects.operator("o" * 55).common_name) == 64
    with pytest.raises(CertificateError, match="a certificate allows 55 at most"):
        subjects.operator("o" * 56)
