"""Options of the commands about operators: roles, and patterns of environments."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, TypeVar

import click

from devopsellence.access.roles import Role
from devopsellence.cli.commands.complete import complete_patterns
from devopsellence.cli.options import AliasedOption

F = TypeVar("F", bound=Callable[..., Any])
ROLES: Final = click.Choice([role.value for role in Role])
_PATTERN_HELP: Final = "Environments (repeatable): '*', 'acme/*', 'acme/shop/*' or acme/shop/production."


def roles_option(command: F) -> F:
    """Declare ``--role``: one or more roles."""
    decorate: Callable[[F], F] = click.option(
        "--role", "roles", type=ROLES, multiple=True, required=True, help="Role (repeatable)."
    )
    return decorate(command)


def environments_option(*, required: bool = False, default: str = "") -> Callable[[F], F]:
    """Declare ``--environment`` of a command about roles: patterns, instead of the one environment of others."""
    return click.option(
        "--environment",
        "patterns",
        cls=AliasedOption,
        aliases=["--env"],
        multiple=True,
        required=required,
        metavar="PATTERN",
        shell_complete=complete_patterns,
        help=f"{_PATTERN_HELP}  [default: {default}]" if default else _PATTERN_HELP,
    )
