"""Identities from certificates."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from devopsellence.access.policy import AccessPolicy
from devopsellence.api.v1.stored_pb2 import DeniedCertificate, DenyList, OperatorAccess
from devopsellence.controller.gateway.rules.caller import Caller, Role, identify
from devopsellence.controller.gateway.rules.grants import KeyRange, Right
from devopsellence.controller.gateway.rules.refusal import Refused
from devopsellence.store.keys import Keys

KEYS = Keys("/v1/")
NODES = {"u1": "n1", "u3": "n3"}
ACCESS = {
    "ann": ["acme/shop/production"],
    "ben": ["*"],
    "cat": ["acme/*", "other/app/*"],
    "dan": [],
    "lee": ["*"],
    "bad": ["acme/shop"],
    "worse": ["acme/*/production"],
    "worst": [""],
}


DENIED = DenyList(
    certificates=[
        DeniedCertificate(name="operator:lee"),
        DeniedCertificate(name="node:u3"),
        DeniedCertificate(serial="f"),
    ]
)


def caller(*names: str, serial: str = "1") -> Caller:
    operators = {name: OperatorAccess(name=name, environments=patterns) for name, patterns in ACCESS.items()}
    return identify(names, serial, KEYS, lambda uid: NODES.get(uid, ""), AccessPolicy(operators, DENIED))


def reads(who: Caller, key: str) -> bool:
    return who.grants.allow(Right.READ, KeyRange(key.encode()))


@pytest.mark.parametrize(
    ("name", "role", "shown"),
    [
        ("node:u1", Role.NODE, "n1"),
        ("operator:ann", Role.OPERATOR, "ann"),
        ("root", Role.ROOT, "root"),
        ("controller", Role.CONTROLLER, "controller"),
        # Not looked up before the token is used.
        ("join:u1", Role.JOIN, ""),
        ("join:u2", Role.JOIN, ""),
    ],
)
def test_common_name_names_role_and_caller(name: str, role: Role, shown: str) -> None:
    found = caller(name)
    assert (found.role, found.name, found.identity) == (role, shown, name)


@pytest.mark.parametrize(
    "names",
    [
        (),
        ("",),
        ("etcd",),
        ("n1",),
        ("node:",),
        ("node:u2",),
        ("node:n1",),
        ("router:u1",),
        ("node:u1/../u1",),
        ("operator:",),
        ("operator:eve",),
        ("operator:ann/x",),
        ("Root",),
        ("root", "node:u1"),
        ("operator:bad",),
        ("operator:worse",),
        ("operator:worst",),
        ("operator:lee",),
        ("node:u3",),
        ("join:u3",),
        ("join:",),
        ("join:u1/../u1",),
        ("join:u1", "node:u1"),
    ],
)
def test_other_certificates_give_no_access(names: Sequence[str]) -> None:
    with pytest.raises(Refused):
        caller(*names)


@pytest.mark.parametrize("name", ["node:u1", "operator:ann", "root", "controller"])
def test_denied_serial_number_gives_no_access(name: str) -> None:
    with pytest.raises(Refused, match="with the serial number f is denied"):
        caller(name, serial="f")


@pytest.mark.parametrize(
    ("operator", "readable", "hidden"),
    [
        (
            "ann",
            ["secrets/acme/shop/production/web/KEY", "status/n1/acme/shop/production"],
            ["secrets/acme/a/b/w/K"],
        ),
        ("ben", ["secrets/a/b/c/web/KEY", "status/n1/a/b/c", "nodes/n1", "access/operators/ann"], ["junk/x"]),
        ("cat", ["releases/acme/a/b/1", "releases/other/app/x/1"], ["releases/other/web/x/1", "releases/acme2/a/b/1"]),
        ("dan", ["nodes/n1", "access/operators/dan"], ["environments/acme/shop/production"]),
    ],
)
def test_operator_reads_its_environments(operator: str, readable: list[str], hidden: list[str]) -> None:
    found = caller(f"operator:{operator}")
    assert [key for key in readable if not reads(found, f"/v1/{key}")] == []
    assert [key for key in hidden if reads(found, f"/v1/{key}")] == []
