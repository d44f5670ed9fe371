"""``exec``: run a command in a running container of a service."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from devopsellence.access.roles import Action
from devopsellence.cli import context
from devopsellence.cli.commands.complete import complete_nodes, complete_services
from devopsellence.cli.options import environment_option
from devopsellence.cli.output import Output, pass_output

if TYPE_CHECKING:
    from devopsellence.cli.agent.exec import ExecOptions
    from devopsellence.store.etcd import Etcd


@click.command("exec")
@click.argument("service", shell_complete=complete_services)
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
@click.option(
    "--node",
    metavar="NODE",
    shell_complete=complete_nodes,
    help="Node to run on.  [default: first node that runs it]",
)
@click.option("--interactive", "-i", is_flag=True, help="Pass stdin to the command.")
@click.option("--tty", "-t", is_flag=True, help="Allocate a pseudo-terminal; use -it for a shell.")
@environment_option
@pass_output
@click.pass_context
def exec_(
    ctx: click.Context,
    output: Output,
    service: str,
    command: tuple[str, ...],
    node: str | None,
    interactive: bool,
    tty: bool,
) -> None:
    """Run a command in a running container of a service.

    devopsellence exits with the exit code of COMMAND. Put -- before a COMMAND with options. Without -t, the first
    Ctrl-C sends SIGINT to COMMAND and the second Ctrl-C ends COMMAND.

    \b
    Example:
      devopsellence exec web -- ls -l /app
      devopsellence exec web -it -- sh
      devopsellence exec web --node prod-1 -i -- psql < dump.sql
    """
    from devopsellence.cli.agent import exec as agent_exec

    manner = agent_exec.ExecOptions(interactive, tty, "SIGINT")
    agent_exec.check_options(output, manner)
    ctx.exit(context.run(ctx, lambda etcd: _exec(ctx, etcd, output, service, command, node, manner)))


async def _exec(
    ctx: click.Context,
    etcd: Etcd,
    output: Output,
    service: str,
    command: tuple[str, ...],
    node: str | None,
    manner: ExecOptions,
) -> int:
    from devopsellence.api.v1.agent_pb2 import RunStart, ServiceCommand
    from devopsellence.cli.agent import exec as agent_exec
    from devopsellence.cli.agent.locate import read_agents
    from devopsellence.cli.agent.select import agent_for_exec

    ref = await context.environment(ctx, etcd, Action.EXECUTE)
    nodes = await read_agents(etcd, ref, (node,) if node else ())
    agent, note = agent_for_exec(nodes, service, node_given=node is not None)
    if note:
        output.note(note)
    start = RunStart(environment=str(ref), command=ServiceCommand(service=service, command=command))
    return await agent_exec.run_on_node(context.connection(ctx), agent, lambda stub: stub.Exec(), start, manner, output)
