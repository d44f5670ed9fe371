"""Decisions on requests: allowed, filtered, or refused with a reason. Pure.

Whatever is not understood is refused: unknown fields and values, nested transactions, options that no client of this
project uses. A request is passed on as it was parsed here, so etcd cannot read it differently.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from enum import Enum, auto
from typing import Final

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from devopsellence.controller.gateway.rules.caller import Caller, Role
from devopsellence.controller.gateway.rules.grants import KeyRange, Right, text_of
from devopsellence.controller.gateway.rules.leases import owns
from devopsellence.controller.gateway.rules.limits import WriteCost
from devopsellence.controller.gateway.rules.records import check_record, kind_name
from devopsellence.controller.gateway.rules.refusal import denied, invalid, unsupported
from devopsellence.controller.gateway.rules.reports import Facts, check_reports
from devopsellence.etcd.v3 import etcd_pb2 as rpc
from devopsellence.store.keys import Keys

#: The only call of a join token.
JOIN_METHOD: Final = "Join"
#: Limit of compares, and of operations of one branch: etcd's own.
MOST_TXN_OPERATIONS: Final = 128
#: Longest key in bytes; the longest of a record has about 600.
LONGEST_KEY: Final = 1024
#: Kinds of records that are bound to a lease, and no others.
_EXPIRING: Final = ("heartbeats", "events")
_REVISION_FILTERS: Final = ("min_mod_revision", "max_mod_revision", "min_create_revision", "max_create_revision")


class ReadMode(Enum):
    #: Every key of the range may be read.
    WHOLE = auto()
    #: Keys that may not be read are removed from the answer.
    FILTERED = auto()


def check_method(caller: Caller, method: str) -> None:
    """Check that a join token is used for the one call that it is for, and that nobody else makes that call.

    Raises:
        Refused: it is not so.
    """
    if (caller.role is Role.JOIN) is not (method == JOIN_METHOD):
        raise denied("a join token joins, and nothing else" if caller.role is Role.JOIN else "only a join token joins")


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
        raise denied(f"{caller.identity} may not read {keys}")
    return ReadMode.FILTERED


def check_put(caller: Caller, keys: Keys, put: rpc.PutRequest, facts: Facts, known: set[str]) -> None:
    """Decide on a write; ``known``: see :func:`~devopsellence.controller.gateway.rules.reports.needed_facts`.

    Raises:
        Refused: the key is not granted, the value is no record for it, or the lease belongs to somebody else.
    """
    check_reports(caller, keys, [put], facts, known)
    _check_write(caller, keys, put, facts, creates=False)


def _check_write(caller: Caller, keys: Keys, put: rpc.PutRequest, facts: Facts, *, creates: bool) -> None:
    """Decide on a write; ``creates``: the request writes only if the key does not exist."""
    key_range = KeyRange(put.key)
    _check_keys(key_range)
    if not caller.grants.allow(Right.WRITE, key_range):
        raise denied(f"{caller.identity} may not write {key_range}")
    if put.prev_kv and not caller.grants.allow(Right.READ, key_range):
        raise denied(f"{caller.identity} may not read {key_range}, the value before")
    if caller.is_trusted:
        return
    if put.ignore_value or put.ignore_lease:
        raise unsupported("ignore_value and ignore_lease of a write")
    if put.lease and not owns(caller.identity, put.lease):
        raise denied(f"lease {put.lease:x} was not granted to {caller.identity}")
    key = text_of(put.key)
    kind = kind_name(keys, key)
    if kind == "releases" and not creates:
        raise denied(f"{key}: a release is written once, by a transaction that compares its create revision with 0")
    if bool(put.lease) is not (kind in _EXPIRING) and (put.lease or caller.role is Role.NODE):
        # Else a report would stay for ever, or a release vanish and be written again.
        raise denied(f"{key}: a record of this kind {'has no' if put.lease else 'is bound to a'} lease")
    check_record(caller, keys, key, put.value, facts.stored.get(key))


def check_delete(caller: Caller, request: rpc.DeleteRangeRequest) -> None:
    """Decide on a deletion.

    Raises:
        Refused: a key of the range is not granted.
    """
    key_range = KeyRange(request.key, request.range_end)
    _check_keys(key_range)
    if not caller.grants.allow(Right.DELETE, key_range):
        raise denied(f"{caller.identity} may not delete {key_range}")
    if request.prev_kv and not caller.grants.allow(Right.READ, key_range):
        raise denied(f"{caller.identity} may not read {key_range}, the values before")


def check_txn(caller: Caller, keys: Keys, request: rpc.TxnRequest, facts: Facts, known: set[str]) -> None:
    """Decide on a transaction: every compare, and every operation of both branches.

    Raises:
        Refused: any of them is refused, or reads keys that are not granted.
    """
    if any(len(part) > MOST_TXN_OPERATIONS for part in (request.compare, request.success, request.failure)):
        raise invalid(f"a transaction has {MOST_TXN_OPERATIONS} compares and operations at most")
    for compare in request.compare:
        _check_compare(caller, compare)
    # Before the records, so that nothing is told about the events of other environments.
    check_reports(caller, keys, puts_in(operations_of(request)), facts, known)
    absent = {bytes(compare.key) for compare in request.compare if _requires_absence(compare)}
    for operation in request.success:
        _check_operation(caller, keys, operation, facts, absent)
    for operation in request.failure:
        # Reached because a compare failed, maybe that very one.
        _check_operation(caller, keys, operation, facts, set())


def _check_compare(caller: Caller, compare: rpc.Compare) -> None:
    if compare.range_end:
        raise unsupported("a compare of a range")
    key_range = KeyRange(compare.key)
    _check_keys(key_range)
    if not caller.grants.allow(Right.READ, key_range):
        raise denied(f"{caller.identity} may not compare {key_range}, which it may not read")


def _requires_absence(compare: rpc.Compare) -> bool:
    return (
        compare.result == rpc.Compare.EQUAL
        and compare.target == rpc.Compare.CREATE
        and compare.WhichOneof("target_union") == "create_revision"
        and compare.create_revision == 0
    )


def _check_operation(caller: Caller, keys: Keys, operation: rpc.RequestOp, facts: Facts, absent: set[bytes]) -> None:
    match operation.WhichOneof("request"):
        case "request_range":
            if check_range(caller, operation.request_range) is ReadMode.FILTERED:
                requested = KeyRange(operation.request_range.key, operation.request_range.range_end)
                raise denied(f"{caller.identity} may not read all of {requested} in a transaction")
        case "request_put":
            put = operation.request_put
            _check_write(caller, keys, put, facts, creates=bytes(put.key) in absent)
        case "request_delete_range":
            check_delete(caller, operation.request_delete_range)
        case "request_txn":
            raise denied("a transaction within a transaction")
        case _:
            raise unsupported("an operation that the gateway does not know")


def operations_of(request: rpc.TxnRequest) -> Iterator[rpc.RequestOp]:
    """Yield the operations of both branches of a transaction."""
    yield from request.success
    yield from request.failure


def puts_in(operations: Iterable[rpc.RequestOp]) -> list[rpc.PutRequest]:
    """Return the writes among ``operations``."""
    return [operation.request_put for operation in operations if operation.HasField("request_put")]


def written_in(operations: Iterable[rpc.RequestOp]) -> list[KeyRange]:
    """Return the keys that ``operations`` write or delete."""
    ranges = []
    for operation in operations:
        if operation.HasField("request_put"):
            ranges.append(KeyRange(operation.request_put.key))
        elif operation.HasField("request_delete_range"):
            deletion = operation.request_delete_range
            ranges.append(KeyRange(deletion.key, deletion.range_end))
    return ranges


def read_in(operations: Iterable[rpc.RequestOp]) -> list[KeyRange]:
    """Return the keys that ``operations`` read."""
    ranges = [operation.request_range for operation in operations if operation.HasField("request_range")]
    return [KeyRange(asked.key, asked.range_end) for asked in ranges]


def cost_of(keys: Keys, puts: Sequence[rpc.PutRequest], deletes: int = 0) -> WriteCost:
    """Return the cost of writes and deletions."""
    sizes = [(kind_name(keys, text_of(put.key)) == "events", len(put.key) + len(put.value)) for put in puts]
    return WriteCost(
        writes=len(puts) + deletes,
        written_bytes=sum(size for _, size in sizes),
        events=sum(is_event for is_event, _ in sizes),
        event_bytes=sum(size for is_event, size in sizes if is_event),
    )


def cost_of_txn(keys: Keys, request: rpc.TxnRequest) -> WriteCost:
    """Return the cost of a transaction, whichever branch is taken."""
    deletes = sum(operation.HasField("request_delete_range") for operation in operations_of(request))
    return cost_of(keys, puts_in(operations_of(request)), deletes)


def _check_keys(keys: KeyRange) -> None:
    if not keys.first:
        raise invalid("an empty key")
    if max(len(keys.first), len(keys.end)) > LONGEST_KEY:
        raise invalid(f"a key has {LONGEST_KEY} bytes at most")
    if keys.is_empty:
        raise invalid(f"the range {keys} ends before it begins")
