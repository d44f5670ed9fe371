"""Requests in words, with the environments and nodes that they are about."""

from __future__ import annotations

import pytest
from google.protobuf.message import Message

from devopsellence.access.rights import Rights, record_of
from devopsellence.access.roles import Role
from devopsellence.api.v1 import stored_pb2 as pb
from devopsellence.controller.gateway.audit.describe import (
    Description,
    describe_reads,
    describe_request,
    describe_writes,
    secret_ranges,
)
from devopsellence.controller.gateway.rules.grants import KeyRange, end_of
from devopsellence.etcd.v3 import etcd_pb2 as rpc
from devopsellence.store.codec import encode
from tests.unit.controller.gateway.rules.gateway_builders import ENV, KEYS, REF

WEB_SECRET = KEYS.secret(REF, "web", "TOKEN")


def put(key: str, record: Message) -> rpc.PutRequest:
    return rpc.PutRequest(key=key.encode(), value=encode(record))


def below(prefix: str) -> KeyRange:
    return KeyRange(prefix.encode(), end_of(prefix.encode()))


def written(*puts: rpc.PutRequest, stored: dict[str, bytes | None] | None = None) -> Description:
    return describe_writes(KEYS, puts, [KeyRange(each.key) for each in puts], stored)


def secret(*versions: int) -> pb.Secret:
    return pb.Secret(versions=[pb.SecretVersion(version=version) for version in versions])


def access(*grants: tuple[Role, str]) -> pb.OperatorAccess:
    return record_of("ann", Rights(frozenset(grants)))


def test_deploy_is_told_without_the_records_that_come_with_it() -> None:
    found = written(
        put(KEYS.release(REF, 7), pb.Release(number=7, **ENV)),
        put(KEYS.environment(REF), pb.Environment(**ENV)),
        put(KEYS.event(REF, "e1"), pb.Event()),
    )
    assert found.summary == "deploy release 7 of acme/shop/production"
    assert found.environments == (str(REF),)
    assert found.keys[0] == "releases/acme/shop/production/0000000007"


@pytest.mark.parametrize(
    ("key", "record", "before", "summary"),
    [
        (
            KEYS.release(REF, 8),
            pb.Release(number=8, rollback_of=5, **ENV),
            None,
            "roll back acme/shop/production to release 5, as release 8",
        ),
        (WEB_SECRET, secret(1, 2), secret(1), "set secret TOKEN of web in acme/shop/production"),
        (WEB_SECRET, secret(2), secret(1, 2), "change who can decrypt secret TOKEN of web in acme/shop/production"),
        (
            KEYS.secret(REF, "_registry", "PASSWORD"),
            secret(1),
            None,
            "set secret PASSWORD of the registry in acme/shop/production",
        ),
        (KEYS.environment(REF), pb.Environment(**ENV), None, "create environment acme/shop/production"),
        (KEYS.node("n1"), pb.Node(name="n1", uid="u"), None, "register node n1"),
        (KEYS.node("n1"), pb.Node(name="n1", uid="v"), pb.Node(uid="u"), "register another machine as node n1"),
        (KEYS.node("n1"), pb.Node(uid="u", drain=pb.Drain()), pb.Node(uid="u"), "drain node n1"),
        (KEYS.node("n1"), pb.Node(uid="u", cordoned=True), pb.Node(uid="u"), "cordon node n1"),
        (KEYS.node("n1"), pb.Node(uid="u"), pb.Node(uid="u", cordoned=True), "uncordon node n1"),
        (KEYS.node("n1"), pb.Node(uid="u", labels=["web"]), pb.Node(uid="u"), "label node n1: web"),
        (
            KEYS.node("n1"),
            pb.Node(uid="u", age_recipient="age1x"),
            pb.Node(uid="u"),
            "record the age key of node n1",
        ),
        (KEYS.node("n1"), pb.Node(uid="u", address="a"), pb.Node(uid="u"), "change node n1"),
        (
            KEYS.denied,
            pb.DenyList(certificates=[pb.DeniedCertificate(name="operator:bob"), pb.DeniedCertificate(serial="1f")]),
            pb.DenyList(certificates=[pb.DeniedCertificate(serial="1f")]),
            "deny operator:bob",
        ),
        (KEYS.operator_access("ann"), access((Role.EXEC, "*")), None, "grant ann: exec in all environments"),
        (
            KEYS.operator_access("ann"),
            access((Role.EXEC, "acme/*")),
            access((Role.VIEWER, "*")),
            "grant ann: exec in acme/*; revoke from ann: viewer in all environments",
        ),
        (
            KEYS.operator_access("ci"),
            pb.OperatorAccess(name="ci", tokens=[pb.TokenCertificate(serial="1f"), pb.TokenCertificate(serial="2e")]),
            pb.OperatorAccess(name="ci", tokens=[pb.TokenCertificate(serial="1f")]),
            "create a token for ci with the serial number 2e",
        ),
        (KEYS.gateways, pb.Gateways(), None, "write the addresses of the gateways"),
        (KEYS.operator("ann"), pb.Operator(name="ann"), None, "write age recipient ann"),
    ],
)
def test_change_of_a_record(key: str, record: Message, before: Message | None, summary: str) -> None:
    stored = {key: encode(before) if before is not None else None}
    assert written(put(key, record), stored=stored).summary == summary


