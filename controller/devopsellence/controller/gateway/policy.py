"""Decisions on requests: allowed, filtered, or refused with a reason. Pure.

Whatever is not understood is refused: unknown fields and values, nested transactions, options that no client of this
project uses. A request is passed on as it was parsed here, so etcd cannot read it differently.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Final

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from devopsellence.controller.gateway.caller import Caller, Role
from devopsellence.controller.gateway.grants import KeyRange, Right
from devopsellence.controller.gateway.leases import owns
from devopsellence.controller.gateway.limits import WriteCost
from devopsellence.controller.gateway.records import check_record, is_compared_with_stored, kind_name
from devopsellence.controller.gateway.refusal import denied, invalid, unsupported
from devopsellence.etcd.v3 import etcd_pb2 as rpc
from devopsellence.store.keys import EnvironmentRef, Keys

#: Limit of compares, and of operations of one branch: etcd's own.
MOST_TXN_OPERATIONS: Final = 128
#: Longest key in bytes; the longest of a record has about 600.
LONGEST_KEY: Final = 1024
#: Statuses of a node for environments without an assignment on it, such as after etcd was restored.
UNASSIGNED_STATUSES: Final = 50
#: Kinds of records that are bound to a lease, and no others.
_EXPIRING: Final = ("heartbeats", "events")
_REVISION_FILTERS: Final = ("min_mod_revision", "max_mod_revision", "min_create_revision", "max_create_revision")


class ReadMode(Enum):
    #: Every key of the range may be read.
    WHOLE = auto()
    #: Keys that may not be read are removed from the answer.
    FILTERED = auto()


@dataclass(frozen=True)
class Facts:
    """State of etcd, as far as a decision needs it, see :func:`needed_facts`."""

    #: Values by key; None for a key that does not exist.
    stored: Mapping[str, bytes | None] = field(default_factory=dict)
    #: Number of statuses of the node that calls.
    statuses: int = 0


@dataclass(frozen=True)
class NeededFacts:
    """Keys to look up before a decision; ``count_statuses``: also the number of the node's statuses."""

    stored: frozenset[str] = frozenset()
    count_statuses: bool = False

    def __bool__(self) -> bool:
        return bool(self.stored) or self.count_statuses


def check_understood(message: Message) -> None:
    """Check that a request has nothing that this version does not know.

    Raises:
        Refused: an unknown field, or an unknown value of an enumeration.
    """
    known = type(message)()
    known.CopyFrom(message)
    known.DiscardUnknownFields()
    if known.ByteSize() != message.ByteSize():
        raise unsupported(f"{message.DESCRIPTOR.name} has a field that the gateway does not know")
    _check_enums(message)


def _check_enums(message: Message) -> None:
    for descriptor, value in message.ListFields():
        values = value if descriptor.is_repeated else (value,)
        if descriptor.type == FieldDescriptor.TYPE_MESSAGE:
            for child in values:
                _check_enums(child)
        elif descriptor.type == FieldDescriptor.TYPE_ENUM and descriptor.enum_type is not None:
            for number in values:
                if number not in descriptor.enum_type.values_by_number:
                    raise unsupported(f"{descriptor.full_name} is {number}, which the gateway does not know")


def check_range(caller: Caller, request: rpc.RangeRequest) -> ReadMode:
    """Decide on a read.

    Raises:
        Refused: the caller is a node, and the range is not granted as a whole; or the range is outside of the prefix.
    """
    for name in _REVISION_FILTERS:
        if getattr(request, name) and not caller.is_trusted:
            raise unsupported(f"{name} of a read")
    if request.limit < 0 or request.revision < 0:
        raise invalid("a negative limit or revision")
    return _read_mode(caller, KeyRange(request.key, request.range_end))


def check_watch(caller: Caller, request: rpc.WatchCreateRequest) -> ReadMode:
    """Decide on a watch, as :func:`check_range` does."""
    if request.start_revision < 0:
        raise invalid("a negative start revision")
    return _read_mode(caller, KeyRange(request.key, request.range_end))


def _read_mode(caller: Caller, keys: KeyRange) -> ReadMode:
    _check_keys(keys)
    if caller.grants.allow(Right.READ, keys):
        return ReadMode.WHOLE
    if caller.role is Role.NODE or keys.clipped(caller.grants.prefix) is None:
        raise denied(f"{caller.identity} may not read {_shown(keys)}")
    return ReadMode.FILTERED


