"""Escapes such as ``\\x1b`` for control characters and invisible formatting in untrusted text.

Statuses, events, heartbeats, addresses and keys come from nodes, and a node may be hostile: raw text could move the
cursor, hide lines, or make a terminal run something. ``output`` passes all that it prints through this module; ``safe``
is for a field that must stay on its line, such as a cell of a table.
"""

from __future__ import annotations

import re
import unicodedata
from typing import Final

# Control characters, invisible formatting (such as a change of direction), lone surrogates, separators of lines.
_UNSAFE: Final = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})


def safe(text: str) -> str:
    """Return ``text`` on one line, without characters that move the cursor of a terminal or change its colours."""
    return text if text.isprintable() else "".join(_shown(char) for char in text)


def safe_lines(text: str) -> str:
    """Return ``text`` as :func:`safe` does, with its line ends."""
    return "\n".join(safe(line) for line in text.split("\n"))


def safe_styled(text: str, styled: re.Pattern[str]) -> str:
    """Return ``text`` as :func:`safe_lines` does; matches of ``styled``, the program's own, stay as they are."""
    parts, end = [], 0
    for match in styled.finditer(text):
        parts += [safe_lines(text[end : match.start()]), match[0]]
        end = match.end()
    return "".join([*parts, safe_lines(text[end:])])


def safe_json(document: str) -> str:
    """Return a JSON text with the same value, with unsafe characters within its strings as ``\\u`` escapes."""
    if document.isprintable():
        return document
    return "".join(
        char if char == "\n" or unicodedata.category(char) not in _UNSAFE else _json_escape(char) for char in document
    )


def _shown(char: str) -> str:
    if char == "\t" or unicodedata.category(char) not in _UNSAFE:
        return char
    return char.encode("unicode_escape").decode()


def _json_escape(char: str) -> str:
    raw = char.encode("utf-16-be", "surrogatepass").hex()
    return "".join(f"\\u{raw[at : at + 4]}" for at in range(0, len(raw), 4))
