"""Values against their keys and writers."""

from __future__ import annotations

from typing import Any

import pytest
from google.protobuf.message import Message

from devopsellence.access.rights import Rights, record_of
from devopsellence.access.roles import Role
from devopsellence.api.v1 import stored_pb2 as pb
from devopsellence.controller.gateway.rules.caller import Caller
from devopsellence.controller.gateway.rules.records import check_record
from devopsellence.controller.gateway.rules.refusal import Refused
from devopsellence.store.codec import decode, encode
from tests.unit.controller.gateway.rules.gateway_builders import (
    ABE,
    AMY,
    ANN,
    ENV,
    KEYS,
    NODE,
    REF,
    ROOT,
    event,
    release,
    status,
)

HOST = "app.example.com"
STATUS, EVENT, RELEASE = KEYS.status("n1", REF), KEYS.event(REF, "e1"), KEYS.release(REF, 1)
SECRET, CERTIFICATE = KEYS.secret(REF, "web", "KEY"), KEYS.certificate(REF, HOST)
HEARTBEAT = KEYS.heartbeat("n1")
BOB, RECIPIENT, ENVIRONMENT = KEYS.operator_access("bob"), KEYS.operator("ann.x-1"), KEYS.environment(REF)


def secret(*authors: str) -> bytes:
    versions = [pb.SecretVersion(version=number, set_by=author) for number, author in enumerate(authors, 1)]
    return encode(pb.Secret(service="web", name="KEY", versions=versions, **ENV))


def certificate(serial: str, author: str) -> bytes:
    return encode(pb.Certificate(host=HOST, serial=serial, obtained_by=author, **ENV))


def access(role: Role, *patterns: str, name: str = "bob") -> bytes:
    return encode(record_of(name, Rights(frozenset((role, pattern) for pattern in patterns))))


def with_token(record: bytes) -> bytes:
    named = decode(pb.OperatorAccess, BOB, record)
    named.tokens.add(serial="c0ffee", recipient="ann.x-1")
    return encode(named)


def denied(**fields: str) -> bytes:
    return encode(pb.DenyList(certificates=[pb.DeniedCertificate(**fields)]))  # type: ignore[arg-type]


def environment(*nodes: str, latest: int = 1) -> bytes:
    return encode(pb.Environment(nodes=nodes, latest_release=latest, **ENV))


def recipient(operator: str = "", *, approved: bytes = b"", key: str = "age1") -> bytes:
    approval = pb.RecipientApproval(signature=approved) if approved else None
    return encode(pb.Operator(name="ann.x-1", operator=operator, age_recipient=key, approval=approval))


def node(**fields: Any) -> bytes:
    return encode(pb.Node(**{"name": "n1", "uid": "u1", **fields}))


BOTH = encode(record_of("bob", Rights(frozenset({(Role.DEPLOYER, "*"), (Role.EXEC, "*")}))))


def check(who: Caller, key: str, value: bytes, stored: bytes | None = None) -> str:
    """Return why a write is refused; empty if allowed."""
    try:
        check_record(who, KEYS, key, value, stored)
    except Refused as refused:
        return refused.reason
    return ""


