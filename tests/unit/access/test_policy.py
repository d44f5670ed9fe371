"""Callers: root, operators with readable and malformed records, and denied certificates."""

from __future__ import annotations

import pytest

from devopsellence.access.certificate import Certificate
from devopsellence.access.patterns import InvalidPattern
from devopsellence.access.policy import AccessDenied, AccessPolicy
from devopsellence.access.rights import InvalidAccess, Rights, record_of, rights_of
from devopsellence.access.roles import Action
from devopsellence.api.v1.stored_pb2 import DeniedCertificate, DenyList, OperatorAccess, RoleGrant

OWN = "acme/shop/production"
ANN = Certificate("operator:ann")
DEPLOYER = OperatorAccess(name="ann", roles=[RoleGrant(role=RoleGrant.DEPLOYER, environments=["*"])])
DENIED = DenyList(
    certificates=[
        DeniedCertificate(name="operator:bob", reason="left"),
        DeniedCertificate(serial="c0ffee"),
        DeniedCertificate(name="root"),
        DeniedCertificate(name="controller"),
        DeniedCertificate(name="node:u1"),
        DeniedCertificate(),
    ]
)
POLICY = AccessPolicy({"ann": DEPLOYER, "bob": DEPLOYER}, DENIED)


@pytest.mark.parametrize("action", Action)
def test_root_may_do_everything_also_without_records(action: Action) -> None:
    for policy in (AccessPolicy(), POLICY):
        policy.check(Certificate("root", "1"), action, OWN)


@pytest.mark.parametrize(
    ("caller", "message"),
    [
        (Certificate("operator:bob", "1"), "the certificate of operator:bob is denied: left"),
        (
            Certificate("operator:ann", "c0ffee"),
            "the certificate of operator:ann with the serial number c0ffee",
        ),
        (Certificate("root", "c0ffee"), "the certificate of root with the serial number c0ffee is denied"),
        (Certificate("node:u1", "1"), "the certificate of node:u1 is denied"),
        (Certificate("node:u2", "1"), "a certificate of node:u2 gives no access"),
        (Certificate("controller", "1"), "a certificate of controller gives no access"),
        (Certificate("", "1"), "a certificate of nobody gives no access"),
        (Certificate("operator:", "1"), "gives no access"),
        (Certificate("operator:../ann", "1"), "gives no access"),
        (Certificate("operator:eve", "1"), "operator 'eve' has been granted no access"),
    ],
)
def test_caller_without_access_is_told_why(caller: Certificate, message: str) -> None:
    with pytest.raises(AccessDenied) as caught:
        POLICY.check(caller, Action.VIEW, OWN)
    assert str(caught.value).startswith(message) or message in str(caught.value)


def test_missing_role_is_named() -> None:
    with pytest.raises(AccessDenied, match=r"operator ann lacks the role deployer or admin$"):
        AccessPolicy({"ann": record_of("ann", Rights(frozenset()))}).check(ANN, Action.LIST_SECRETS)
    with pytest.raises(AccessDenied, match=r"operator ann has no role in the environment acme/shop/production"):
        AccessPolicy({"ann": record_of("ann", Rights(frozenset()))}).check(ANN, Action.VIEW, OWN)
    with pytest.raises(AccessDenied, match=rf"operator ann lacks the role exec in the environment {OWN}"):
        POLICY.check(ANN, Action.EXECUTE, OWN)
    with pytest.raises(AccessDenied, match=r"operator ann lacks the role exec$"):
        POLICY.check(ANN, Action.EXECUTE)


@pytest.mark.parametrize("pattern", ["", "acme", "acme/shop", "acme/*/production", "*/*", "acme/shop/a/b", "a b/*"])
def test_malformed_record_gives_no_rights(pattern: str) -> None:
    for access in (
        OperatorAccess(name="ann", roles=[RoleGrant(role=RoleGrant.VIEWER, environments=["*", pattern])]),
        OperatorAccess(name="ann", environments=[pattern]),
    ):
        with pytest.raises(InvalidAccess, match="is no pattern of environments"):
            rights_of(access)
        with pytest.raises(AccessDenied, match="malformed"):
            AccessPolicy({"ann": access}).check(ANN, Action.VIEW, OWN)


def test_unknown_role_gives_no_rights() -> None:
    for role in (RoleGrant.ROLE_UNSPECIFIED, 99):
        with pytest.raises(InvalidAccess, match="is unknown"):
            rights_of(OperatorAccess(name="ann", roles=[RoleGrant(role=role, environments=["*"])]))  # type: ignore[arg-type]


def test_path_of_no_environment_is_refused() -> None:
    with pytest.raises(InvalidPattern):
        POLICY.check(ANN, Action.VIEW, "acme/shop")