def needed_facts(caller: Caller, keys: Keys, puts: Sequence[rpc.PutRequest], known: set[str]) -> NeededFacts:
    """Return what has to be looked up before :func:`check_put`; ``known``: environments that need not be looked up."""
    if caller.is_trusted:
        return NeededFacts()
    wanted: set[str] = set()
    count = False
    for put in puts:
        key = _text(put.key)
        if is_compared_with_stored(keys, key):
            wanted.add(key)
        ref = _environment_of_report(caller, keys, key)
        if ref is not None and str(ref) not in known:
            wanted.add(keys.assignment(caller.name, ref))
            count = True
    return NeededFacts(frozenset(wanted), count)


def check_put(
    caller: Caller, keys: Keys, put: rpc.PutRequest, facts: Facts, known: set[str], *, creates: bool = False
) -> None:
    """Decide on a write; ``creates``: the request writes only if the key does not exist.

    Raises:
        Refused: the key is not granted, the value is no record for it, or the lease belongs to somebody else.
    """
    key_range = KeyRange(put.key)
    _check_keys(key_range)
    if not caller.grants.allow(Right.WRITE, key_range):
        raise denied(f"{caller.identity} may not write {_shown(key_range)}")
    if put.prev_kv and not caller.grants.allow(Right.READ, key_range):
        raise denied(f"{caller.identity} may not read {_shown(key_range)}, the value before")
    if caller.is_trusted:
        return
    if put.ignore_value or put.ignore_lease:
        raise unsupported("ignore_value and ignore_lease of a write")
    if put.lease and not owns(caller.identity, put.lease):
        raise denied(f"lease {put.lease:x} was not granted to {caller.identity}")
    key = _text(put.key)
    kind = kind_name(keys, key)
    if kind == "releases" and not creates:
        raise denied(f"{key}: a release is written once, by a transaction that compares its create revision with 0")
    if bool(put.lease) is not (kind in _EXPIRING) and (put.lease or caller.role is Role.NODE):
        # Else a report would stay for ever, or a release vanish and be written again.
        raise denied(f"{key}: a record of this kind {'has no' if put.lease else 'is bound to a'} lease")
    # First, so that nothing is told about the events of other environments.
    _check_business(caller, keys, key, facts, known)
    check_record(caller, keys, key, put.value, facts.stored.get(key))


def _check_business(caller: Caller, keys: Keys, key: str, facts: Facts, known: set[str]) -> None:
    """Check that a node reports about an environment that is assigned to it."""
    ref = _environment_of_report(caller, keys, key)
    if ref is None or str(ref) in known or facts.stored.get(keys.assignment(caller.name, ref)) is not None:
        return
    if kind_name(keys, key) == "events" or facts.statuses >= UNASSIGNED_STATUSES:
        raise denied(f"{key}: {ref} is not assigned to node {caller.name}")


def reported_environments(caller: Caller, keys: Keys, puts: Sequence[rpc.PutRequest]) -> set[str]:
    """Return the environments that a node's writes report about, as text."""
    refs = (_environment_of_report(caller, keys, _text(put.key)) for put in puts)
    return {str(ref) for ref in refs if ref is not None}


def _environment_of_report(caller: Caller, keys: Keys, key: str) -> EnvironmentRef | None:
    if caller.role is not Role.NODE:
        return None
    try:
        match kind_name(keys, key):
            case "status":
                return keys.parse_assignment(key)[1]
            case "events":
                return keys.parse_event(key)[0]
            case _:
                return None
    except ValueError:
        return None


def check_delete(caller: Caller, request: rpc.DeleteRangeRequest) -> None:
    """Decide on a deletion.

    Raises:
        Refused: a key of the range is not granted.
    """
    key_range = KeyRange(request.key, request.range_end)
    _check_keys(key_range)
    if not caller.grants.allow(Right.DELETE, key_range):
        raise denied(f"{caller.identity} may not delete {_shown(key_range)}")
    if request.prev_kv and not caller.grants.allow(Right.READ, key_range):
        raise denied(f"{caller.identity} may not read {_shown(key_range)}, the values before")


