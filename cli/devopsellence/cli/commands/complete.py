"""Completion of names from the devopsellence.yml at hand: read as YAML and nothing more, and never an error."""

from __future__ import annotations

from pathlib import Path

import click
from click.shell_completion import CompletionItem


def services(_ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """The services of the configuration."""
    return _names("services", incomplete)


def tasks(_ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """The tasks of the configuration."""
    return _names("tasks", incomplete)


def _names(section: str, incomplete: str) -> list[CompletionItem]:
    from devopsellence import config
    from devopsellence.config import file, yaml_parser
    from devopsellence.config.yaml_tree import plain

    try:
        path = config.find(Path.cwd())
        document = plain(yaml_parser.parse(str(path), file.read(path))[0]) if path is not None else None
    except (config.ConfigError, OSError):
        return []
    found = document.get(section) if isinstance(document, dict) else None
    names = [str(name) for name in found] if isinstance(found, dict) else []
    return [CompletionItem(name) for name in names if name.startswith(incomplete)]
