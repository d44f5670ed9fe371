"""Command groups with the short names of other tools: ``ls`` for list, ``rm`` for remove and delete."""

from __future__ import annotations

from typing import Final

import click

#: Accepted names of commands; the first existing command counts. Helps and completions show only the commands.
ALIASES: Final[dict[str, tuple[str, ...]]] = {
    "ls": ("list",),
    "rm": ("remove", "delete"),
    "remove": ("delete",),
    "delete": ("remove",),
}


class CommandGroup(click.Group):
    """Command group that accepts :data:`ALIASES`; the context of a command has the name of the command itself."""

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        command = super().get_command(ctx, cmd_name)
        if command is not None:
            return command
        return next((self.commands[name] for name in ALIASES.get(cmd_name, ()) if name in self.commands), None)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        _, command, rest = super().resolve_command(ctx, args)
        return command.name if command is not None else None, command, rest
