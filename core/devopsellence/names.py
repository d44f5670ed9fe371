"""The one rule for names that become part of a key, a path or a container's name.

A package of its own, because every program needs it and only one of them ever reads a configuration.
"""

from __future__ import annotations

import re
from typing import Final

NAME_RULE: Final = "letters, digits, '-', '_' and '.', at most 63 of them, the first a letter or digit"
NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}\Z", re.ASCII)
HOST_RULE: Final = "at most 253 letters in lower case, digits, '-' and '.', such as app.example.com (IDN as xn--…)"
#: RFC 1123, section 2.1, in lower case.
HOST: Final = re.compile(
    r"(?=.{1,253}\Z)[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?(\.[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)*\Z", re.ASCII
)


class InvalidName(ValueError):
    """A name that may not become part of a key, a path or a container's name."""

    def __init__(self, what: str, name: str, rule: str = NAME_RULE) -> None:
        super().__init__(f"{what} {name!r} is not a name: a name is {rule}")
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


def check_host(host: str) -> str:
    """Return ``host`` unchanged if it is a host's name that may become part of a key or a file's name.

    Raises:
        InvalidName: it is not.
    """
    if not HOST.match(host):
        raise InvalidName("host", host, HOST_RULE)
    return host
