"""``status``: one environment, now or as it changes."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

import click

from devopsellence.cli import context
from devopsellence.cli.options import environment_option
from devopsellence.cli.output import Output, pass_output

if TYPE_CHECKING:
    from devopsellence.cli.view.snapshot import Snapshot
    from devopsellence.store.etcd import Etcd

OPERATION: Final = "status"


@click.command()
@click.option("--watch", "-w", is_flag=True, help="Go on until the rollout has settled or failed.")
@environment_option
@pass_output
@click.pass_context
def status(ctx: click.Context, output: Output, watch: bool) -> None:
    """Show an environment: its release, the rollout, and every service on every node.

    In a folder without a devopsellence.yml, the only environment of the cluster is shown, or the one that --env names.

    \b
    Example:
      devopsellence status
      devopsellence status --watch
      devopsellence status --env acme/shop/staging -o json
    """
    if watch:
        context.run(ctx, lambda etcd: _watch(ctx, etcd, output))
    else:
        _print(output, context.run(ctx, lambda etcd: _read(ctx, etcd)))


async def _read(ctx: click.Context, etcd: Etcd) -> Snapshot:
    from devopsellence.cli.read import snapshot

    return await snapshot(etcd, await context.environment(ctx, etcd))


async def _watch(ctx: click.Context, etcd: Etcd, output: Output) -> None:
    from devopsellence.cli.release.follow import failure, follow
    from devopsellence.cli.view import document
    from devopsellence.cli.view.rows import rows
    from devopsellence.cli.view.text import rollout_line

    ref = await context.environment(ctx, etcd)
    snapshot, verdict = await follow(etcd, ref, output, OPERATION, whole=True)
    now = datetime.now(UTC)
    # What did not settle is still on the screen where there is one.
    problem = failure(snapshot, snapshot.number, verdict, [] if output.live else rows(snapshot, now))
    if problem is not None:
        raise problem
    text = f"Release {snapshot.number} of {ref} is {rollout_line(snapshot, now)}"
    output.result(OPERATION, text, **document.status(snapshot, now))


def _print(output: Output, snapshot: Snapshot) -> None:
    now = datetime.now(UTC)
    if output.json:
        from devopsellence.cli.view import document

        output.result(OPERATION, None, **document.status(snapshot, now))
    elif output.is_tty:
        from devopsellence.cli.view import screen

        output.console().print(screen.status(snapshot, now))
    else:
        from devopsellence.cli.view import text

        output.result(OPERATION, text.status(snapshot, now))
