"""Grants: patterns of keys, and the question whether they cover a range of keys. Pure.

A range is decided as a whole by the longest prefix ending with ``/`` that contains it, so that a page of a listing,
which begins in the middle of a prefix, counts as that prefix.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto
from typing import Final

#: Any one part of a key.
ANY: Final = "*"
#: Exclusive end of a range that has none.
NO_END: Final = b"\0"


class Right(Enum):
    READ = auto()
    WRITE = auto()
    DELETE = auto()


@dataclass(frozen=True, slots=True)
class KeyRange:
    """Range of keys as in etcd's API: ``end`` is exclusive, empty for the single key ``first``."""

    first: bytes
    end: bytes = b""

    @property
    def is_single(self) -> bool:
        return not self.end

    @property
    def is_empty(self) -> bool:
        """Return True if no key can be in the range."""
        return bool(self.end) and self.end != NO_END and self.end <= self.first

    def contains(self, key: bytes) -> bool:
        if self.is_single:
            return key == self.first
        return self.first <= key and (self.end == NO_END or key < self.end)

    def clipped(self, prefix: bytes) -> KeyRange | None:
        """Return the part of the range under ``prefix``; None if there is none."""
        if self.is_single:
            return self if self.first.startswith(prefix) else None
        first, end = max(self.first, prefix), end_of(prefix)
        if self.end != NO_END:
            end = min(self.end, end)
        return KeyRange(first, end) if first < end else None

    def __str__(self) -> str:
        return text_of(self.first) + (f"…{text_of(self.end)}" if self.end else "")

    def enclosing_prefix(self) -> bytes:
        """Return the longest prefix ending with ``/`` that contains the whole range; empty for none."""
        if self.end == NO_END:
            return b""
        at = len(self.first)
        while (at := self.first.rfind(b"/", 0, at)) >= 0:
            prefix = self.first[: at + 1]
            if self.end <= end_of(prefix):
                return prefix
        return b""


def text_of(key: bytes) -> str:
    """Return a key as text; a key that is not UTF-8 becomes one that no record has."""
    return key.decode(errors="backslashreplace")


def end_of(prefix: bytes) -> bytes:
    """Return the exclusive end of all keys under ``prefix``, which ends with ``/``."""
    return prefix[:-1] + bytes([prefix[-1] + 1])


@dataclass(frozen=True, slots=True)
class KeyPattern:
    """Pattern of keys by their parts below the prefix of all keys; ``tree``: also all keys below."""

    parts: tuple[str, ...]
    tree: bool = True

    def matches(self, parts: tuple[str, ...]) -> bool:
        """Return True for the key with ``parts``."""
        return self._covers(parts) if self.tree else len(parts) == len(self.parts) and self._covers(parts)

    def covers(self, parts: tuple[str, ...]) -> bool:
        """Return True if all keys below ``parts`` match."""
        return self.tree and self._covers(parts)

    def _covers(self, parts: tuple[str, ...]) -> bool:
        return len(parts) >= len(self.parts) and all(
            part == wanted or (wanted == ANY and part) for part, wanted in zip(parts, self.parts, strict=False)
        )


@dataclass(frozen=True, slots=True)
class Grants:
    """Rights of a caller on the keys under ``prefix``. A key that no pattern matches is refused."""

    prefix: bytes
    read: tuple[KeyPattern, ...] = ()
    write: tuple[KeyPattern, ...] = ()
    delete: tuple[KeyPattern, ...] = ()

    def allow(self, right: Right, keys: KeyRange) -> bool:
        """Return True if ``right`` holds for every key that may be in ``keys``."""
        if keys.is_single:
            return self.allow_key(right, keys.first)
        parts = self._parts(keys.enclosing_prefix().removesuffix(b"/"))
        return parts is not None and any(pattern.covers(parts) for pattern in self._patterns(right))

    def allow_key(self, right: Right, key: bytes) -> bool:
        parts = self._parts(key)
        return parts is not None and any(pattern.matches(parts) for pattern in self._patterns(right))

    def _patterns(self, right: Right) -> tuple[KeyPattern, ...]:
        return {Right.READ: self.read, Right.WRITE: self.write, Right.DELETE: self.delete}[right]

    def _parts(self, key: bytes) -> tuple[str, ...] | None:
        """Return the parts of a key, or of a prefix without its last slash; None outside of the prefix."""
        if key + b"/" == self.prefix:
            return ()
        if not key.startswith(self.prefix):
            return None
        return tuple(text_of(key[len(self.prefix) :]).split("/"))
