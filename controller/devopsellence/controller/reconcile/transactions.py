"""Turns a plan into transactions. Pure.

Each transaction compares the environment that the plan was made from, and the modification revision of each key that it
replaces: what has changed since the plan was made refuses the transaction, and the environment is planned again.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from google.protobuf.message import Message

from devopsellence.controller.model.actions import Action, Plan
from devopsellence.store.codec import encode
from devopsellence.store.etcd import MAX_OPERATIONS, Compare, Delete, Put

# The leader's own compare comes on top.
_FENCE: Final = 1
# etcd refuses a request of more than 1.5 MiB by default; one action that is larger goes alone.
MAX_BYTES: Final = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Transaction:
    """Conditions, and what to do if all of them hold.

    At most MAX_OPERATIONS of each, the leader's fence included, and MAX_BYTES of values. ``written``: the keys, values
    and messages of what the plan's actions write.
    """

    compares: Sequence[Compare]
    operations: Sequence[Put | Delete]
    written: Sequence[tuple[str, bytes, Message]] = ()


def transactions(plan: Plan, events: Sequence[Put]) -> Iterator[Transaction]:
    """The transactions of ``plan``, in its order; each action is whole in one of them, ``events`` follow the first.

    Lazy: what a refused transaction leaves undone is never encoded.
    """
    always = Compare.unmodified(plan.rests_on.key, plan.rests_on.mod_revision)
    compares: dict[str, Compare] = {always.key: always}
    operations: list[Put | Delete] = []
    written: list[tuple[str, bytes, Message]] = []
    size = 0
    for needed, wanted, messages in _units(plan.actions, events):
        new = sum(1 for compare in needed if compare.key not in compares)
        added = sum(len(one.value) for one in wanted if isinstance(one, Put))
        too_many = max(_FENCE + len(compares) + new, len(operations) + len(wanted)) > MAX_OPERATIONS
        if operations and (too_many or size + added > MAX_BYTES):
            yield Transaction(tuple(compares.values()), tuple(operations), tuple(written))
            compares, operations, written, size = {always.key: always}, [], [], 0
        size += added
        compares.update((compare.key, compare) for compare in needed)
        operations += wanted
        written += [
            (one.key, one.value, message)
            for one, message in zip(wanted, messages, strict=True)
            if isinstance(one, Put) and message is not None
        ]
    if operations:
        yield Transaction(tuple(compares.values()), tuple(operations), tuple(written))


def _units(
    actions: Iterable[Action], events: Sequence[Put]
) -> Iterator[tuple[list[Compare], list[Put | Delete], list[Message | None]]]:
    """What must not be split: conditions with their operations, and the message of each operation, if it has one."""
    told = False
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
        if not told:
            told = True
            for event in events:
                yield [], [event], [None]