def test_unknown_record_before_is_not_taken_for_none() -> None:
    granted = written(put(KEYS.operator_access("ann"), access((Role.EXEC, "acme/*"))))
    assert granted.summary == "set the access of ann: exec in acme/*"
    assert granted.environments == ("acme/*",)
    assert written(put(KEYS.node("n1"), pb.Node(name="n1"))).summary == "write node n1"


@pytest.mark.parametrize(
    "key", ["/v1/nodes/../x", "/v1/unknown/x", "/elsewhere", "/v1/releases/acme", "/v1/secrets/a/b"]
)
def test_key_of_no_record_is_told_as_it_is(key: str) -> None:
    found = describe_request(KEYS, rpc.PutRequest(key=key.encode(), value=b"garbage"))
    assert found.summary == f"write {key.removeprefix('/v1/')}"


def test_garbage_is_told_by_its_key() -> None:
    request = rpc.PutRequest(key=KEYS.node("n1").encode(), value=b"\xff")
    assert describe_request(KEYS, request) == Description("write nodes/n1", (), ("n1",), ("nodes/n1",))


def test_deletions_name_records_and_ranges() -> None:
    one = rpc.DeleteRangeRequest(key=WEB_SECRET.encode())
    assert describe_request(KEYS, one).summary == "delete secret TOKEN of web in acme/shop/production"
    prefix = KEYS.releases_prefix(REF).encode()
    many = describe_request(KEYS, rpc.DeleteRangeRequest(key=prefix, range_end=end_of(prefix)))
    assert many.summary == "delete releases/acme/shop/production/*"
    assert many.environments == (str(REF),)
    removal = describe_writes(KEYS, [], [KeyRange(KEYS.node("n1").encode()), KeyRange(KEYS.heartbeat("n1").encode())])
    assert (removal.summary, removal.nodes) == ("delete node n1", ("n1",))


@pytest.mark.parametrize(
    ("keys", "environments"),
    [
        (below("/v1/"), ("*",)),
        (below("/v1/releases/"), ("*",)),
        (below("/v1/releases/acme/"), ("acme/*",)),
        (below("/v1/releases/acme/shop/"), ("acme/shop/*",)),
        (below("/v1/status/n1/acme/shop/"), ("acme/shop/*",)),
        (KeyRange(KEYS.status("n1", REF).encode()), (str(REF),)),
        (below("/v1/nodes/"), ()),
        (below("/elsewhere/"), ()),
        (KeyRange(b"/v1/secrets/", b"\0"), ()),
    ],
)
def test_environments_of_a_range(keys: KeyRange, environments: tuple[str, ...]) -> None:
    assert describe_reads(KEYS, [keys]).environments == environments


def test_refused_transaction_is_told_by_what_it_would_have_done() -> None:
    request = rpc.TxnRequest(
        success=[rpc.RequestOp(request_put=put(KEYS.release(REF, 7), pb.Release(number=7)))],
        failure=[rpc.RequestOp(request_range=rpc.RangeRequest(key=b"/v1/nodes/n1"))],
    )
    assert describe_request(KEYS, request).summary == "deploy release 7 of acme/shop/production"
    # The write may be in either branch.
    other = rpc.TxnRequest(success=request.failure, failure=request.success)
    assert describe_request(KEYS, other).summary == "deploy release 7 of acme/shop/production"
    del request.success[:]
    assert describe_request(KEYS, request).summary == "read nodes/n1"
    assert describe_request(KEYS, None) == Description("")


def test_many_changes_are_counted() -> None:
    puts = [put(KEYS.secret(REF, "web", f"S{number}"), secret(1)) for number in range(20)]
    summary = written(*puts).summary
    assert summary.endswith("set secret S5 of web in acme/shop/production; and 14 more")


def test_secret_ranges_are_those_that_may_have_secrets() -> None:
    everything, nodes, one = below("/v1/"), below("/v1/nodes/"), KeyRange(WEB_SECRET.encode())
    assert secret_ranges(KEYS, [everything, nodes, one]) == [below("/v1/secrets/"), one]
    assert describe_reads(KEYS, secret_ranges(KEYS, [everything])).summary == "read secrets/*"
