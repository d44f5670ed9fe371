"""The one rule for names that become part of a key, a path or a container's name.

A package of its own, because every program needs it and only one of them ever reads a configuration.
"""

from __future__ import annotations

import re
from typing import Final

NAME_RULE: Final = "letters, digits, '-', '_' and '.', at most 63 of them, the first a letter or digit"
NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}\Z", re.ASCII)


class InvalidName(ValueError):
    """A name that may not become part of a key, a path or a container's name."""

    def __init__(self, what: str, name: str) -> None:
        super().__init__(f"{what} {name!r} is not a name: a name is {NAME_RULE}")
        self.what = what
        self.name = name


def check_name(what: str, name: str) -> str:
    """Return ``name`` unchanged if it may become part of a key.

    Raises:
        InvalidName: it may not; ``what`` (such as ``"node"``) goes into the message.
    """
    if not NAME.match(name):
        raise InvalidName(what, name)
    return name
