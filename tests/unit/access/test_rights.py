"""Rights from records, and records from rights."""

from __future__ import annotations

from itertools import product

import pytest

from devopsellence.access.rights import Rights, record_of, rights_of
from devopsellence.access.roles import Role
from devopsellence.api.v1.stored_pb2 import OperatorAccess

OWN = "acme/shop/production"


@pytest.mark.parametrize(
    ("nodes", "roles"), [(False, {Role.DEPLOYER, Role.EXEC}), (True, {Role.DEPLOYER, Role.EXEC, Role.ADMIN})]
)
def test_record_of_a_version_without_roles_keeps_its_rights(nodes: bool, roles: set[Role]) -> None:
    access = OperatorAccess(name="ann", environments=[OWN, "acme/web/*"], nodes=nodes)
    assert rights_of(access).grants == set(product(roles, (OWN, "acme/web/*")))


def test_record_has_the_rights_that_it_was_made_of() -> None:
    rights = Rights(frozenset({(Role.EXEC, "acme/*"), (Role.VIEWER, "*"), (Role.EXEC, OWN)}))
    assert rights_of(record_of("ann", rights)) == rights
    assert rights.without(Role.EXEC, "acme/*").grants == {(Role.VIEWER, "*")}
    assert rights.without(Role.EXEC, OWN).grants == {(Role.VIEWER, "*"), (Role.EXEC, "acme/*")}
    assert rights.without(Role.VIEWER, None).grants == {(Role.EXEC, "acme/*"), (Role.EXEC, OWN)}
    assert rights.without(Role.VIEWER, "acme/*") == rights
