"""Validation of a document against the schema and the cross checks, reporting all problems at once."""

from __future__ import annotations

from typing import Any, Final

from pydantic import ValidationError

from devopsellence.config import cross_checks, scalars
from devopsellence.config.problems import MAX_PROBLEMS, ConfigProblem, DocPath, nearest, quoted
from devopsellence.config.schema import AS_LIST, AS_MAP, RootSection, Section, model_at
from devopsellence.config.yaml_tree import Plain

# Field names of other tools without a similar spelling, and the name here.
_FOREIGN_NAMES: Final = {
    "cmd": "args",
    "entrypoint": "command",
    "environment": "env",
    "environment_variables": "env",
    "secrets": "secret_refs",
    "health_check": "healthcheck",
    "cpu_limit": "resources",
    "mem_limit": "resources",
    "pids_limit": "security",
    "cap_add": "security",
    "security_opt": "security",
    "stop_timeout": "stop_grace_period",
    "path": "path_prefix",
    "name": "project",
}


def check(document: Plain) -> tuple[RootSection | None, list[ConfigProblem]]:
    """Validate a document; return the result (None if a field is invalid) and all problems."""
    if not isinstance(document, dict):
        return None, [
            ConfigProblem((), f"the file must be a map of keys such as schema_version, not {scalars.kind_of(document)}")
        ]
    problems = cross_checks.cross_check(document)
    try:
        return RootSection.model_validate(document), problems
    except ValidationError as error:
        details = error.errors(include_url=False, include_input=False)[:MAX_PROBLEMS]
        return None, [*(_problem(detail["loc"], detail["type"], detail) for detail in details), *problems]


def unknown_key(path: DocPath, model: type[Section] | None) -> ConfigProblem:
    """Return the problem of an unknown key, with the most similar known key."""
    key = str(path[-1])
    known = list(model.model_fields) if model else []
    translated = _FOREIGN_NAMES.get(key.lower(), "")
    match = translated if translated in known else nearest(key, known)
    hint = f"did you mean {quoted(match)}?" if match else f"known keys: {', '.join(known)}"
    return ConfigProblem(path, f"is not a known key; {hint}", on_key=True)


def _problem(loc: tuple[int | str, ...], kind: str, detail: Any) -> ConfigProblem:
    on_key = kind == "value_error" and loc[-1:] == ("[key]",)
    path = _without_tags(loc[:-1] if on_key else loc)
    if kind == "missing":
        return ConfigProblem(path, "is required")
    if kind == "extra_forbidden":
        return unknown_key(path, model_at(path[:-1]))
    if kind == "value_error":
        return ConfigProblem(path, str(detail["ctx"]["error"]), on_key)
    return ConfigProblem(path, f"is not valid: {detail['msg']}", on_key)  # unreachable as far as known


def _without_tags(loc: tuple[int | str, ...]) -> DocPath:
    """Return pydantic's path without the tags of the two forms of ``depends_on``."""
    return tuple(
        step for at, step in enumerate(loc) if not (step in (AS_LIST, AS_MAP) and at and loc[at - 1] == "depends_on")
    )
