"""YAML parser with line and column, hardened against malicious input.

ruamel.yaml produces events; this module composes the tree from the events and limits depth, size (aliases counted at
every use), tags and keys that are not text. Plain scalars follow the core schema of YAML 1.2: ``yes`` and ``off`` are
text, only ``true`` and ``false`` are booleans. Numbers keep the source text, so that ``1.10`` stays unchanged. ``<<``
merges maps as in YAML 1.1, because Compose files use merge keys.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Final

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.events import (
    AliasEvent,
    DocumentStartEvent,
    MappingEndEvent,
    ScalarEvent,
    SequenceEndEvent,
    SequenceStartEvent,
    StreamEndEvent,
    StreamStartEvent,
)
from ruamel.yaml.scanner import Scanner, ScannerError

from devopsellence.config.problems import ConfigError, ConfigProblem, DocPath, Mark, printable, quoted, unusable
from devopsellence.config.yaml_tree import ListNode, MapEntry, MapNode, Node, Number, Scalar

MAX_DEPTH: Final = 32
# Limit of the size with all aliases expanded: characters, plus NODE_WEIGHT per scalar, map or list.
MAX_WEIGHT: Final = 2 << 20
NODE_WEIGHT: Final = 64
# Limit of what is written: keys, values, aliases, both ends of maps and lists. The library takes about 30 µs for each.
MAX_EVENTS: Final = 50_000
MAX_TAG: Final = 1024

_NULL: Final = frozenset({"", "~", "null", "Null", "NULL"})
_BOOLEAN: Final = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
_NUMBER: Final = r"""(?x)[-+]?(?: 0o[0-7]+ | 0x[0-9a-fA-F]+ | \.(?:inf|Inf|INF) )\Z
    | [-+]?(?: \.[0-9]+ | [0-9]+(?:\.[0-9]*)? )(?: [eE][-+]?[0-9]+ )?\Z
    | \.(?:nan|NaN|NAN)\Z"""
_TEXT_TAGS: Final = frozenset({"!", "tag:yaml.org,2002:str"})
_HINTS: Final = {
    "mapping values are not allowed": 'check the indentation above; a value that contains ": " needs quotes',
    "could not find expected ':'": "a colon after a key may be missing, or a closing quote",
    "expected <block end>": "check the indentation of this line",
    "found unexpected end of stream": "a closing quote or bracket may be missing",
    "cannot start any token": "quote the value",
}


def parse(file: str, text: str) -> tuple[Node, list[ConfigProblem]]:
    """Parse ``text``; return the tree and all problems that do not prevent parsing (duplicate keys).

    Raises:
        ConfigError: ``text`` is empty, not YAML, has more than one document, or exceeds a limit.
    """
    try:
        composer = _Composer(file, event_stream(text))
        root = composer.document()
    except MarkedYAMLError as error:
        raise _syntax_error(file, text, error) from error
    except (YAMLError, ValueError, OverflowError) as error:
        # ValueError: chr() of an escape such as "\UFFFFFFFF" is not caught by the library.
        raise unusable(file, f"is not valid YAML: {printable(str(error))}") from error
    return root, composer.problems


def event_stream(text: str) -> Iterator[Any]:
    """Return the events of ruamel.yaml, parsed lazily."""
    yaml = YAML(typ="safe", pure=True)
    yaml.Scanner = _Scanner
    stream: Iterator[Any] = yaml.parse(text)
    return stream


def scalar_value(event: Any) -> str | bool | None:
    """Return the value of a scalar event."""
    text = str(event.value)
    if event.style is not None or event.tag is not None:
        return text
    if text in _NULL:
        return None
    if text in _BOOLEAN:
        return _BOOLEAN[text]
    return Number(text) if re.match(_NUMBER, text) else text


def mark_of(event: Any) -> Mark:
    return Mark(event.start_mark.line + 1, event.start_mark.column + 1)


class _Scanner(Scanner):
    """Scanner that refuses long tags, for which the library takes quadratic time."""

    def scan_tag(self) -> Any:
        """Return the token of a tag."""
        start = str(self.reader.prefix(MAX_TAG))
        if len(start) == MAX_TAG and not re.search(r"\s", start):
            mark = self.reader.get_mark()
            raise ScannerError("while scanning a tag", mark, f"a tag is longer than {MAX_TAG} characters", mark)
        return super().scan_tag()


class _Composer:
    """Composer of a document from events; recursion is limited by MAX_DEPTH."""

    def __init__(self, file: str, stream: Iterator[Any]) -> None:
        self.file = file
        self.stream = stream
        self.problems: list[ConfigProblem] = []
        self.events = 0
        # None: the anchored node is still incomplete.
        self.anchors: dict[str, Node | None] = {}

    def document(self) -> Node:
        event = self._next()
        while isinstance(event, (StreamStartEvent, DocumentStartEvent)):
            event = self._next()
        if isinstance(event, StreamEndEvent):
            raise self._unusable("is empty; write one, or run: devopsellence init", event)
        root = self._node(event, (), 1)
        while not isinstance(event, StreamEndEvent):
            event = self._next()
            if isinstance(event, DocumentStartEvent):
                raise self._unusable("contains a second document; only one document per file is allowed", event)
        return root

    def _next(self) -> Any:
        event = next(self.stream)
        self.events += 1
        if self.events > MAX_EVENTS:
            raise self._unusable(f"has more than {MAX_EVENTS} keys and values", event)
        return event

    def _unusable(self, fact: str, event: Any) -> ConfigError:
        return unusable(self.file, fact, mark_of(event))

    def _node(self, event: Any, path: DocPath, depth: int) -> Node:
        if isinstance(event, AliasEvent):
            return self._aliased(event, depth)
        self._deep(depth, event)
        if event.tag is not None and not (isinstance(event, ScalarEvent) and event.tag in _TEXT_TAGS):
            raise self._unusable(f"has the tag {quoted(str(event.tag))}; tags are not supported, remove the tag", event)
        if event.anchor is not None:
            self.anchors[event.anchor] = None
        node = self._untagged(event, path, depth)
        if event.anchor is not None:
            self.anchors[event.anchor] = node
        return node

    def _untagged(self, event: Any, path: DocPath, depth: int) -> Node:
        if isinstance(event, ScalarEvent):
            return Scalar(mark_of(event), self._checked(event, path), NODE_WEIGHT + len(event.value))
        if isinstance(event, SequenceStartEvent):
            return self._list(event, path, depth)
        return self._map(event, path, depth)

    def _deep(self, depth: int, event: Any) -> None:
        if depth > MAX_DEPTH:
            raise self._unusable(f"is nested deeper than {MAX_DEPTH} levels", event)

    def _aliased(self, event: Any, depth: int) -> Node:
        if event.anchor not in self.anchors:
            raise self._unusable(f"has the alias {quoted(event.anchor)}, but no such anchor is defined before", event)
        node = self.anchors[event.anchor]
        if node is None:
            raise self._unusable(f"has the alias {quoted(event.anchor)} inside the value of its own anchor", event)
        self._deep(depth + node.height, event)
        return node

    def _checked(self, event: Any, path: DocPath) -> str | bool | None:
        value = scalar_value(event)
        if isinstance(value, str) and not _is_text(value):
            self.problems.append(ConfigProblem(path, "contains a NUL or surrogate character", mark=mark_of(event)))
            return "?"
        return value

    def _weighed(self, weight: int, event: Any) -> int:
        if weight > MAX_WEIGHT:
            raise self._unusable(f"is larger than {MAX_WEIGHT >> 20} MiB with all aliases expanded", event)
        return weight

    def _list(self, start: Any, path: DocPath, depth: int) -> ListNode:
        items: list[Node] = []
        weight = NODE_WEIGHT
        while not isinstance(event := self._next(), SequenceEndEvent):
            items.append(self._node(event, (*path, len(items)), depth + 1))
            weight = self._weighed(weight + items[-1].weight, event)
        return ListNode(mark_of(start), tuple(items), weight, 1 + max((item.height for item in items), default=0))

    def _map(self, start: Any, path: DocPath, depth: int) -> MapNode:
        entries: dict[str, MapEntry] = {}
        merged: list[MapNode] = []
        weight = NODE_WEIGHT
        while not isinstance(event := self._next(), MappingEndEvent):
            if isinstance(event, ScalarEvent) and event.value == "<<" and event.style is None:
                sources = self._merge_sources(self._node(self._next(), path, depth + 1), event)
                # Before the next one, so that many merges of large maps end at the first that is too much.
                weight = self._weighed(weight + sum(NODE_WEIGHT + source.weight for source in sources), event)
                merged += sources
                continue
            key = self._key(event, path, depth)
            value = self._node(self._next(), path if key is None else (*path, key), depth + 1)
            weight = self._weighed(weight + value.weight + len(key or ""), event)
            if key is not None:
                self._add(entries, key, MapEntry(mark_of(event), value), path)
        for source in merged:
            for key, entry in source.entries.items():
                entries.setdefault(key, entry)
        height = 1 + max((entry.value.height for entry in entries.values()), default=0)
        return MapNode(mark_of(start), entries, weight, height)

    def _add(self, entries: dict[str, MapEntry], key: str, entry: MapEntry, path: DocPath) -> None:
        if (first := entries.get(key)) is None:
            entries[key] = entry
            return
        fact = f"is a duplicate key, first on line {first.mark.line}; remove one"
        self.problems.append(ConfigProblem((*path, key), fact, mark=entry.mark))

    def _key(self, event: Any, path: DocPath, depth: int) -> str | None:
        """Return the text of a key (numbers and booleans count as text); otherwise add a problem and return None."""
        if isinstance(event, ScalarEvent) and event.tag is None:
            text = str(event.value)
            if (event.style is not None or text not in _NULL) and _is_text(text):
                return text
        else:
            before = len(self.problems)
            self._node(event, path, depth + 1)
            del self.problems[before:]  # a single problem about the key is enough
        fact = "has a key that is not text; quote a key that begins with { or [, such as a template"
        self.problems.append(ConfigProblem(path, fact, mark=mark_of(event)))
        return None

    def _merge_sources(self, node: Node, event: Any) -> list[MapNode]:
        sources = node.items if isinstance(node, ListNode) else (node,)
        maps = [source for source in sources if isinstance(source, MapNode)]
        if len(maps) != len(sources):
            raise self._unusable("has a merge key (<<) with a value that is not a map", event)
        return maps


def _is_text(value: str) -> bool:
    """Return False for NUL and surrogates (only possible by escapes), which programs and messages do not accept."""
    return "\0" not in value and (value.isascii() or not any("\ud800" <= char <= "\udfff" for char in value))


def _syntax_error(file: str, text: str, error: MarkedYAMLError) -> ConfigError:
    position = error.problem_mark or error.context_mark
    mark = Mark(position.line + 1, position.column + 1) if position else Mark(1, 1)
    lines = text.splitlines()
    line = lines[mark.line - 1] if mark.line <= len(lines) else ""
    indent = line[: len(line) - len(line.lstrip())]
    if "\t" in indent:
        return unusable(file, "is indented with a tab; YAML requires spaces", Mark(mark.line, indent.index("\t") + 1))
    problem = " ".join(str(error.problem or error.context or "cannot be read").split())
    hint = next((f" ({hint})" for start, hint in _HINTS.items() if start in problem), "")
    hint = " (a value that begins with {{ needs quotes)" if "{{" in line else hint
    return unusable(file, f"is not valid YAML: {printable(problem)}{hint}", mark)
