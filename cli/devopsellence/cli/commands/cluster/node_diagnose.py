"""``node diagnose``: how a machine is, by its agent's account."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import click

from devopsellence.cli import context
from devopsellence.cli.output import CliError, Output, pass_output

if TYPE_CHECKING:
    from devopsellence.api.v1.agent_pb2 import DiagnoseAnswer
    from devopsellence.store.etcd import Etcd

OPERATION: Final = "node diagnose"
# Seconds; an agent looks at Docker and the disk for this.
_PATIENCE: Final = 15.0


@click.command()
@click.argument("name")
@pass_output
@click.pass_context
def diagnose(ctx: click.Context, output: Output, name: str) -> None:
    """Ask a node's agent how it is: Docker, etcd, disk, memory, certificate, environments, isolation.

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
        raise CliError("check_failed", f"node {name} is not well: {names}", findings=findings)


async def _ask(ctx: click.Context, etcd: Etcd, name: str) -> DiagnoseAnswer:
    import grpc.aio

    from devopsellence.api.v1.agent_pb2 import DiagnoseRequest
    from devopsellence.cli.agent import client

    (agent,) = await client.find(etcd, [name])
    async with client.connect(context.connection(ctx), agent) as stub:
        try:
            return await stub.Diagnose(DiagnoseRequest(), timeout=_PATIENCE)
        except grpc.aio.AioRpcError as error:
            raise client.refused(agent, error) from error
