"""Standard streams and arguments of the process, made fit for every command before the first of them is used.

A stream that was closed at the start (``>&-``) becomes ``/dev/null``. Python leaves it out, so that every print fails;
and the next file or connection would get its number, and with it all that children of the process print. Characters
that a stream cannot show, such as the bytes of a file name that are not UTF-8, become escapes instead of an error.
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Sequence
from typing import Final

_NAMES: Final = ("stdin", "stdout", "stderr")
_closed_at_start: Final[set[str]] = set()


def prepare() -> None:
    """Open closed standard streams on ``/dev/null``, and let none fail because of a character."""
    for number, name in enumerate(_NAMES):
        opened = _open_if_closed(number)
        stream = getattr(sys, name)
        if stream is None or opened:
            _closed_at_start.add(name)
            stream = open(number, "r" if number == 0 else "w", encoding="utf-8", closefd=False)  # noqa: SIM115
            setattr(sys, name, stream)
        if number and isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def was_closed(name: str) -> bool:
    """Return whether a stream (``stdin``, ``stdout`` or ``stderr``) was closed at the start."""
    return name in _closed_at_start


def problem_of(arguments: Sequence[str]) -> str:
    """Return why the command line cannot be taken, as a sentence without any of its values; "" if it can be.

    Python passes on the bytes of an argument that are no text of the locale as lone surrogates (PEP 383). No name,
    no value of a record and no command for a container can have them.
    """
    for position, argument in enumerate(arguments, start=1):
        try:
            argument.encode()
        except UnicodeEncodeError:
            return f"argument {position} of the command line is not valid UTF-8"
    return ""


def _open_if_closed(number: int) -> bool:
    try:
        os.fstat(number)
    except OSError:
        # Lower numbers are open by now, so this is the number that the kernel gives.
        opened = os.open(os.devnull, os.O_RDWR)
        if opened != number:
            os.dup2(opened, number)
            os.close(opened)
        os.set_inheritable(number, True)
        return True
    return False
