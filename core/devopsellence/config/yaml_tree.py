"""A document as maps, lists and scalars that know where they stand in the file."""

from __future__ import annotations

from typing import Any, NamedTuple, TypeAlias

from devopsellence.config.problems import DocPath, Mark


class Number(str):
    """A plain scalar that reads as a number: its source text."""

    __slots__ = ()


class Scalar(NamedTuple):
    """Text, a number as its text, true, false or nothing."""

    mark: Mark
    value: str | bool | None
    # How much it is when every alias below is written out: see compose.NODE_WEIGHT.
    weight: int = 0
    # Levels below this one.
    height: int = 0


class ListNode(NamedTuple):
    mark: Mark
    items: tuple[Node, ...]
    weight: int = 0
    height: int = 0


class MapEntry(NamedTuple):
    """A key's place and its value."""

    mark: Mark
    value: Node


class MapNode(NamedTuple):
    mark: Mark
    entries: dict[str, MapEntry]
    weight: int = 0
    height: int = 0


Node: TypeAlias = Scalar | ListNode | MapNode
# What a checker sees: str, Number, bool, None, and lists and dicts of these.
Plain: TypeAlias = Any


def plain(node: Node) -> Plain:
    """The values alone."""
    if isinstance(node, Scalar):
        return node.value
    if isinstance(node, ListNode):
        return [plain(item) for item in node.items]
    return {key: plain(entry.value) for key, entry in node.entries.items()}


def locate(root: Node, path: DocPath, *, on_key: bool = False, start: Mark | None = None) -> tuple[Mark, bool]:
    """Where ``path`` stands, and whether ``root`` brings the value there: as an overlay, it would replace, not merge.

    A scalar's place is its own; a map's or a list's is its key's, where a reader looks for it. What is not there is
    at the place of what it is missing from; ``start`` is the root's place if it has a key of its own.
    """
    mark, node, own = start or root.mark, root, False
    for at, step in enumerate(path):
        if isinstance(node, MapNode) and isinstance(step, str) and step in node.entries:
            entry = node.entries[step]
            node = entry.value
            nothing = isinstance(node, Scalar) and node.value is None
            own = own or not (nothing or isinstance(node, MapNode))
            on_value = isinstance(node, Scalar) and not nothing and not (on_key and at == len(path) - 1)
            mark = node.mark if on_value else entry.mark
        elif isinstance(node, ListNode) and isinstance(step, int) and step < len(node.items):
            node = node.items[step]
            mark = node.mark
        else:
            break
    return mark, own
