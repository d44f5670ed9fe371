"""Requests in words: imperative, as "deploy release 7 of acme/shop/production", with environments and nodes. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from google.protobuf.message import Message

from devopsellence.access.patterns import ANY
from devopsellence.access.rights import InvalidAccess, rights_of
from devopsellence.agent_identity import JOIN_PREFIX
from devopsellence.api.v1 import stored_pb2 as pb
from devopsellence.api.v1.certificates_pb2 import JoinRequest, RenewRequest, SignRequest
from devopsellence.controller.gateway.rules.grants import KeyRange, text_of
from devopsellence.controller.gateway.rules.policy import puts_in, read_in, written_in
from devopsellence.controller.gateway.rules.records import KINDS, RecordKind, kind_name
from devopsellence.etcd.v3 import etcd_pb2 as rpc
from devopsellence.store.codec import parse
from devopsellence.store.errors import MalformedRecord
from devopsellence.store.keys import REGISTRY, Keys

#: Kinds of records that come with others of more interest, most boring last.
_COMPANIONS: Final = ("environments", "operators", "status", "rollouts", "heartbeats", "events")
#: Parts of a key before the environment's path, by kind.
_BEFORE_PATH: Final[Mapping[str, int]] = {
    **dict.fromkeys(("environments", "releases", "rollouts", "secrets", "certificates", "events"), 1),
    **dict.fromkeys(("assignments", "status", "ingress"), 2),
}
_OF_NODES: Final = frozenset({"nodes", "heartbeats", "assignments", "status", "ingress"})
_DEPTH: Final = 3
_MOST_PHRASES: Final = 6
_Stored = Mapping[str, bytes | None]


@dataclass(frozen=True)
class Description:
    """Description of a request."""

    summary: str
    environments: tuple[str, ...] = ()
    nodes: tuple[str, ...] = ()
    keys: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Phrase:
    """Part of a description, about one key or range. ``patterns``, ``nodes``: besides those of the key."""

    kind: str
    text: str
    patterns: tuple[str, ...] = ()
    nodes: tuple[str, ...] = ()


def describe_request(keys: Keys, request: Message | None) -> Description:
    """Describe a request that was not carried out."""
    match request:
        case rpc.PutRequest():
            return describe_writes(keys, [request], [KeyRange(request.key)])
        case rpc.DeleteRangeRequest():
            return describe_writes(keys, [], [KeyRange(request.key, request.range_end)])
        case rpc.TxnRequest():
            operations = [*request.success, *request.failure]
            if written := written_in(operations):
                return describe_writes(keys, puts_in(operations), written)
            return describe_reads(keys, read_in(operations))
        case rpc.RangeRequest() | rpc.WatchCreateRequest():
            return describe_reads(keys, [KeyRange(request.key, request.range_end)])
        case RenewRequest():
            return Description("renew a certificate of its own")
        case SignRequest():
            return Description(f"sign a certificate for {request.identity}")
        case JoinRequest():
            return Description(f"join as node {request.node}", nodes=(request.node,))
        case _:
            return Description("")


def describe_writes(
    keys: Keys, puts: Sequence[rpc.PutRequest], written: Sequence[KeyRange], stored: _Stored | None = None
) -> Description:
    """Describe writes and deletions; ``stored`` has values before, by key, as far as they are known."""
    values = {bytes(put.key): bytes(put.value) for put in puts}
    phrases = [
        _put(keys, text_of(key.first), values[key.first], stored)
        if key.is_single and key.first in values
        else _deletion(keys, key)
        for key in written
    ]
    return _described(keys, written, phrases)


def describe_reads(keys: Keys, ranges: Sequence[KeyRange]) -> Description:
    """Describe reads and watches."""
    return _described(keys, ranges, [_Phrase("", f"read {_shown(keys, key)}") for key in ranges])


def secret_ranges(keys: Keys, ranges: Iterable[KeyRange]) -> list[KeyRange]:
    """Return those of the ranges that can have secrets, cut to these."""
    prefix = keys.all_secrets_prefix.encode()
    return [cut for key in ranges if (cut := key.clipped(prefix)) is not None]


def _described(keys: Keys, ranges: Sequence[KeyRange], phrases: Sequence[_Phrase]) -> Description:
    environments = [pattern for key in ranges if (pattern := environments_of(keys, key))]
    environments += [pattern for phrase in phrases for pattern in phrase.patterns]
    nodes = [node for key in ranges if (node := _node_of(keys, key))]
    nodes += [node for phrase in phrases for node in phrase.nodes]
    texts = list(dict.fromkeys(phrase.text for phrase in _important(phrases)))
    more = [f"and {len(texts) - _MOST_PHRASES} more"] if len(texts) > _MOST_PHRASES else []
    return Description(
        "; ".join([*texts[:_MOST_PHRASES], *more]),
        tuple(dict.fromkeys(environments)),
        tuple(dict.fromkeys(nodes)),
        tuple(_shown(keys, key) for key in ranges),
    )


def _important(phrases: Sequence[_Phrase]) -> Sequence[_Phrase]:
    """Leave out records that accompany others."""
    left = phrases
    for kind in reversed(_COMPANIONS):
        left = [phrase for phrase in left if phrase.kind != kind] or left
    return left


def environments_of(keys: Keys, key: KeyRange) -> str:
    """Return the pattern of the environments that a key or range is about; "" if about none."""
    parts = _parts(keys, key)
    if parts is None:
        return ""
    kind, path = (parts or ("",))[0], parts[_BEFORE_PATH.get((parts or ("",))[0], 0) :]
    if not kind:
        return ANY
    if kind not in _BEFORE_PATH:
        return ""
    return "/".join(path[:_DEPTH] if len(path) >= _DEPTH else (*path, ANY))


def _node_of(keys: Keys, key: KeyRange) -> str:
    parts = _parts(keys, key)
    return parts[1] if parts and parts[0] in _OF_NODES and len(parts) > 1 else ""


def _parts(keys: Keys, key: KeyRange) -> tuple[str, ...] | None:
    """Return the parts below the prefix that all keys of a range have in common; None outside of the prefix."""
    shared = text_of(key.first if key.is_single else key.enclosing_prefix())
    if not shared.startswith(keys.prefix):
        return None
    return tuple(part for part in shared.removeprefix(keys.prefix).split("/") if part)


def _shown(keys: Keys, key: KeyRange) -> str:
    """Return a key or range as text, without the prefix of all keys."""
    if key.is_single:
        return text_of(key.first).removeprefix(keys.prefix)
    if key.end and (prefix := key.enclosing_prefix()).startswith(keys.prefix.encode()):
        return f"{text_of(prefix).removeprefix(keys.prefix)}*"
    return str(key)


def _deletion(keys: Keys, key: KeyRange) -> _Phrase:
    name = _shown(keys, key)
    kind = name.partition("/")[0]
    what = name
    if key.is_single and (words := _NAMES.get(kind_name(keys, text_of(key.first)))):
        try:
            what = words(keys, text_of(key.first))
        except ValueError:
            what = name
    return _Phrase(kind, f"delete {what}")


def _secret_name(keys: Keys, key: str) -> str:
    ref, service, name = keys.parse_secret(key)
    return f"secret {name} of {'the registry' if service == REGISTRY else service} in {ref}"


def _release_name(keys: Keys, key: str) -> str:
    ref, number = keys.parse_release(key)
    return f"release {number} of {ref}"


def _certificate_name(keys: Keys, key: str) -> str:
    ref, host = keys.parse_certificate(key)
    return f"the certificate of {host} in {ref}"


#: Names of records in a sentence, by kind. Each raises ValueError for a key of another form.
_NAMES: Final[Mapping[str, Callable[[Keys, str], str]]] = {
    "nodes": lambda keys, key: f"node {keys.parse_node(key)}",
    "operators": lambda keys, key: f"age recipient {keys.parse_operator(key)}",
    "access/operators": lambda keys, key: f"the access of operator {keys.parse_operator_access(key)}",
    "access/denied": lambda keys, key: "the deny-list",
    "access/gateways": lambda keys, key: "the addresses of the gateways",
    "access/authorities": lambda keys, key: "the authorities that everybody trusts",
    "access/certificates": lambda keys, key: f"certificate {keys.parse_issued_certificate(key)}",
    "access/joins": lambda keys, key: f"the join token with the serial number {keys.parse_used_join_token(key)}",
    "environments": lambda keys, key: f"environment {keys.parse_environment(key)}",
    "releases": _release_name,
    "secrets": _secret_name,
    "certificates": _certificate_name,
}


#: Kinds of records that callers write, and that a gateway writes for them.
_KINDS: Final = {
    **KINDS,
    "access/certificates": RecordKind(pb.IssuedCertificate, lambda keys, key: {}),
    "access/joins": RecordKind(pb.UsedJoinToken, lambda keys, key: {}),
}


def _put(keys: Keys, key: str, value: bytes, stored: _Stored | None) -> _Phrase:
    kind = kind_name(keys, key)
    short = kind.partition("/")[0]
    name = key.removeprefix(keys.prefix)
    record_kind = _KINDS.get(kind)
    if record_kind is None or (words := _NAMES.get(kind)) is None:
        return _Phrase(short, f"write {name}")
    message = _parsed(record_kind, key, value)
    try:
        what = words(keys, key) if message is not None else ""
    except ValueError:
        what = ""
    if message is None or not what:
        return _Phrase(short, f"write {name}")
    before = _parsed(record_kind, key, (stored or {}).get(key))
    is_known = stored is not None and key in stored
    if isinstance(message, pb.OperatorAccess):
        return _granting(message, before if isinstance(before, pb.OperatorAccess) else None, is_known=is_known)
    nodes = (message.node,) if isinstance(message, pb.IssuedCertificate) and message.node else ()
    return _Phrase(short, _change(what, message, before, is_known=is_known), nodes=nodes)


def _parsed(kind: RecordKind, key: str, value: bytes | None) -> Message | None:
    """Return a record; None if there is none, or it is unreadable."""
    try:
        return parse(kind.message, key, value) if value is not None else None
    except MalformedRecord:
        return None


def _change(what: str, message: Message, before: Message | None, *, is_known: bool) -> str:
    """Describe a write of a record. ``is_known``: without ``before``, there was none."""
    match message:
        case pb.Release():
            ref = f"{message.organization}/{message.project}/{message.environment}"
            if message.rollback_of:
                return f"roll back {ref} to release {message.rollback_of}, as release {message.number}"
            return f"deploy {what}"
        case pb.Secret():
            versions = {version.version for version in message.versions}
            held = {version.version for version in before.versions} if isinstance(before, pb.Secret) else set()
            if versions and versions <= held:
                return f"change who can decrypt {what}"
            return f"set {what}"
        case pb.Node():
            return _node_change(what, message, before if isinstance(before, pb.Node) else None, is_known=is_known)
        case pb.IssuedCertificate() if message.identity.startswith(JOIN_PREFIX):
            return f"create a join token for {message.node} with the serial number {message.serial}"
        case pb.UsedJoinToken():
            return f"use {what}"
        case pb.IssuedCertificate():
            return f"sign {what} for {message.node or message.identity}"
        case pb.DenyList():
            return _denials(message, before if isinstance(before, pb.DenyList) else None)
        case pb.Environment() if is_known and before is None:
            return f"create {what}"
        case _:
            return f"write {what}"


def _node_change(what: str, node: pb.Node, before: pb.Node | None, *, is_known: bool) -> str:
    if before is None:
        return f"register {what}" if is_known else f"write {what}"
    if node.uid != before.uid:
        return f"register another machine as {what}"
    if node.HasField("drain") and not before.HasField("drain"):
        return f"drain {what}"
    if node.cordoned != before.cordoned:
        return f"{'cordon' if node.cordoned else 'uncordon'} {what}"
    if node.age_recipient != before.age_recipient:
        return f"record the age key of {what}"
    if list(node.labels) != list(before.labels):
        return f"label {what}: {', '.join(node.labels) or 'none'}"
    return f"change {what}"


def _denials(denied: pb.DenyList, before: pb.DenyList | None) -> str:
    def names(record: pb.DenyList) -> set[str]:
        return {entry.name or f"serial number {entry.serial}" for entry in record.certificates}

    held = names(before) if before is not None else set()
    added, removed = sorted(names(denied) - held), sorted(held - names(denied))
    parts = [f"deny {', '.join(added)}"] if added else []
    parts += [f"no longer deny {', '.join(removed)}"] if removed else []
    return "; ".join(parts) or "write the deny-list"


def _granting(access: pb.OperatorAccess, before: pb.OperatorAccess | None, *, is_known: bool) -> _Phrase:
    """Describe a write of access: what it gives and takes, or all that it gives if the record before is unknown."""
    wanted, held = _grants(access), _grants(before) if before is not None else set()
    added, removed = sorted(wanted - held), sorted(held - wanted)
    parts = [f"grant {access.name}: {_listed(added)}"] if added else []
    if not is_known:
        parts = [f"set the access of {access.name}: {_listed(added) or 'none'}"]
    parts += [f"revoke from {access.name}: {_listed(removed)}"] if removed else []
    known = {token.serial for token in before.tokens} if before is not None else set()
    if new := sorted({token.serial for token in access.tokens} - known - {""}):
        parts.append(f"create a token for {access.name} with the serial number {', '.join(new)}")
    patterns = tuple(dict.fromkeys(pattern for _, pattern in (*added, *removed)))
    return _Phrase("access", "; ".join(parts) or f"write the access of {access.name}", patterns)


def _grants(access: pb.OperatorAccess) -> set[tuple[str, str]]:
    try:
        return {(role.value, pattern) for role, pattern in rights_of(access).grants}
    except InvalidAccess:
        return set()


def _listed(grants: Iterable[tuple[str, str]]) -> str:
    return ", ".join(_texts(grants))


def _texts(grants: Iterable[tuple[str, str]]) -> Iterator[str]:
    for role, pattern in grants:
        yield f"{role} in {'all environments' if pattern == ANY else pattern}"