@pytest.mark.parametrize(
    ("who", "key", "value", "stored"),
    [
        (NODE, STATUS, status(), None),
        (NODE, HEARTBEAT, encode(pb.Heartbeat(node="n1", uid="u1")), None),
        (NODE, EVENT, event(), None),
        # Sent again after an answer that was lost.
        (NODE, EVENT, event(), event()),
        (ANN, EVENT, event(source="cli", node="n2"), None),
        (ANN, RELEASE, release(), None),
        (ANN, RELEASE, release(created_by="ann"), None),
        (ROOT, RELEASE, release(created_by="whoever@host"), None),
        (ANN, SECRET, secret("ann@laptop"), None),
        (ANN, SECRET, secret("ben@desk", "ann@laptop"), secret("ben@desk")),
        (ANN, SECRET, secret("ann@laptop"), b"unreadable"),
        (ANN, CERTIFICATE, certificate("1", "ben@desk"), certificate("1", "ben@desk")),
        (ANN, CERTIFICATE, certificate("2", "ann@laptop"), certificate("1", "ben@desk")),
        (ROOT, KEYS.node("n1"), node(drain=pb.Drain(requested_by="x")), None),
        (ROOT, KEYS.gateways, encode(pb.Gateways(addresses=["10.0.0.1:2381"])), None),
        (ROOT, BOB, access(Role.EXEC, "*"), None),
        (ROOT, KEYS.denied, denied(name="operator:bob"), None),
        (AMY, KEYS.denied, denied(serial="c0ffee"), None),
        (AMY, BOB, access(Role.ADMIN, "*"), None),
        (AMY, BOB, access(Role.VIEWER, "acme/*"), access(Role.DEPLOYER, "acme/*")),
        (AMY, BOB, access(Role.VIEWER, "*"), b"unreadable"),
        # Granted by somebody else.
        (AMY, BOB, encode(pb.OperatorAccess(name="bob", environments=["*"])), BOTH),
        (ABE, BOB, access(Role.DEPLOYER, str(REF)), None),
        (ABE, BOB, access(Role.VIEWER, "acme/*"), access(Role.EXEC, "acme/*")),
        (ABE, BOB, access(Role.EXEC, "other/*"), access(Role.EXEC, "other/*", "acme/*")),
        (ABE, BOB, with_token(access(Role.DEPLOYER, str(REF))), access(Role.DEPLOYER, str(REF))),
        (ABE, BOB, with_token(access(Role.EXEC, "other/*")), with_token(access(Role.EXEC, "other/*", "acme/*"))),
        (ANN, RECIPIENT, recipient("ann"), None),
        (ANN, RECIPIENT, recipient("ann"), recipient()),
        (AMY, RECIPIENT, recipient("bob", approved=b"amy"), recipient("bob")),
        (AMY, RECIPIENT, recipient("bob", approved=b"amy"), recipient("bob", approved=b"eve")),
        (ANN, ENVIRONMENT, environment("n1", latest=2), environment()),
        (AMY, ENVIRONMENT, environment("n1"), environment("n2")),
        # A field that only a later version knows.
        (NODE, STATUS, status()[:-1] + b', "later": 1}', None),
    ],
)
def test_honest_record_is_written(who: Caller, key: str, value: bytes, stored: bytes | None) -> None:
    assert check(who, key, value, stored) == ""