def check_txn(caller: Caller, keys: Keys, request: rpc.TxnRequest, facts: Facts, known: set[str]) -> None:
    """Decide on a transaction: every compare, and every operation of both branches.

    Raises:
        Refused: any of them is refused, or reads keys that are not granted.
    """
    if any(len(part) > MOST_TXN_OPERATIONS for part in (request.compare, request.success, request.failure)):
        raise invalid(f"a transaction has {MOST_TXN_OPERATIONS} compares and operations at most")
    for compare in request.compare:
        _check_compare(caller, compare)
    absent = {bytes(compare.key) for compare in request.compare if _requires_absence(compare)}
    for operation in request.success:
        _check_operation(caller, keys, operation, facts, known, absent)
    for operation in request.failure:
        # Reached because a compare failed, maybe that very one.
        _check_operation(caller, keys, operation, facts, known, set())


def _check_compare(caller: Caller, compare: rpc.Compare) -> None:
    if compare.range_end:
        raise unsupported("a compare of a range")
    key_range = KeyRange(compare.key)
    _check_keys(key_range)
    if not caller.grants.allow(Right.READ, key_range):
        raise denied(f"{caller.identity} may not compare {_shown(key_range)}, which it may not read")


def _requires_absence(compare: rpc.Compare) -> bool:
    return (
        compare.result == rpc.Compare.EQUAL
        and compare.target == rpc.Compare.CREATE
        and compare.WhichOneof("target_union") == "create_revision"
        and compare.create_revision == 0
    )


def _check_operation(
    caller: Caller, keys: Keys, operation: rpc.RequestOp, facts: Facts, known: set[str], absent: set[bytes]
) -> None:
    match operation.WhichOneof("request"):
        case "request_range":
            if check_range(caller, operation.request_range) is ReadMode.FILTERED:
                requested = KeyRange(operation.request_range.key, operation.request_range.range_end)
                raise denied(f"{caller.identity} may not read all of {_shown(requested)} in a transaction")
        case "request_put":
            put = operation.request_put
            check_put(caller, keys, put, facts, known, creates=bytes(put.key) in absent)
        case "request_delete_range":
            check_delete(caller, operation.request_delete_range)
        case "request_txn":
            raise denied("a transaction within a transaction")
        case _:
            raise unsupported("an operation that the gateway does not know")


def puts_of(request: rpc.TxnRequest) -> list[rpc.PutRequest]:
    """Return the writes of both branches of a transaction."""
    return [operation.request_put for operation in _operations(request) if operation.HasField("request_put")]


def cost_of(keys: Keys, puts: Sequence[rpc.PutRequest], deletes: int = 0) -> WriteCost:
    """Return the cost of writes and deletions."""
    sizes = [(kind_name(keys, _text(put.key)) == "events", len(put.key) + len(put.value)) for put in puts]
    return WriteCost(
        writes=len(puts) + deletes,
        written_bytes=sum(size for _, size in sizes),
        events=sum(is_event for is_event, _ in sizes),
        event_bytes=sum(size for is_event, size in sizes if is_event),
    )


def cost_of_txn(keys: Keys, request: rpc.TxnRequest) -> WriteCost:
    """Return the cost of a transaction, whichever branch is taken."""
    deletes = sum(operation.HasField("request_delete_range") for operation in _operations(request))
    return cost_of(keys, puts_of(request), deletes)


def _operations(request: rpc.TxnRequest) -> Iterator[rpc.RequestOp]:
    yield from request.success
    yield from request.failure


def _check_keys(keys: KeyRange) -> None:
    if not keys.first:
        raise invalid("an empty key")
    if max(len(keys.first), len(keys.end)) > LONGEST_KEY:
        raise invalid(f"a key has {LONGEST_KEY} bytes at most")
    if keys.is_empty:
        raise invalid(f"the range {_shown(keys)} ends before it begins")


def _shown(keys: KeyRange) -> str:
    first = _text(keys.first)
    return first if keys.is_single else f"{first}…{_text(keys.end)}"


def _text(key: bytes) -> str:
    """Return a key as text; a key that is not UTF-8 becomes one that no record has."""
    return key.decode(errors="backslashreplace")
