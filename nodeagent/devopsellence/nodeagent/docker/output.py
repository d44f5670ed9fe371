"""Last lines of a container's output, fit for a status: bounded, without control characters and secrets. Pure.

Whoever may read etcd reads statuses and events, so a secret that a container prints is replaced. The container itself
says which of its variables come from secrets (``names.LABEL_SECRETS``).
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from devopsellence.nodeagent.docker import names

MAX_LINES: Final = 20
MAX_LINE_CHARACTERS: Final = 500
#: All lines together, in UTF-8: a status holds the output of many services, and etcd limits its size.
MAX_BYTES: Final = 4096
REDACTED: Final = "[secret]"
#: Shortest value that is replaced: a shorter one is part of too many words.
MIN_SECRET_CHARACTERS: Final = 4
#: Escape sequences of terminals (ECMA-48): OSC and other strings up to their end, CSI, and those of two characters.
_ESCAPES: Final = re.compile(r"\x1b[\]PX^_][^\x07\x1b\r\n]*(?:\x07|\x1b\\)?|\x1b\[[0-?]*[ -/]*[@-~]?|\x1b[ -/]*[0-~]?")
#: Control characters, invisible formatting such as a change of direction, lone surrogates.
_UNSAFE: Final = frozenset({"Cc", "Cf", "Cs"})
_CUT: Final = "…"


def last_lines(output: bytes, secrets: Iterable[str] = ()) -> tuple[str, ...]:
    """Return the last lines of ``output``, oldest first, without the values of ``secrets``."""
    text = redacted(output, secrets).decode(errors="replace")
    lines = [_harmless(line) for line in _ESCAPES.sub("", text).splitlines()[-MAX_LINES:]]
    kept: list[str] = []
    room = MAX_BYTES
    for line in reversed(lines):
        room -= len(line.encode()) + 1
        if room < 0:
            break
        kept.append(line)
    return tuple(reversed(kept))


def secret_values(document: Mapping[str, Any]) -> Sequence[str]:
    """Return the values of a container's secrets, from the engine's description of the container."""
    config = document.get("Config") or {}
    label = str((config.get("Labels") or {}).get(names.LABEL_SECRETS, ""))
    variables = dict(str(variable).partition("=")[::2] for variable in config.get("Env") or ())
    return [variables[name] for name in label.split(",") if variables.get(name)]


def redacted(output: bytes, secrets: Iterable[str]) -> bytes:
    """Return ``output`` without the secrets; of one with several lines also without each of its lines."""
    values = {part.strip() for secret in secrets for part in (secret, *secret.splitlines())}
    for value in sorted(values, key=len, reverse=True):
        if len(value) >= MIN_SECRET_CHARACTERS:
            output = output.replace(value.encode(), REDACTED.encode())
    return output


def _harmless(line: str) -> str:
    clean = "".join(char for char in line if char == "\t" or unicodedata.category(char) not in _UNSAFE).rstrip()
    return clean if len(clean) <= MAX_LINE_CHARACTERS else clean[: MAX_LINE_CHARACTERS - 1] + _CUT
