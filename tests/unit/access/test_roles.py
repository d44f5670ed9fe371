"""Every role by every action by own and other environments, and what of it an operator may grant."""

from __future__ import annotations

from itertools import product

import pytest

from devopsellence.access.certificate import Certificate
from devopsellence.access.policy import AccessDenied, AccessPolicy
from devopsellence.access.rights import Rights, record_of
from devopsellence.access.roles import Action, Role

OWN, OTHER = "acme/shop/production", "acme/shop/staging"
#: The expectations, written by hand: actions of each role, apart from those of every role.
MORE = {
    "viewer": "",
    "deployer": "DEPLOY SEND_IMAGES READ_LOGS LIST_SECRETS WRITE_SECRETS READ_ACCESS",
    "admin": "LIST_SECRETS READ_ACCESS GRANT READ_AUDIT",
    "exec": "EXECUTE",
}
READING = {"VIEW", "DIAGNOSE"}
IN_ALL_ENVIRONMENTS = {"admin": {"CHANGE_NODES", "DENY"}}
#: Role of the granting operator, besides admin: roles that it may grant.
GRANTABLE = {
    "": {"viewer", "admin"},
    "viewer": {"viewer", "admin"},
    "deployer": {"viewer", "admin", "deployer"},
    "exec": {"viewer", "admin", "exec"},
}


def policy(role: str, *environments: str) -> AccessPolicy:
    return AccessPolicy({"ann": record_of("ann", Rights(frozenset((Role(role), at) for at in environments)))})


def allows(rules: AccessPolicy, action: Action, environment: str) -> bool:
    try:
        rules.check(Certificate("operator:ann"), action, environment)
    except AccessDenied:
        return False
    return True


@pytest.mark.parametrize(("role", "action"), list(product(MORE, Action)))
def test_role_permits_its_actions_in_its_environments_only(role: str, action: Action) -> None:
    expected = action.name in READING | set(MORE[role].split())
    for pattern in (OWN, "acme/shop/production"):
        assert allows(policy(role, pattern), action, OWN) is expected
        assert allows(policy(role, pattern), action, "") is expected
        assert not allows(policy(role, pattern), action, OTHER)
    for pattern in ("acme/shop/*", "acme/*"):
        assert allows(policy(role, pattern), action, OTHER) is expected
        assert not allows(policy(role, pattern), action, "other/shop/production")
    everywhere = expected or action.name in IN_ALL_ENVIRONMENTS.get(role, ())
    assert allows(policy(role, "*"), action, OWN) is everywhere
    assert allows(policy(role, "*"), action, "") is everywhere


@pytest.mark.parametrize(("held", "role"), list(product(GRANTABLE, Role)))
def test_admin_grants_no_more_than_it_has(held: str, role: Role) -> None:
    rights = Rights(frozenset({(Role.ADMIN, "acme/*"), *([(Role(held), "acme/*")] if held else [])}))
    expected = role.value in GRANTABLE[held]
    assert rights.permit_granting(role, "acme/*") is expected
    assert rights.permit_granting(role, OWN) is expected
    assert not rights.permit_granting(role, "*")
    assert not rights.permit_granting(role, "other/*")


@pytest.mark.parametrize(("held", "role"), list(product(Role, Role)))
def test_only_admins_grant(held: Role, role: Role) -> None:
    rights = Rights(frozenset({(held, "*")}))
    assert rights.permit_granting(role, "*") is (held is Role.ADMIN and role.value in GRANTABLE[""])


def test_roles_of_two_environments_do_not_mix() -> None:
    rights = Rights(frozenset({(Role.VIEWER, OWN), (Role.DEPLOYER, OTHER), (Role.ADMIN, OWN)}))
    assert not rights.permit(Action.DEPLOY, OWN)
    assert not rights.permit_granting(Role.DEPLOYER, OTHER)
    assert not rights.permit_granting(Role.DEPLOYER, OWN)
