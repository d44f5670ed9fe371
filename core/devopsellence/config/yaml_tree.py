"""YAML document as a tree of maps, lists and scalars with line and column."""

from __future__ import annotations

from typing import Any, NamedTuple, TypeAlias

from devopsellence.config.problems import DocPath, Mark


class Number(str):
    """Source text of a plain scalar with the form of a number."""

    __slots__ = ()


class Scalar(NamedTuple):
    """Text, number (as source text), boolean or null."""

    mark: Mark
    value: str | bool | None
    # Size with all aliases expanded, see yaml_parser.NODE_WEIGHT.
    weight: int = 0
    # Number of levels below.
    height: int = 0


class ListNode(NamedTuple):
    mark: Mark
    items: tuple[Node, ...]
    weight: int = 0
    height: int = 0


class MapEntry(NamedTuple):
    """Value of a key, with the position of the key."""

    mark: Mark
    value: Node


class MapNode(NamedTuple):
    mark: Mark
    entries: dict[str, MapEntry]
    weight: int = 0
    height: int = 0


Node: TypeAlias = Scalar | ListNode | MapNode
# Input of checks: str, Number, bool, None, and lists and dicts thereof.
Plain: TypeAlias = Any


def plain(node: Node) -> Plain:
    """Return the values without positions."""
    if isinstance(node, Scalar):
        return node.value
    if isinstance(node, ListNode):
        return [plain(item) for item in node.items]
    return {key: plain(entry.value) for key, entry in node.entries.items()}


def locate(root: Node, path: DocPath, *, on_key: bool = False, start: Mark | None = None) -> tuple[Mark, bool]:
    """Return the position of ``path``, and True if an overlay ``root`` sets the value (replaces instead of merging).

    The position of a scalar is its own, that of a map or list is the position of the key. A missing entry has the
    position of the parent; ``start`` is the position of the root if the root has a key.
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
