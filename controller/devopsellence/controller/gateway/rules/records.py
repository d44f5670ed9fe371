"""Checks of values before they are written: each parses as its key's message, and names nobody but its writer. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from google.protobuf.message import Message

from devopsellence.access.denied import check_denial
from devopsellence.access.patterns import ANY
from devopsellence.access.rights import InvalidAccess, rights_of
from devopsellence.access.roles import Action
from devopsellence.api.v1 import stored_pb2 as pb
from devopsellence.certificates.trust import check_authorities
from devopsellence.controller.gateway.rules.caller import Caller, Role
from devopsellence.controller.gateway.rules.refusal import denied, invalid
from devopsellence.gateways import gateway_addresses
from devopsellence.store.codec import parse
from devopsellence.store.errors import MalformedRecord
from devopsellence.store.keys import EnvironmentRef, Keys
from devopsellence.store.size import MAX_RECORD_BYTES, REPORT_BYTES, RecordTooLarge, bounded

#: Source of the events that operators write.
OPERATOR_SOURCE: Final = "cli"
_COMPARED: Final = (
    *("nodes", "secrets", "certificates", "events", "environments", "operators"),
    *("access/operators", "access/denied"),
)
_Fields = Mapping[str, object]


@dataclass(frozen=True, slots=True)
class RecordKind:
    """Kind of record: the message, and the fields that repeat parts of the key."""

    message: type[Message]
    fields: Callable[[Keys, str], _Fields]


def _of_environment(ref: EnvironmentRef, **more: object) -> _Fields:
    return {
        "organization": ref.organization,
        "project": ref.project,
        "environment": ref.environment,
        **more,
    }


def _release(keys: Keys, key: str) -> _Fields:
    ref, number = keys.parse_release(key)
    return _of_environment(ref, number=number)


def _secret(keys: Keys, key: str) -> _Fields:
    ref, service, name = keys.parse_secret(key)
    return _of_environment(ref, service=service, name=name)


def _certificate(keys: Keys, key: str) -> _Fields:
    ref, host = keys.parse_certificate(key)
    return _of_environment(ref, host=host)


def _status(keys: Keys, key: str) -> _Fields:
    node, ref = keys.parse_assignment(key)
    return _of_environment(ref, node=node)


def _event(keys: Keys, key: str) -> _Fields:
    keys.parse_event(key)
    return {}


#: Kinds of records that nodes and operators write, by what :func:`kind_name` returns.
KINDS: Final[Mapping[str, RecordKind]] = {
    "nodes": RecordKind(pb.Node, lambda keys, key: {"name": keys.parse_node(key)}),
    "heartbeats": RecordKind(pb.Heartbeat, lambda keys, key: {"node": keys.parse_node(key)}),
    "operators": RecordKind(pb.Operator, lambda keys, key: {"name": keys.parse_operator(key)}),
    "access/operators": RecordKind(pb.OperatorAccess, lambda keys, key: {"name": keys.parse_operator_access(key)}),
    "access/denied": RecordKind(pb.DenyList, lambda keys, key: {}),
    "access/gateways": RecordKind(pb.Gateways, lambda keys, key: {}),
    "access/authorities": RecordKind(pb.Authorities, lambda keys, key: {}),
    "environments": RecordKind(pb.Environment, lambda keys, key: _of_environment(keys.parse_environment(key))),
    "releases": RecordKind(pb.Release, _release),
    "secrets": RecordKind(pb.Secret, _secret),
    "certificates": RecordKind(pb.Certificate, _certificate),
    "status": RecordKind(pb.AssignmentStatus, _status),
    "events": RecordKind(pb.Event, _event),
}


def kind_name(keys: Keys, key: str) -> str:
    """Return what names the kind of record: the first part of ``key`` below the prefix, two of them under access."""
    kind, _, rest = key.removeprefix(keys.prefix).partition("/")
    return f"{kind}/{rest.partition('/')[0]}" if kind == "access" else kind


def is_compared_with_stored(keys: Keys, key: str) -> bool:
    """Return True if :func:`check_record` needs the record that ``key`` has now."""
    return kind_name(keys, key) in _COMPARED


def check_record(caller: Caller, keys: Keys, key: str, value: bytes, stored: bytes | None) -> None:
    """Check a value before the caller writes it at ``key``; ``stored`` is the value there now, if needed.

    Raises:
        Refused: the value is no record of the key's kind, is too large, or names somebody else.
    """
    kind = KINDS.get(kind_name(keys, key))
    if kind is None:
        raise denied(f"{key}: records of this kind are not written through the gateway")
    message = _parsed(kind, keys, key, value)
    if caller.role is Role.NODE:
        _check_report(caller, key, message, value, stored)
    elif isinstance(message, pb.Event):
        if stored is not None:
            raise denied(f"{key}: the event exists already")
        if message.source != OPERATOR_SOURCE:
            raise denied(f"{key}: an operator's event has the source {OPERATOR_SOURCE!r}, not {message.source!r}")
    elif caller.role is Role.OPERATOR:
        before = _stored(kind, key, stored)
        _check_authors(caller.name, key, message, before)
        _check_rights(caller, key, message, before)


def _parsed(kind: RecordKind, keys: Keys, key: str, value: bytes) -> Message:
    name = kind.message.DESCRIPTOR.name
    limit = REPORT_BYTES.get(name, MAX_RECORD_BYTES)
    if len(value) > limit:
        raise invalid(f"{key}: {len(value)} bytes, and a {name} has {limit} at most")
    try:
        expected = kind.fields(keys, key)
        message = parse(kind.message, key, value)
        _check_content(message)
        if bounded(message) is not message:
            raise invalid(f"{key}: a text of the {name} is too long")
    except (MalformedRecord, RecordTooLarge) as error:
        raise invalid(str(error)) from error
    except ValueError as error:
        raise invalid(f"{key}: {error}") from error
    for field, wanted in expected.items():
        if (found := getattr(message, field)) != wanted:
            raise denied(f"{key}: {field} is {found!r}, which is not the key's {wanted!r}")
    return message


def _check_content(message: Message) -> None:
    """Check what a record of access says, whoever writes it.

    Raises:
        ValueError: no reader could use it.
    """
    match message:
        case pb.Gateways():
            gateway_addresses(message)
        case pb.Authorities():
            check_authorities(message)
        case pb.OperatorAccess():
            rights_of(message)
        case pb.DenyList():
            for entry in message.certificates:
                check_denial(entry)
        case _:
            pass


def _check_report(caller: Caller, key: str, message: Message, value: bytes, stored: bytes | None) -> None:
    """Check that a record of a node is about that node and its machine."""
    match message:
        case pb.Heartbeat() if message.uid != caller.uid:
            raise denied(f"{key}: uid is {message.uid!r}, and the certificate's is {caller.uid!r}")
        case pb.AssignmentStatus() if message.node_uid != caller.uid:
            raise denied(f"{key}: node_uid is {message.node_uid!r}, and the certificate's is {caller.uid!r}")
        case pb.Event():
            # The same again, after an answer that was lost, changes nothing.
            if stored is not None and stored != value:
                raise denied(f"{key}: the event exists already")
            if (message.node, message.source) != (caller.name, f"agent/{caller.name}"):
                raise denied(f"{key}: the event is by {message.source!r} about node {message.node!r}")
        case _:
            pass


def _stored(kind: RecordKind, key: str, stored: bytes | None) -> Message | None:
    """Return the record to be replaced; an unreadable one names nobody."""
    try:
        return parse(kind.message, key, stored) if stored is not None else None
    except MalformedRecord:
        return None


def _check_authors(operator: str, key: str, message: Message, before: Message | None) -> None:
    """Check that every author that the stored record does not name yet is the operator: ``ann`` or ``ann@laptop``."""
    known = set(_authors(before)) if before is not None else set()
    for entry in _authors(message):
        author = entry[-1]
        if entry not in known and author.partition("@")[0] != operator:
            raise denied(f"{key}: written by {author!r}, and the certificate's operator is {operator!r}")


def _check_rights(caller: Caller, key: str, message: Message, before: Message | None) -> None:
    """Check a record by the rights of the operator, where these depend on what changes."""
    match message:
        case pb.OperatorAccess():
            _check_granting(caller, key, message, before)
        case pb.Operator():
            owners = {message.operator, before.operator if isinstance(before, pb.Operator) else ""} - {""}
            may_approve = caller.rights.permit_somewhere(Action.DENY)
            # A token's, by whoever can decrypt as much itself: otherwise a key of one's own could get somebody's name.
            may_add = may_approve and caller.rights.permit(Action.WRITE_SECRETS, ANY) and bool(message.operator)
            is_allowed = may_add if before is None else may_approve and _differs_in("approval", message, before)
            if owners != {caller.name} and not is_allowed:
                raise denied(f"{key}: a recipient of {', '.join(sorted(owners)) or 'nobody'}, not of {caller.name!r}")
        case pb.Environment():
            path = f"{message.organization}/{message.project}/{message.environment}"
            if not caller.rights.permit(Action.DEPLOY, path) and not _differs_in("nodes", message, before):
                raise denied(f"{key}: operator {caller.name} may change the nodes of the environment, and nothing else")
        case _:
            pass


def _check_granting(caller: Caller, key: str, message: pb.OperatorAccess, before: Message | None) -> None:
    try:
        held = rights_of(before).grants if isinstance(before, pb.OperatorAccess) else frozenset()
    except InvalidAccess:
        # It gives nothing.
        held = frozenset()
    wanted = rights_of(message).grants
    for role, pattern in sorted(wanted - held):
        if not caller.rights.permit_granting(role, pattern):
            raise denied(
                f"{key}: operator {caller.name} may not grant {role} in {pattern}, which exceeds its own roles"
            )
    for role, pattern in sorted(held - wanted):
        if not caller.rights.permit(Action.GRANT, pattern):
            raise denied(f"{key}: operator {caller.name} may not revoke {role} in {pattern}")
    former = before if isinstance(before, pb.OperatorAccess) else pb.OperatorAccess()
    if (list(message.tokens), message.admission) != (list(former.tokens), former.admission):
        # Certificates and recipients hang on them, in all environments of the operator.
        for role, pattern in sorted(wanted | held):
            if not caller.rights.permit_granting(role, pattern):
                raise denied(f"{key}: operator {caller.name} may not grant {role} in {pattern}, which the operator has")


def _differs_in(field: str, message: Message, before: Message | None) -> bool:
    """Return True if a record is the one before but for a field."""
    if not isinstance(before, type(message)):
        return False
    earlier, later = type(message)(), type(message)()
    for copy, record in ((earlier, before), (later, message)):
        copy.CopyFrom(record)
        copy.ClearField(field)
    return earlier == later


def _authors(record: Message) -> Iterator[tuple[Any, ...]]:
    """Yield the authors that a record names, each with the part of the record that the author wrote."""
    match record:
        case pb.Release():
            yield (record.created_by,)
        case pb.Secret():
            for version in record.versions:
                yield version.version, version.set_by
        case pb.Node() if record.HasField("drain"):
            yield (record.drain.requested_by,)
        case pb.Certificate() if record.obtained_by:
            yield record.serial, record.obtained_by
        case _:
            pass
