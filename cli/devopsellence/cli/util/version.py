"""Version of the installed package. Covered by tests/unit/cli/test_main.py."""

from __future__ import annotations

from typing import Final

_DISTRIBUTION: Final = "devopsellence"


def version_line() -> str:
    """Return the program with its version, as a line for people."""
    return f"{_DISTRIBUTION} {installed_version() or '(source tree, not installed)'}"


def installed_version() -> str | None:
    """Return the version of the installed package; None in a source tree that is not installed."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(_DISTRIBUTION)
    except PackageNotFoundError:
        return None
