"""Shell completion of service and task names from devopsellence.yml; errors in the file are ignored."""

from __future__ import annotations

from pathlib import Path

import click
from click.shell_completion import CompletionItem


def complete_services(_ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Return the matching services of the configuration."""
    return _names("services", incomplete)


def complete_tasks(_ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Return the matching tasks of the configuration."""
    return _names("tasks", incomplete)


def _names(section: str, incomplete: str) -> list[CompletionItem]:
    from devopsellence import config
    from devopsellence.config import file, yaml_parser
    from devopsellence.config.yaml_tree import plain

    try:
        path = config.find(Path.cwd())
        document = plain(yaml_parser.parse(str(path), file.read_file(path))[0]) if path is not None else None
    except (config.ConfigError, OSError):
        return []
    entries = document.get(section) if isinstance(document, dict) else None
    names = [str(name) for name in entries] if isinstance(entries, dict) else []
    return [CompletionItem(name) for name in names if name.startswith(incomplete)]
