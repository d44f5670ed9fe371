"""Files of the project, for tests about the project."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any, Final

PROJECT: Final = Path(__file__).parents[2]


def pyproject() -> dict[str, Any]:
    """Return the content of pyproject.toml."""
    return tomllib.loads((PROJECT / "pyproject.toml").read_text())