@pytest.mark.parametrize(
    ("who", "key", "value", "stored", "reason"),
    [
        (ABE, BOB, with_token(access(Role.DEPLOYER, "*")), access(Role.DEPLOYER, "*"), "may not grant deployer in *"),
        (ABE, BOB, access(Role.DEPLOYER, "*"), with_token(access(Role.DEPLOYER, "*")), "may not grant deployer in *"),
        (NODE, STATUS, b"", None, "not a JSON object"),
        (NODE, STATUS, b"[]", None, "not a JSON object"),
        (NODE, STATUS, b"{", None, "readable AssignmentStatus"),
        (NODE, STATUS, status(reason="x" * 1_000_000), None, "too long"),
        (NODE, STATUS, status(node="n2"), None, "node is 'n2'"),
        (NODE, STATUS, status(node_uid="u2"), None, "node_uid is 'u2'"),
        (NODE, STATUS, status(node_uid=""), None, "node_uid is ''"),
        (NODE, STATUS, status(project="other"), None, "project is 'other'"),
        (NODE, STATUS, b'{"node": "n1", "node": "n2"}', None, "readable"),
        (NODE, f"{STATUS}/more", status(), None, "not organization/project/environment"),
        (NODE, KEYS.all_statuses_prefix + "n1", status(), None, ""),
        (NODE, HEARTBEAT, encode(pb.Heartbeat(node="n1", uid="u2")), None, "uid is 'u2'"),
        (NODE, HEARTBEAT, encode(pb.Heartbeat(node="n1", uid="u1", router_address="x" * 70_000)), None, "65536"),
        (NODE, EVENT, event(node="n2"), None, "about node 'n2'"),
        (NODE, EVENT, event(source="cli"), None, "by 'cli'"),
        (NODE, EVENT, event(source="controller"), None, "by 'controller'"),
        (NODE, EVENT, event(), event(source="controller"), "exists already"),
        (ANN, EVENT, event(source="agent/n1"), None, "source 'cli'"),
        (ANN, EVENT, event(source="cli"), event(source="cli"), "exists already"),
        (ANN, RELEASE, release(number=2), None, "number is 2"),
        (ANN, RELEASE, release(created_by=""), None, "written by ''"),
        (ANN, RELEASE, release(created_by="ben@laptop"), None, "written by 'ben@laptop'"),
        (ANN, RELEASE, release(created_by="anne@laptop"), None, "written by 'anne@laptop'"),
        (ANN, SECRET, secret("ben@desk"), None, "written by 'ben@desk'"),
        (ANN, SECRET, secret("ben@desk", "ben@desk"), secret("ben@desk"), "written by 'ben@desk'"),
        (ANN, CERTIFICATE, certificate("2", "ben@desk"), certificate("1", "ben@desk"), "written by 'ben@desk'"),
        (ANN, KEYS.node("n1"), node(drain=pb.Drain(requested_by="ben")), node(), "written by 'ben'"),
        (ROOT, KEYS.rollout(REF), encode(pb.Rollout(**ENV)), None, "not written through the gateway"),
        (ROOT, KEYS.assignment("n1", REF), encode(pb.Assignment(**ENV)), None, "not written through the gateway"),
        (ROOT, KEYS.gateways, encode(pb.Gateways(addresses=["nonsense"])), None, "not an IP address"),
        (ROOT, KEYS.authorities, encode(pb.Authorities(certificates=["nonsense"])), None, "no certificates"),
        (ROOT, KEYS.authorities, encode(pb.Authorities()), None, "one or two are needed"),
        (ROOT, KEYS.gateways, encode(pb.Gateways(addresses=["10.0.0.1:1"] * 65)), None, "64 are the most"),
        (ROOT, BOB, access(Role.EXEC, "acme"), None, "no pattern of environments"),
        (ROOT, BOB, access(Role.EXEC, "*", name="ben"), None, "name is 'ben'"),
        (ROOT, KEYS.denied, denied(name="root"), None, "cannot be denied by name"),
        (ROOT, KEYS.denied, denied(serial="XYZ"), None, "no serial number"),
        (AMY, BOB, access(Role.DEPLOYER, "acme/*"), None, "may not grant deployer in acme/*"),
        (AMY, BOB, access(Role.EXEC, str(REF)), None, "may not grant exec"),
        (AMY, BOB, encode(pb.OperatorAccess(name="bob", environments=["*"])), None, "may not grant deployer in *"),
        (AMY, KEYS.operator_access("amy"), access(Role.DEPLOYER, "*", name="amy"), None, "may not grant deployer in *"),
        (ABE, BOB, access(Role.DEPLOYER, "acme/*"), None, "may not grant deployer in acme/*"),
        (ABE, BOB, access(Role.VIEWER, "other/*"), None, "may not grant viewer in other/*"),
        (ABE, BOB, access(Role.ADMIN, "*"), None, "may not grant admin in *"),
        (ABE, BOB, access(Role.EXEC), access(Role.EXEC, "other/*"), "may not revoke exec in other/*"),
        (ANN, RECIPIENT, recipient(), None, "of nobody, not of 'ann'"),
        (ANN, RECIPIENT, recipient("bob"), None, "of bob, not of 'ann'"),
        (ANN, RECIPIENT, recipient("ann"), recipient("bob"), "of ann, bob, not of 'ann'"),
        (ANN, RECIPIENT, recipient("bob", approved=b"ann"), recipient("bob"), "of bob, not of 'ann'"),
        (ABE, RECIPIENT, recipient("bob", approved=b"abe"), recipient("bob"), "of bob, not of 'abe'"),
        (AMY, RECIPIENT, recipient("bob", approved=b"amy"), None, "of bob, not of 'amy'"),
        (AMY, RECIPIENT, recipient("bob", key="age1amy", approved=b"amy"), recipient("bob"), "of bob, not of 'amy'"),
        (AMY, ENVIRONMENT, environment("n1"), None, "and nothing else"),
        (AMY, ENVIRONMENT, environment("n1", latest=2), environment("n1"), "and nothing else"),
        (ROOT, "/v1/access/junk", b"{}", None, "not written through the gateway"),
        (ROOT, "/v1/junk/x", b"{}", None, "not written through the gateway"),
    ],
)
def test_forged_or_malformed_record_is_refused(
    who: Caller, key: str, value: bytes, stored: bytes | None, reason: str
) -> None:
    found = check(who, key, value, stored)
    assert found
    assert reason in found


def test_kinds_refuse_garbage_alike() -> None:
    for key in (KEYS.node("n1"), KEYS.operator("a"), KEYS.operator_access("a"), KEYS.environment(REF), SECRET):
        assert check(ROOT, key, b"garbage")


def test_unset_names_count_as_others() -> None:
    empty: Message = pb.Environment()
    assert check(ROOT, KEYS.environment(REF), encode(empty))
