"""Records that belong together, such as an environment's certificates, kept up to date with each change. Pure."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping
from types import MappingProxyType
from typing import Any, Final, Generic, TypeVar

from google.protobuf.message import Message

from devopsellence.store.record import Record

G = TypeVar("G", bound=Hashable)
N = TypeVar("N", bound=Hashable)
M = TypeVar("M", bound=Message)
_NONE: Final[Mapping[Any, Any]] = MappingProxyType({})


class GroupedRecords(Generic[G, N, M]):
    """Records by group, and by name within it."""

    def __init__(self) -> None:
        # A group is here as long as there is a record in it.
        self._records: dict[G, dict[N, Record[M]]] = {}
        # What was handed out; absent where it has changed since.
        self._shown: dict[G, Mapping[N, Record[M]]] = {}

    def set(self, group: G, name: N, record: Record[M] | None) -> None:
        """``name`` in ``group`` is now ``record``; None: it is gone."""
        self._shown.pop(group, None)
        if record is not None:
            self._records.setdefault(group, {})[name] = record
        elif group in self._records:
            self._records[group].pop(name, None)
            if not self._records[group]:
                del self._records[group]

    def of(self, group: G) -> Mapping[N, Record[M]]:
        """All of ``group``: never changed once it is handed out, and the same object until something does."""
        if group not in self._records:
            return _NONE
        if group not in self._shown:
            self._shown[group] = MappingProxyType(dict(self._records[group]))
        return self._shown[group]

    def __contains__(self, group: object) -> bool:
        return group in self._records

    def __iter__(self) -> Iterator[G]:
        """The groups that have a record."""
        return iter(self._records)
