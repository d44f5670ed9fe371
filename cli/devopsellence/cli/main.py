"""The root command: a table of command names, so ``--help`` imports nothing but click.

``main`` is the click group. Calling ``main`` runs the process and turns every error into a message and an exit code.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib import import_module
from itertools import zip_longest
from typing import TYPE_CHECKING, Any, Final

import click

from devopsellence.cli import signals, streams
from devopsellence.cli.options import add_global_options, global_options
from devopsellence.cli.output import CliError, Output
from devopsellence.cli.untrusted import safe_lines

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

PROGRAM: Final = "devopsellence"
# Message of click for a group with options only, such as ``devopsellence node -q``.
_MISSING_COMMAND: Final = "Missing command."

# Section -> name -> (module:attribute, summary). The summary is the first sentence of the command's help.
SECTIONS: Final[dict[str, dict[str, tuple[str, str]]]] = {
    "Getting started": {
        "init": (
            "devopsellence.cli.commands.start.init:init",
            "Create a devopsellence.yml for the app in this folder.",
        ),
        "dev": ("devopsellence.cli.commands.start.dev:dev", "Run a local cluster on this machine."),
        "config": ("devopsellence.cli.commands.start.config:config", "Validate and show the configuration."),
        "completion": ("devopsellence.cli.commands.start.completion:completion", "Print a shell completion script."),
        "help": ("devopsellence.cli.commands.start.help:help_", "Show the help of a command."),
        "version": ("devopsellence.cli.commands.start.version:version", "Show the version of devopsellence."),
    },
    "Deploy": {
        "deploy": (
            "devopsellence.cli.commands.app.deploy:deploy",
            "Build the app image, create a release, follow the rollout.",
        ),
        "status": ("devopsellence.cli.commands.app.status:status", "Show release and service status."),
        "logs": ("devopsellence.cli.commands.app.logs:logs", "Show the logs of services, from all nodes."),
        "exec": ("devopsellence.cli.commands.app.exec_:exec_", "Run a command in a running container of a service."),
        "task": ("devopsellence.cli.commands.app.task:task", "List tasks and run them by hand."),
        "secret": ("devopsellence.cli.commands.app.secret:secret", "Set, list and delete secrets."),
        "ingress": (
            "devopsellence.cli.commands.app.ingress:ingress",
            "Configure, show and check hosts, routing and TLS.",
        ),
        "release": ("devopsellence.cli.commands.app.release:release", "List and show releases, and roll back."),
        "events": ("devopsellence.cli.commands.app.events:events", "Show the events of an environment."),
    },
    "Cluster": {
        "node": ("devopsellence.cli.commands.cluster.node:node", "Register, label, attach, drain and remove nodes."),
        "env": ("devopsellence.cli.commands.cluster.env:env", "List and delete environments."),
        "cluster": (
            "devopsellence.cli.commands.cluster.cluster:cluster",
            "Set up a cluster: certificates and the access of operators.",
        ),
        "operator": (
            "devopsellence.cli.commands.cluster.operator:operator",
            "Add and remove operators, and grant them roles.",
        ),
        "context": (
            "devopsellence.cli.commands.cluster.context:context",
            "Add, choose and show clusters with names.",
        ),
        "audit": (
            "devopsellence.cli.commands.cluster.audit:audit",
            "Show who did what in the cluster, and what was refused.",
        ),
        "doctor": (
            "devopsellence.cli.commands.cluster.doctor:doctor",
            "Check the setup and show how to fix problems.",
        ),
    },
}
COMMANDS: Final = {name: entry for section in SECTIONS.values() for name, entry in section.items()}

_HELP: Final = """Deploy containers to plain VMs.

devopsellence keeps releases in etcd. A controller assigns services to nodes, and an agent on each node runs them with
Docker.

\b
Example:
  devopsellence init
  devopsellence dev up
  devopsellence deploy
  devopsellence status
