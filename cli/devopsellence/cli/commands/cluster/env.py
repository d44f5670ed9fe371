"""``env``: list environments, and delete one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from devopsellence.access.roles import Action
from devopsellence.cli import context, errors
from devopsellence.cli.commands.cluster.node_drain import dry_run_option, timeout_option
from devopsellence.cli.commands.complete import complete_environments
from devopsellence.cli.confirm import confirm, destroys
from devopsellence.cli.groups import CommandGroup
from devopsellence.cli.options import global_flags
from devopsellence.cli.output import NextAction, Output, pass_output

if TYPE_CHECKING:
    from devopsellence.cli.environments.delete import Deletion
    from devopsellence.cli.environments.remains import Remains
    from devopsellence.store.etcd import Etcd

DELETE = "env delete"


@click.group(cls=CommandGroup)
def env() -> None:
    """List and delete environments.

    \b
    Example:
      devopsellence env list
      devopsellence env delete acme/shop/review-17 --detach
    """


@env.command("list")
@pass_output
@click.pass_context
def list_(ctx: click.Context, output: Output) -> None:
    """List the environments of the cluster.

    Shows the newest release, the age and the attached nodes.

    \b
    Example:
      devopsellence env list
      devopsellence env list -o json
    """
    from datetime import UTC, datetime

    from devopsellence.cli.environments.list import HEADER, list_environments
    from devopsellence.cli.util.text import columns

    environments, problems = context.run(ctx, list_environments)
    for problem in problems:
        output.warning(f"{problem.key} is {problem.reason}")
    now = datetime.now(UTC)
    table = [environment.cells(now) for environment in environments]
    output.result(
        "env list",
        columns(HEADER, table) if table else "No environments yet. Create one: devopsellence deploy",
        next_actions=[] if table else [NextAction("create an environment", "devopsellence deploy")],
        environments=[environment.document() for environment in environments],
        problems=[{"key": problem.key, "reason": problem.reason} for problem in problems],
    )


@env.command()
@destroys("deletes the environment with its releases, secrets and certificates", unless="dry_run")
@click.argument("name", shell_complete=complete_environments)
@click.option("--detach", is_flag=True, help="First detach its nodes, and wait until they have removed its containers.")
@dry_run_option
@timeout_option
@pass_output
@click.pass_context
def delete(ctx: click.Context, output: Output, name: str, detach: bool, dry_run: bool, seconds: float) -> None:
    """Delete an environment with its releases, secrets and certificates.

    Refused while nodes are attached, unless --detach is given. Volumes stay on the nodes. All records are deleted at
    once, after the nodes have removed everything; if the command is interrupted before, run it again.

    \b
    Example:
      devopsellence env delete review-17 --dry-run
      devopsellence env delete acme/shop/review-17 --detach
    """
    if global_flags(ctx).get("environment", name) != name:
        raise click.UsageError("--env names another environment than the argument", ctx)
    global_flags(ctx)["environment"] = name
    run = DeleteCommand(output)
    try:
        planned = context.run(ctx, lambda etcd: _plan(ctx, etcd, output, detach=detach, dry_run=dry_run))
        if not dry_run:
            confirm(ctx, f"This deletes {_loss(planned)}.")
            context.run(ctx, lambda etcd: run.delete(etcd, planned, seconds))
    except KeyboardInterrupt as error:
        raise errors.interrupted(error, run.stage) from error
    text = f"Would delete {_loss(planned)}." if dry_run else f"Deleted {planned.ref}: {planned.summary()}."
    output.result(
        DELETE,
        text + (f"\nIts volumes stay on {_nodes(planned.leaves)}." if planned.leaves and not dry_run else ""),
        environment=str(planned.ref),
        dry_run=dry_run,
        **planned.document(),
    )


@dataclass
class DeleteCommand:
    """Run of ``env delete``; ``stage`` describes the progress, for the message after an interrupt."""

    output: Output
    stage: str = "nothing was changed"

    async def delete(self, etcd: Etcd, planned: Deletion, seconds: float) -> None:
        """Delete the environment as planned."""
        from devopsellence.cli.environments import delete

        self.stage = f"nothing is deleted yet; to complete: devopsellence env delete {planned.ref}"
        self.stage += " --detach" if planned.attached else ""
        self.output.event(DELETE, "started", environment=str(planned.ref), **planned.document())
        await delete.delete(etcd, planned, removal_progress(self.output, DELETE), seconds)


def removal_progress(output: Output, operation: str) -> Any:
    """Return a function that prints what has left a node, with what is left in JSON."""

    def tell(sentence: str, left: Remains) -> None:
        output.progress(operation, sentence, left=left.document())

    return tell


async def _plan(ctx: click.Context, etcd: Etcd, output: Output, *, detach: bool, dry_run: bool) -> Deletion:
    from devopsellence.cli.environments import delete

    planned = await delete.plan(etcd, await context.environment(ctx, etcd, Action.DEPLOY))
    refused = delete.refusal(planned, detach=detach)
    if refused is not None and (planned.nothing or not dry_run):
        raise refused
    if refused is not None:
        output.warning(f"this would be refused: {refused.message}")
    return planned


def _loss(planned: Deletion) -> str:
    removed = (
        f", after removing its containers from {_nodes(planned.leaves)}; its volumes stay" if planned.leaves else ""
    )
    return f"{planned.ref} with {planned.summary()}{removed}"


def _nodes(names: tuple[str, ...]) -> str:
    from devopsellence.cli.util.text import few

    return few(names)
