"""Transactions of a plan. Pure.

Each transaction compares the revision of the environment that the plan was made from and the revision of each key that
it replaces. A change since the plan was made fails the transaction, and the environment is planned again.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from google.protobuf.message import Message

from devopsellence.controller.model.actions import EnvironmentPlan, WriteAction
from devopsellence.store.codec import encode
from devopsellence.store.etcd import MAX_OPERATIONS, Compare, Delete, Put

# The compare of the leadership is added to each transaction.
_FENCE: Final = 1
# etcd refuses requests of more than 1.5 MiB by default; a larger action gets a transaction of its own.
MAX_BYTES: Final = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Transaction:
    """Compares, and the operations to carry out if all compares hold.

    At most MAX_OPERATIONS of both, fence included, and MAX_BYTES of values. ``written``: key, value and message of each
    write of the plan's actions, without events.
    """

    compares: Sequence[Compare]
    operations: Sequence[Put | Delete]
    written: Sequence[tuple[str, bytes, Message]] = ()


def transactions(plan: EnvironmentPlan, events: Sequence[Put]) -> Iterator[Transaction]:
    """Yield the transactions of ``plan`` in order; no action is split, and ``events`` follow the first action.

    Lazy: actions after a failed transaction are never encoded.
    """
    always = Compare.unmodified(plan.rests_on.key, plan.rests_on.mod_revision)
    compares: dict[str, Compare] = {always.key: always}
    operations: list[Put | Delete] = []
    written: list[tuple[str, bytes, Message]] = []
    size = 0
    for needed, unit, messages in _units(plan.actions, events):
        new = sum(1 for compare in needed if compare.key not in compares)
        added = sum(len(operation.value) for operation in unit if isinstance(operation, Put))
        too_many = max(_FENCE + len(compares) + new, len(operations) + len(unit)) > MAX_OPERATIONS
        if operations and (too_many or size + added > MAX_BYTES):
            yield Transaction(tuple(compares.values()), tuple(operations), tuple(written))
            compares, operations, written, size = {always.key: always}, [], [], 0
        size += added
        compares.update((compare.key, compare) for compare in needed)
        operations += unit
        written += [
            (operation.key, operation.value, message)
            for operation, message in zip(unit, messages, strict=True)
            if isinstance(operation, Put) and message is not None
        ]
    if operations:
        yield Transaction(tuple(compares.values()), tuple(operations), tuple(written))


def _units(
    actions: Iterable[WriteAction], events: Sequence[Put]
) -> Iterator[tuple[list[Compare], list[Put | Delete], list[Message | None]]]:
    """Yield units that must not be split: compares, operations, and the message of each operation or None."""
    events_added = False
    for action in actions:
        needed = [Compare.unmodified(change.key, change.replaces) for change in action.changes]
        needed += [Compare.unmodified(basis.key, basis.mod_revision) for basis in action.rests_on]
        yield (
            needed,
            [
                Delete(change.key) if change.message is None else Put(change.key, encode(change.message))
                for change in action.changes
            ],
            [change.message for change in action.changes],
        )
        if not events_added:
            events_added = True
            for event in events:
                yield [], [event], [None]
