"""Project names in devopsellence.yml, read without validating the rest of the file."""

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
    """Organization, project and default environment of a file."""

    organization: str
    project: str
    default_environment: str


def identity(path: Path) -> ProjectIdentity:
    """Read organization, project and default environment from the file at ``path``; ignore the rest.

    Raises:
        ConfigError: the file cannot be read or is not YAML, or a name is missing or invalid.
    """
    document, _ = yaml_parser.parse(str(path), read_file(path))
    findings: list[ConfigFinding] = []
    names = [
        _name(str(path), document, "organization", findings),
        _name(str(path), document, "project", findings),
        _name(str(path), document, "default_environment", findings, default=DEFAULT_ENVIRONMENT),
    ]
    if findings:
        raise ConfigError(in_order(findings))
    return ProjectIdentity(*names)


def _name(file: str, document: Node, field: str, findings: list[ConfigFinding], default: str = "") -> str:
    entry = document.entries.get(field) if isinstance(document, MapNode) else None
    if entry is None and default:
        return default
    try:
        return scalars.name(_required(entry))
    except scalars.Unfit as error:
        mark, _ = locate(document, (field,))
        findings.append(ConfigFinding(field, f"{field} {error}", file, mark.line, mark.column))
        return ""


def _required(entry: MapEntry | None) -> object:
    if entry is None:
        raise scalars.Unfit("is required")
    return entry.value.value if isinstance(entry.value, Scalar) else plain(entry.value)
