"""Tree of all commands, as the command line loads it."""

from __future__ import annotations

from collections.abc import Iterator

import click

from devopsellence.cli.main import COMMANDS, main


def commands() -> dict[str, click.Command]:
    """Return every command and group below the root, by the words that call it."""

    def walk(words: str, command: click.Command) -> Iterator[tuple[str, click.Command]]:
        yield words, command
        if isinstance(command, click.Group):
            for name, child in command.commands.items():
                yield from walk(f"{words} {name}", child)

    root = click.Context(main)
    return {
        words: command
        for name in COMMANDS
        if (loaded := main.get_command(root, name)) is not None
        for words, command in walk(name, loaded)
    }


def leaves() -> dict[str, click.Command]:
    """Return the commands that are no groups."""
    return {words: command for words, command in commands().items() if not isinstance(command, click.Group)}
