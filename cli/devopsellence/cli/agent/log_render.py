"""Formatting of log lines for a terminal, a pipe and JSON.

On a terminal, control characters are shown as escapes; colours stay if enabled. In a pipe, the bytes are
unchanged, because they are data there.
"""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from typing import Final, Protocol

from devopsellence.cli.agent.log_line import NANOS, OutputLine
from devopsellence.cli.output import SCHEMA_VERSION
from devopsellence.cli.untrusted import safe, safe_json

# "Select graphic rendition" (ECMA-48, 8.3.117), the one control sequence that only changes how text looks.
_COLOUR: Final = re.compile("\x1b\\[[0-9;:]*m")
_RESET: Final = "\x1b[0m"
# Cyan, yellow, green, magenta, blue, then the bright ones: legible on light and on dark.
_PALETTE: Final = (36, 33, 32, 35, 34, 96, 93, 92, 95, 94)


class LineRenderer(Protocol):
    """Formatter of log lines."""

    def __call__(self, line: OutputLine) -> bytes:
        """Return the bytes of ``line`` with a line end."""
        ...


class TextRenderer:
    """Text format with a prefix of node and service.

    ``sources`` are the expected (node, service) pairs, for prefixes aligned from the first line on.
    """

    def __init__(
        self, sources: list[tuple[str, str]], *, prefix: bool, terminal: bool, color: bool, timestamps: bool
    ) -> None:
        self._prefix = prefix
        self._terminal = terminal
        self._color = color
        self._timestamps = timestamps
        self._width = max((len(safe("/".join(source))) for source in sources), default=0)
        self._prefixes: dict[tuple[str, str], bytes] = {}
        for source in sources:
            self._prefix_of(source)

    def __call__(self, line: OutputLine) -> bytes:
        """See :class:`Renderer`."""
        prefix = self._prefix_of((line.node, line.service)) if self._prefix else b""
        stamp = f"{rfc3339(line.at)} ".encode() if self._timestamps else b""
        text = on_terminal(line.text, color=self._color) if self._terminal else line.text
        return b"%b%b%b\n" % (prefix, stamp, text)

    def _prefix_of(self, source: tuple[str, str]) -> bytes:
        known = self._prefixes.get(source)
        if known is None:
            name = safe("/".join(source))
            self._width = max(self._width, len(name))
            text = name.ljust(self._width) + " │ "
            if self._color:
                text = f"\x1b[{_PALETTE[len(self._prefixes) % len(_PALETTE)]}m{text}{_RESET}"
            known = self._prefixes[source] = text.encode()
        return known


class JsonRenderer:
    """JSON format: an object per line, with the fields of all streaming commands."""

    def __init__(self, operation: str) -> None:
        self._operation = operation

    def __call__(self, line: OutputLine) -> bytes:
        """See :class:`Renderer`."""
        document = {
            "schema_version": SCHEMA_VERSION,
            "operation": self._operation,
            "event": "progress",
            "ok": True,
            "at": rfc3339(line.at),
            "node": line.node,
            "service": line.service,
            "container": line.container,
            "stream": "stderr" if line.stderr else "stdout",
            "line": line.text.decode(errors="replace"),
        }
        return safe_json(json.dumps(document, ensure_ascii=False)).encode() + b"\n"


def on_terminal(text: bytes, *, color: bool) -> bytes:
    """Return ``text`` safe for a terminal: no control characters; colours, if enabled, are reset at the end."""
    decoded = text.decode(errors="replace").rstrip("\r")
    if decoded.isprintable():
        return decoded.encode()
    if not color:
        return safe(_COLOUR.sub("", decoded)).encode()
    between, colours = _COLOUR.split(decoded), _COLOUR.findall(decoded)
    parts = [safe(between[0])]
    for colour, rest in zip(colours, between[1:], strict=True):
        parts += [colour, safe(rest)]
    return "".join([*parts, _RESET] if colours else parts).encode()


def rfc3339(at: int) -> str:
    """Return a UTC time with nine fractional digits, so that times sort as text."""
    moment = datetime.fromtimestamp(at // NANOS, tz=UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{at % NANOS:09d}Z"
