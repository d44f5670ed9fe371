"""Rendering of documents as YAML, unambiguous for YAML 1.1 and 1.2 (``yes`` is quoted)."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping
from typing import Any, Final

from ruamel.yaml import YAML
from ruamel.yaml.scalarstring import DoubleQuotedScalarString

# Booleans of YAML 1.1 that are text in 1.2, and numbers, times and dates of 1.1; ruamel quotes the rest.
_AMBIGUOUS: Final = re.compile(r"(?ai)(?:y|n|yes|no|on|off|[-+.:_0-9]*)\Z")
# Line breaks of YAML 1.1, which ruamel folds within single quotes.
_BREAKS: Final = re.compile("[\x85\u2028\u2029]")


def to_yaml(document: Mapping[str, Any]) -> str:
    """Render ``document`` (see :func:`export.to_document`) as YAML in block style, keys in the given order."""
    yaml = YAML()
    yaml.width = 1 << 20
    yaml.indent(mapping=2, sequence=4, offset=2)
    stream = io.StringIO()
    yaml.dump(_unambiguous(document), stream)
    return stream.getvalue()


def _unambiguous(value: Any) -> Any:
    if isinstance(value, str):
        return DoubleQuotedScalarString(value) if _AMBIGUOUS.match(value) or _BREAKS.search(value) else value
    if isinstance(value, Mapping):
        return {_unambiguous(key): _unambiguous(below) for key, below in value.items()}
    return [_unambiguous(below) for below in value] if isinstance(value, list) else value