"""


class LazyGroup(click.Group):
    """Command group importing the module of a command on use, not for listing."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name in self.commands:
            return self.commands[cmd_name]
        if cmd_name not in COMMANDS:
            return None
        module, _, attribute = COMMANDS[cmd_name][0].partition(":")
        command: click.Command = getattr(import_module(module), attribute)
        add_global_options(command)
        self.commands[cmd_name] = command
        return command

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except signals.Interrupted as error:
            from devopsellence.cli.errors import interrupted

            # Not left to click, which writes to the terminal first: after SIGHUP there may be none.
            raise interrupted(error) from error

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if not ctx.resilient_parsing and args and args[0].isidentifier() and args[0] not in COMMANDS:
            from difflib import get_close_matches

            near = get_close_matches(args[0], COMMANDS, n=2)
            meant = f" Did you mean {' or '.join(near)}?" if near else ""
            raise click.UsageError(f"No such command {args[0]!r}.{meant}", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for section, commands in SECTIONS.items():
            with formatter.section(section):
                formatter.write_dl([(name, text) for name, (_, text) in commands.items()])

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        from click.shell_completion import CompletionItem

        names = [CompletionItem(n, help=text) for n, (_, text) in COMMANDS.items() if n.startswith(incomplete)]
        return names + click.Command.shell_complete(self, ctx, incomplete)

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        **extra: Any,
    ) -> Any:
        """Run the command line and exit; with ``standalone_mode`` off, behave like ``click.Group.main``."""
        if not standalone_mode:
            return super().main(args, prog_name, complete_var, standalone_mode=False, **extra)
        arguments = list(sys.argv[1:] if args is None else args)
        streams.prepare()
        output = Output()
        if problem := streams.problem_of(arguments):
            sys.exit(_report(CliError("usage", problem, exit_code=2), output, arguments))
        try:
            with signals.unwinding():
                code = super().main(arguments, PROGRAM, complete_var, standalone_mode=False, obj=output, **extra)
        except click.UsageError as error:
            if (group := _bare_group(error)) is None:
                sys.exit(_report(error, output, arguments))
            click.echo(group.get_help())
            sys.exit(0)
        except BrokenPipeError:
            # The reader of the pipe has closed it; the flush at exit must not report that.
            _discard_output()
            sys.exit(1)
        except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001 (all errors end here)
            sys.exit(_report(error, output, arguments))
        sys.exit(code if isinstance(code, int) else 0)


def _bare_group(error: click.UsageError) -> click.Context | None:
    """Return the context of a group called without a command, which gets help instead of an error."""
    without_command = isinstance(error, click.exceptions.NoArgsIsHelpError) or error.message == _MISSING_COMMAND
    return error.ctx if without_command and error.ctx and isinstance(error.ctx.command, click.Group) else None


def _report(error: BaseException, output: Output, arguments: Sequence[str]) -> int:
    """Print the error and return the exit code."""
    from devopsellence.cli.errors import explain

    # The parser rejects an unknown option before -o takes effect.
    output.json = output.json or _asks_for_json(arguments)
    if output.debug or "--debug" in arguments:
        import traceback

        click.echo(safe_lines("".join(traceback.format_exception(error))), err=True, nl=False)
    explained = explain(error)
    try:
        if isinstance(error, click.UsageError) and not output.json:
            error.show()
        else:
            output.error(explained)
        sys.stdout.flush()
    except OSError:
        # The terminal is closed, as after SIGHUP: the exit code is all that is left to say.
        _discard_output()
    return explained.exit_code


def _discard_output() -> None:
    """Send what is still to be written to stdout nowhere, so that the flush at exit reports no error."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _asks_for_json(arguments: Sequence[str]) -> bool:
    pairs = zip_longest(arguments, arguments[1:])
    return any(
        argument in ("-ojson", "--output=json") or (argument in ("-o", "--output") and value == "json")
        for argument, value in pairs
    )


def _print_version(ctx: click.Context, _param: click.Parameter, value: bool) -> None:
    if not value or ctx.resilient_parsing:
        return
    from devopsellence.cli.util.version import version_line

    click.echo(version_line())
    ctx.exit()


main = LazyGroup(
    name=PROGRAM,
    help=_HELP,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    params=[
        *global_options(hidden=False),
        click.Option(
            ["--version"],
            is_flag=True,
            is_eager=True,
            expose_value=False,
            callback=_print_version,
            help="Show the version and exit.",
        ),
    ],
    no_args_is_help=True,
)
