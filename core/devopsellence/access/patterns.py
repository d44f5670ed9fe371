"""Patterns of environments: ``*``, ``acme/*``, ``acme/shop/*`` or ``acme/shop/production``."""

from __future__ import annotations

from typing import Final

from devopsellence.names import NAME

#: Last part of a pattern that stands for all names.
ANY: Final = "*"
#: Organization, project, environment.
_DEPTH: Final = 3
_LONGEST_TEXT: Final = 200


class InvalidPattern(ValueError):
    """Text that is no pattern of environments; the message says so."""


def fixed_parts(pattern: str) -> tuple[str, ...]:
    """Return the parts of an environment's path that a pattern fixes; none for all environments.

    Raises:
        InvalidPattern: the pattern is malformed.
    """
    parts = tuple(pattern.split("/"))
    fixed = parts[:-1] if parts[-1] == ANY else parts
    is_whole = len(fixed) == _DEPTH if fixed == parts else len(fixed) < _DEPTH
    if not (is_whole and all(NAME.match(part) for part in fixed)):
        shown = pattern[:_LONGEST_TEXT]
        raise InvalidPattern(
            f"{shown!r} is no pattern of environments, such as '*', 'acme/*', 'acme/shop/*' or 'acme/shop/production'"
        )
    return fixed


def covers(pattern: str, other: str) -> bool:
    """Return True if ``pattern`` stands for every environment that ``other``, a pattern or a path, stands for.

    Raises:
        InvalidPattern: one of them is malformed.
    """
    fixed = fixed_parts(pattern)
    return fixed_parts(other)[: len(fixed)] == fixed
