"""``help``: the help of a command, as printed by ``--help``."""

from __future__ import annotations

import click

from devopsellence.cli.commands.complete import complete_commands
from devopsellence.cli.output import Output, pass_output


@click.command("help")
@click.argument("command", nargs=-1, shell_complete=complete_commands)
@pass_output
@click.pass_context
def help_(ctx: click.Context, output: Output, command: tuple[str, ...]) -> None:
    """Show the help of a command.

    Without a command, shows all commands.

    \b
    Example:
      devopsellence help
      devopsellence help node register
    """
    shown = ctx.find_root()
    for word in command:
        shown = _below(shown, word)
    text = shown.get_help()
    output.result("help", text, command=" ".join(command), help=text)


def _below(ctx: click.Context, word: str) -> click.Context:
    """Return the context of the subcommand ``word``.

    Raises:
        click.UsageError: there is none.
    """
    if not isinstance(ctx.command, click.Group):
        raise click.UsageError(f"{ctx.command_path} has no subcommands.", ctx)
    _, command, _ = ctx.command.resolve_command(ctx, [word])
    if command is None:
        raise click.UsageError(f"No such command {word!r}.", ctx)
    return click.Context(command, parent=ctx, info_name=command.name)
