"""Who a file belongs to, without validating the rest of it: for commands that only look."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from devopsellence.config import scalars, yaml_parser
from devopsellence.config.file import read_file
from devopsellence.config.problems import ConfigError, ConfigFinding, in_order
from devopsellence.config.yaml_tree import MapEntry, MapNode, Node, Scalar, locate, plain

DEFAULT_ENVIRONMENT = "production"


@dataclass(frozen=True, slots=True)
class ProjectIdentity:
    """Where in the store a file's releases stand."""

    organization: str
    project: str
    default_environment: str


def identity(path: Path) -> ProjectIdentity:
    """The organization, project and default environment of the file at ``path``; the rest is not looked at.

    Raises:
        ConfigError: it cannot be read, is no YAML, or one of these is missing or not a name.
    """
    document, _ = yaml_parser.parse(str(path), read_file(path))
    found: list[ConfigFinding] = []
    names = [
        _name(str(path), document, "organization", found),
        _name(str(path), document, "project", found),
        _name(str(path), document, "default_environment", found, default=DEFAULT_ENVIRONMENT),
    ]
    if found:
        raise ConfigError(in_order(found))
    return ProjectIdentity(*names)


def _name(file: str, document: Node, field: str, found: list[ConfigFinding], default: str = "") -> str:
    entry = document.entries.get(field) if isinstance(document, MapNode) else None
    if entry is None and default:
        return default
    try:
        return scalars.name(_required(entry))
    except scalars.Unfit as error:
        mark, _ = locate(document, (field,))
        found.append(ConfigFinding(field, f"{field} {error}", file, mark.line, mark.column))
        return ""


def _required(entry: MapEntry | None) -> object:
    if entry is None:
        raise scalars.Unfit("is required")
    return entry.value.value if isinstance(entry.value, Scalar) else plain(entry.value)
