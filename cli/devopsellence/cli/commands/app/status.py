"""``status``: release and service status of an environment."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

import click

from devopsellence.cli import context
from devopsellence.cli.options import environment_option
from devopsellence.cli.output import Output, pass_output

if TYPE_CHECKING:
    from devopsellence.cli.store.snapshot import Snapshot
    from devopsellence.store.etcd import Etcd

OPERATION: Final = "status"


@click.command()
@click.option("--watch", "-w", is_flag=True, help="Watch until the rollout has settled or failed.")
@click.option("--all", "everything", is_flag=True, help="List every service of every node, however many.")
@environment_option
@pass_output
@click.pass_context
def status(ctx: click.Context, output: Output, watch: bool, everything: bool) -> None:
    """Show release and service status.

    Shows the current release, its rollout, and every service on every node. With more than a dozen nodes, nodes in the
    same state share a line, problems first; --all lists every node.

    In a folder without a devopsellence.yml, select the environment with --env, unless the cluster has only one.

    \b
    Example:
      devopsellence status
      devopsellence status --watch
      devopsellence status --all
      devopsellence status --env acme/shop/staging -o json
    """
    if watch:
        try:
            context.run(ctx, lambda etcd: _watch(ctx, etcd, output, everything=everything))
        except KeyboardInterrupt as error:
            from devopsellence.cli import errors

            raise errors.interrupted(error, "a rollout continues by itself") from error
    else:
        _print(output, context.run(ctx, lambda etcd: _read(ctx, etcd)), everything=everything)


async def _read(ctx: click.Context, etcd: Etcd) -> Snapshot:
    from devopsellence.cli.store.reader import snapshot

    return await snapshot(etcd, await context.environment(ctx, etcd))


async def _watch(ctx: click.Context, etcd: Etcd, output: Output, *, everything: bool) -> None:
    from devopsellence.cli.deploy.follow import follow, next_steps, rollout_error
    from devopsellence.cli.render import json
    from devopsellence.cli.render.text import rollout_line

    ref = await context.environment(ctx, etcd)
    end = await follow(etcd, ref, output, OPERATION, whole=True, everything=everything)
    if (problem := rollout_error(end, live=output.live)) is not None:
        raise problem
    snapshot, now = end.snapshot, datetime.now(UTC)
    text = f"Release {snapshot.number} of {ref} is {rollout_line(snapshot, now)}"
    output.result(OPERATION, text, next_actions=next_steps(snapshot, now), **json.status(snapshot, now))


def _print(output: Output, snapshot: Snapshot, *, everything: bool) -> None:
    now = datetime.now(UTC)
    if output.json:
        from devopsellence.cli.deploy.follow import next_steps
        from devopsellence.cli.render import json

        output.result(OPERATION, None, next_actions=next_steps(snapshot, now), **json.status(snapshot, now))
    elif output.is_tty:
        from devopsellence.cli.render import screen

        console = output.console()
        console.print(screen.status(snapshot, now, console.width, everything=everything))
    else:
        from devopsellence.cli.render import text

        output.result(OPERATION, text.status(snapshot, now, everything=everything))
