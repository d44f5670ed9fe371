"""Callers and keys for the tests of the gateway's policy."""

from __future__ import annotations

from typing import Any

from devopsellence.access.policy import AccessPolicy
from devopsellence.access.rights import Rights, record_of
from devopsellence.access.roles import Role as AccessRole
from devopsellence.api.v1 import stored_pb2 as pb
from devopsellence.controller.gateway.rules.caller import Caller, identify
from devopsellence.store.codec import encode
from devopsellence.store.keys import EnvironmentRef, Keys

KEYS = Keys("/v1/")
REF = EnvironmentRef("acme", "shop", "production")
ENV: dict[str, Any] = {"organization": "acme", "project": "shop", "environment": "production"}


def caller(common_name: str) -> Caller:
    """Return a caller: node n1 has the uid u1, operator ann is deployer of REF, amy is admin of all."""
    roles = {
        "ann": {(AccessRole.DEPLOYER, str(REF))},
        "amy": {(AccessRole.ADMIN, "*")},
        "abe": {(AccessRole.ADMIN, "acme/*"), (AccessRole.DEPLOYER, str(REF))},
    }
    access = AccessPolicy({name: record_of(name, Rights(frozenset(held))) for name, held in roles.items()})
    return identify([common_name], "1", KEYS, lambda uid: {"u1": "n1", "u2": "n2"}.get(uid, ""), access)


NODE, ANN, ROOT, CONTROLLER = (caller(name) for name in ("node:u1", "operator:ann", "root", "controller"))
#: A machine with a join token.
JOINING = caller("join:u1")
#: Admin of all environments, and admin of some who is also deployer of REF.
AMY, ABE = caller("operator:amy"), caller("operator:abe")


def status(**fields: Any) -> bytes:
    return encode(pb.AssignmentStatus(**{"node": "n1", "node_uid": "u1", **ENV, **fields}))


def event(**fields: Any) -> bytes:
    return encode(pb.Event(**{"node": "n1", "source": "agent/n1", **fields}))


def release(**fields: Any) -> bytes:
    return encode(pb.Release(**{"number": 1, "created_by": "ann@laptop", **ENV, **fields}))
