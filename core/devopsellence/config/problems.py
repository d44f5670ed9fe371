"""What is wrong with a file, and where: for the person who wrote it.

A check yields a :class:`ConfigProblem`, which knows the path in the document alone; with the file's positions it becomes a
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
# A check stops here: far more than anyone is shown, and few enough to be quick for a file made to be slow.
MAX_PROBLEMS: Final = 500
# Among more words than this nothing near is looked for.
_MAX_KNOWN: Final = 200
_PLAIN_KEY: Final = re.compile(r"[A-Za-z0-9_-]+\Z", re.ASCII)
_SHOWN: Final = 60


class Mark(NamedTuple):
    """A place in a file; both count from 1."""

    line: int
    column: int


START: Final = Mark(1, 1)


class ConfigProblem(NamedTuple):
    """Something wrong at a path. ``fact`` goes on where the path ends: "is required"."""

    path: DocPath
    fact: str
    # The key is what is wrong, not its value.
    on_key: bool = False
    # Where it is, when the path alone does not tell (a key that stands there twice).
    mark: Mark | None = None


@dataclass(frozen=True, slots=True)
class ConfigFinding:
    """One thing that is wrong with a file.

    ``path`` is the dotted path, empty for the file as a whole; ``message`` is the whole sentence, which begins with the
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
    """The file cannot be used. ``findings`` has everything that is wrong with it, in the order of the file."""

    def __init__(self, findings: Iterable[ConfigFinding]) -> None:
        self.findings = tuple(findings)
        super().__init__("\n".join(map(str, self.findings)))


def unusable(file: str, fact: str, mark: Mark = START) -> ConfigError:
    """The error about a file that cannot even be read as a document."""
    return ConfigError([ConfigFinding("", fact, file, mark.line, mark.column)])


def in_order(findings: Iterable[ConfigFinding]) -> list[ConfigFinding]:
    """The findings in the order of the file, at most :data:`MAX_FINDINGS` and one that says how many are left out."""
    ordered = sorted(dict.fromkeys(findings), key=lambda finding: (finding.line, finding.column))
    if len(ordered) <= MAX_FINDINGS:
        return ordered
    last = ordered[MAX_FINDINGS]
    rest = f"and {len(ordered) - MAX_FINDINGS} more problems from here on"
    return [*ordered[:MAX_FINDINGS], ConfigFinding("", rest, last.file, last.line, last.column)]


def printable(text: str) -> str:
    """``text`` fit for a terminal: what does not print is escaped."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def quoted(text: str) -> str:
    """``text`` in double quotes, shortened and fit for a terminal."""
    short = text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"
    return '"' + printable(short).replace('"', '\\"') + '"'


def dotted(path: DocPath) -> str:
    """``("services", "web", "ports", 0)`` as ``services.web.ports[0]``; an odd key is quoted."""
    text = ""
    for step in path:
        if isinstance(step, int):
            text += f"[{step}]"
        else:
            text += ("." if text else "") + (step if _PLAIN_KEY.match(step) else quoted(step))
    return text


def nearest(word: str, known: Sequence[str]) -> str | None:
    """The known word that is most like this one; None if none is like it."""
    if len(known) > _MAX_KNOWN:
        return None
    from difflib import get_close_matches

    folded = {candidate.lower(): candidate for candidate in known}
    matches = get_close_matches(word[:_SHOWN].lower(), folded, n=1, cutoff=0.6)
    return folded[matches[0]] if matches else None


def did_you_mean(word: str, known: Sequence[str]) -> str:
    """``; did you mean "web"?``, or nothing where no known word is like it."""
    match = nearest(word, known)
    return f"; did you mean {quoted(match)}?" if match else ""
