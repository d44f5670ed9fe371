"""Names of hollow nodes."""

from __future__ import annotations


def node_names(count: int, first: int = 0) -> list[str]:
    """Return ``h00000``, ``h00001`` …, from number ``first`` on."""
    return [f"h{number:05}" for number in range(first, first + count)]
