"""Records grouped by a key, such as the certificates of each environment, kept up to date with each change. Pure."""

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
        # A group exists as long as it has a record.
        self._records: dict[G, dict[N, Record[M]]] = {}
        # Mappings handed out, without groups changed since.
        self._handed_out: dict[G, Mapping[N, Record[M]]] = {}

    def set(self, group: G, name: N, record: Record[M] | None) -> None:
        """Set the record of ``name`` in ``group``; None removes the name."""
        self._handed_out.pop(group, None)
        if record is not None:
            self._records.setdefault(group, {})[name] = record
        elif group in self._records:
            self._records[group].pop(name, None)
            if not self._records[group]:
                del self._records[group]

    def of(self, group: G) -> Mapping[N, Record[M]]:
        """Return all records of ``group`` as an immutable mapping, the same object until the group changes."""
        if group not in self._records:
            return _NONE
        if group not in self._handed_out:
            self._handed_out[group] = MappingProxyType(dict(self._records[group]))
        return self._handed_out[group]

    def __contains__(self, group: object) -> bool:
        return group in self._records

    def __iter__(self) -> Iterator[G]:
        """Iterate over the groups with a record."""
        return iter(self._records)
