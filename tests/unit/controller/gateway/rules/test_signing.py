"""Certificates that a caller may have signed."""

from __future__ import annotations

import datetime

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from devopsellence.access.policy import AccessPolicy
from devopsellence.access.rights import Rights, record_of
from devopsellence.access.roles import Role
from devopsellence.api.v1.stored_pb2 import DeniedCertificate, DenyList, Node, UsedJoinToken
from devopsellence.certificates import subjects
from devopsellence.certificates.authority import CertificateAuthority, CertificateRequest
from devopsellence.certificates.life import JOIN_LIFE, LEAF_LIFE
from devopsellence.controller.gateway.rules.caller import Caller
from devopsellence.controller.gateway.rules.refusal import RefusalKind, Refused
from devopsellence.controller.gateway.rules.signing import (
    check_joinable,
    check_renewable,
    check_unused,
    granted_life,
    own_subject,
    router_subject,
    subject_for,
)
from tests.unit.controller.gateway.rules.gateway_builders import ABE, AMY, ANN, CONTROLLER, JOINING, NODE, ROOT

ROLES = {
    "vic": {(Role.VIEWER, "acme/shop/production")},
    "max": {(Role.ADMIN, "*")},
    "dan": {(Role.DEPLOYER, "acme/shop/production")},
    "eve": {(Role.VIEWER, "*")},
}
POLICY = AccessPolicy(
    {name: record_of(name, Rights(frozenset(held))) for name, held in ROLES.items()},
    DenyList(certificates=[DeniedCertificate(name="operator:eve"), DeniedCertificate(name="node:u9")]),
)


def allowed(caller: Caller, identity: str) -> CertificateRequest:
    return subject_for(caller, identity, POLICY, lambda uid: {"u1": "n1", "u9": "n9"}.get(uid, ""))


@pytest.mark.parametrize(
    ("caller", "subject"),
    [(NODE, subjects.node("n1", "u1")), (ANN, subjects.operator("ann")), (ROOT, subjects.root())],
    ids=["node", "operator", "root"],
)
def test_caller_renews_its_own_identity(caller: Caller, subject: CertificateRequest) -> None:
    assert own_subject(caller) == subject


def test_join_token_is_not_renewed() -> None:
    with pytest.raises(Refused, match="not renewed"):
        own_subject(JOINING)


@pytest.mark.parametrize("node", [None, Node(name="n1"), Node(name="n1", uid="u2")], ids=["removed", "empty", "other"])
def test_join_token_is_void_without_its_machine(node: Node | None) -> None:
    check_joinable(JOINING, Node(name="n1", uid="u1"))
    with pytest.raises(Refused, match="the join token is void"):
        check_joinable(JOINING, node)


def test_used_join_token_gives_its_key_the_same_certificate() -> None:
    now = datetime.datetime.now(datetime.UTC)
    authority = CertificateAuthority.create("root", now)
    key, other = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    chain = authority.issue(subjects.node("n1", "u1"), now, key=key).certificate
    assert check_unused(None, key.public_key()) is None
    assert check_unused(UsedJoinToken(chain=chain.decode()), key.public_key()) == chain
    for used in (UsedJoinToken(chain=chain.decode()), UsedJoinToken()):
        with pytest.raises(Refused, match="the join token was used before"):
            check_unused(used, other.public_key())


def test_node_has_a_certificate_of_its_router_signed() -> None:
    assert router_subject(NODE) == subjects.router("n1", "u1")


@pytest.mark.parametrize("caller", [ANN, AMY, ROOT, CONTROLLER], ids=["operator", "admin", "root", "controller"])
def test_others_have_no_router(caller: Caller) -> None:
    with pytest.raises(Refused, match="are signed for nodes"):
        router_subject(caller)


def test_controller_renews_nothing_here() -> None:
    with pytest.raises(Refused, match="controllers sign their certificates themselves"):
        own_subject(CONTROLLER)


@pytest.mark.parametrize("caller", [AMY, ROOT], ids=["admin", "root"])
@pytest.mark.parametrize(
    ("identity", "subject"),
    [
        ("node:u1", subjects.node("n1", "u1")),
        ("join:u1", subjects.join_token("n1", "u1")),
        ("operator:vic", subjects.operator("vic")),
        ("operator:max", subjects.operator("max")),
    ],
)
def test_admin_of_all_has_certificates_of_nodes_and_operators_signed(
    caller: Caller, identity: str, subject: CertificateRequest
) -> None:
    assert allowed(caller, identity) == subject


@pytest.mark.parametrize("caller", [NODE, ANN, ABE, CONTROLLER, JOINING], ids=lambda caller: caller.identity)
@pytest.mark.parametrize("identity", ["node:u1", "join:u1", "operator:vic", "operator:ann", "root"])
def test_other_callers_have_nothing_signed_for_anybody(caller: Caller, identity: str) -> None:
    with pytest.raises(Refused, match="role admin in all environments") as caught:
        allowed(caller, identity)
    assert caught.value.kind is RefusalKind.DENIED


@pytest.mark.parametrize(
    ("identity", "reason"),
    [
        ("root", "only certificates of operators and nodes"),
        ("controller", "only certificates of operators and nodes"),
        ("etcd", "only certificates of operators and nodes"),
        ("", "only certificates of operators and nodes"),
        ("node:u2", "no node is registered"),
        ("node:", "no node is registered"),
        ("node:../u1", "no node is registered"),
        ("operator:nobody", "has been granted no access"),
        ("operator:", "gives no access"),
        ("operator:../vic", "gives no access"),
        ("operator:eve", "is denied"),
        ("node:u9", "is denied"),
        ("join:u2", "no node is registered"),
        ("join:", "no node is registered"),
        ("join:../u1", "no node is registered"),
        ("join:u9", "is denied"),
    ],
)
def test_no_other_identity_is_signed_for_anybody(identity: str, reason: str) -> None:
    for caller in (AMY, ROOT):
        with pytest.raises(Refused, match=reason) as caught:
            allowed(caller, identity)
        assert caught.value.kind is RefusalKind.DENIED


def test_admin_has_no_certificate_signed_with_more_rights_than_its_own() -> None:
    with pytest.raises(Refused, match="operator:dan has the role deployer in acme/shop/production"):
        allowed(AMY, "operator:dan")
    assert allowed(ROOT, "operator:dan") == subjects.operator("dan")


def test_certificate_for_a_fixed_term_is_an_operators_and_renews_nothing() -> None:
    fixed = subject_for(AMY, "operator:vic", POLICY, lambda _: "n1", fixed_term=True)
    assert fixed == subjects.operator("vic", fixed_term=True)
    with pytest.raises(Refused, match="fixed term"):
        check_renewable(fixed.unit)
    for unit in ("", subjects.node("n1", "u1").unit):
        check_renewable(unit)
    for identity in ("node:u1", "join:u1"):
        with pytest.raises(Refused, match="no life of the caller's choice"):
            subject_for(AMY, identity, POLICY, lambda _: "n1", fixed_term=True)


def test_life_is_bounded() -> None:
    day, subject = datetime.timedelta(days=1), subjects.operator("vic")
    assert granted_life(subject, None) == granted_life(subject, LEAF_LIFE) == LEAF_LIFE
    assert granted_life(subject, day) == day
    assert granted_life(subjects.join_token("n1", "u1"), None) == JOIN_LIFE
    for asked in (LEAF_LIFE + day, datetime.timedelta(0), -day, datetime.timedelta(seconds=1)):
        with pytest.raises(Refused, match="5 minutes to 90 days"):
            granted_life(subject, asked)
