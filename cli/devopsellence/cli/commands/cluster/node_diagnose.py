"""``node diagnose``: health of a node, as reported by its agent."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import click

from devopsellence.cli import context
from devopsellence.cli.commands.complete import complete_nodes
from devopsellence.cli.output import CliError, Output, pass_output

if TYPE_CHECKING:
    from devopsellence.api.v1.agent_pb2 import DiagnoseAnswer
    from devopsellence.store.etcd import Etcd

OPERATION: Final = "node diagnose"
# Timeout in seconds: the agent checks Docker and the disk.
_PATIENCE: Final = 15.0


@click.command()
@click.argument("name", shell_complete=complete_nodes)
@pass_output
@click.pass_context
def diagnose(ctx: click.Context, output: Output, name: str) -> None:
    """Show the health of a node, as reported by its agent.

    The agent checks Docker, etcd, the gateways, disk, memory, its certificate, the environments on the node, and the
    isolation of their networks.

    \b
    Example:
      devopsellence node diagnose prod-1
    """
    from devopsellence.cli.agent import diagnose as diagnosis

    answer = context.run(ctx, lambda etcd: _ask(ctx, etcd, name))
    failed = diagnosis.failed(answer)
    if not failed or not output.json:
        output.result(OPERATION, diagnosis.text(answer), **diagnosis.document(answer))
    if failed:
        names = ", ".join(check.name for check in failed)
        findings = [diagnosis.finding(check) for check in failed] if output.json else []
        raise CliError("check_failed", f"failed checks on node {name}: {names}", findings=findings)


async def _ask(ctx: click.Context, etcd: Etcd, name: str) -> DiagnoseAnswer:
    import grpc.aio

    from devopsellence.api.v1.agent_pb2 import DiagnoseRequest
    from devopsellence.cli.agent import client

    (agent,) = await client.find_agents(etcd, [name])
    async with client.connect(context.connection(ctx), agent) as stub:
        try:
            return await stub.Diagnose(DiagnoseRequest(), timeout=_PATIENCE)
        except grpc.aio.AioRpcError as error:
            raise client.call_error(agent, error) from error
