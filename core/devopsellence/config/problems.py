"""Problems of a configuration file, with path, line and column.

Checks yield a :class:`ConfigProblem` with a path in the document; with the position in the file, a problem becomes a
:class:`ConfigFinding`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

# Steps from the root of the document: keys of maps, indexes of lists.
DocPath = tuple[str | int, ...]

MAX_FINDINGS: Final = 100
# Limit of problems per check: far more than are shown, and few enough to be quick for a malicious file.
MAX_PROBLEMS: Final = 500
# No suggestion is searched among more known words.
_MAX_KNOWN: Final = 200
_PLAIN_KEY: Final = re.compile(r"[A-Za-z0-9_-]+\Z", re.ASCII)
_SHOWN: Final = 60


class Mark(NamedTuple):
    """Position in a file; line and column count from 1."""

    line: int
    column: int


START: Final = Mark(1, 1)


class ConfigProblem(NamedTuple):
    """Problem at a path. ``fact`` continues the sentence after the path: "is required"."""

    path: DocPath
    fact: str
    # True for a problem of the key, not of the value.
    on_key: bool = False
    # Position, if the path is ambiguous (a duplicate key).
    mark: Mark | None = None


@dataclass(frozen=True, slots=True)
class ConfigFinding:
    """Problem of a file with position.

    ``path`` is the dotted path, empty for the file as a whole; ``message`` is a complete sentence that begins with the
    path; ``line`` and ``column`` count from 1.
    """

    path: str
    message: str
    file: str
    line: int
    column: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}: {self.message}"


class ConfigError(Exception):
    """Invalid configuration file. ``findings`` has all problems, in the order of the file."""

    def __init__(self, findings: Iterable[ConfigFinding]) -> None:
        self.findings = tuple(findings)
        super().__init__("\n".join(map(str, self.findings)))


def unusable(file: str, fact: str, mark: Mark = START) -> ConfigError:
    """Return the error for a file that cannot be read or parsed."""
    return ConfigError([ConfigFinding("", fact, file, mark.line, mark.column)])


def in_order(findings: Iterable[ConfigFinding]) -> list[ConfigFinding]:
    """Sort findings in the order of the file; after :data:`MAX_FINDINGS`, a last finding counts the rest."""
    ordered = sorted(dict.fromkeys(findings), key=lambda finding: (finding.line, finding.column))
    if len(ordered) <= MAX_FINDINGS:
        return ordered
    last = ordered[MAX_FINDINGS]
    rest = f"and {len(ordered) - MAX_FINDINGS} more problems"
    return [*ordered[:MAX_FINDINGS], ConfigFinding("", rest, last.file, last.line, last.column)]


def printable(text: str) -> str:
    """Escape all unprintable characters of ``text``."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def quoted(text: str) -> str:
    """Return ``text`` in double quotes, shortened, unprintable characters escaped."""
    short = text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"
    return '"' + printable(short).replace('"', '\\"') + '"'


def dotted(path: DocPath) -> str:
    """Format ``("services", "web", "ports", 0)`` as ``services.web.ports[0]``; unusual keys are quoted."""
    text = ""
    for step in path:
        if isinstance(step, int):
            text += f"[{step}]"
        else:
            text += ("." if text else "") + (step if _PLAIN_KEY.match(step) else quoted(step))
    return text


def nearest(word: str, known: Sequence[str]) -> str | None:
    """Return the known word most similar to ``word``; None if no word is similar."""
    if len(known) > _MAX_KNOWN:
        return None
    from difflib import get_close_matches

    folded = {candidate.lower(): candidate for candidate in known}
    matches = get_close_matches(word[:_SHOWN].lower(), folded, n=1, cutoff=0.6)
    return folded[matches[0]] if matches else None


def did_you_mean(word: str, known: Sequence[str]) -> str:
    """Return ``; did you mean "web"?``, or "" if no known word is similar."""
    match = nearest(word, known)
    return f"; did you mean {quoted(match)}?" if match else ""
