"""``task``: one-shot commands that come with a release."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

import click

from devopsellence.cli import context
from devopsellence.cli.commands.complete import tasks as complete_tasks
from devopsellence.cli.options import environment_option
from devopsellence.cli.output import Output, pass_output

if TYPE_CHECKING:
    from devopsellence.api.v1.workload_pb2 import Task
    from devopsellence.cli.agent.exec import Manner
    from devopsellence.cli.agent.locate import Survey
    from devopsellence.store.etcd import Etcd


@click.group()
def task() -> None:
    """Run a release's tasks by hand, and list them.

    \b
    Example:
      devopsellence task list
      devopsellence task run console
    """


@task.command()
@click.argument("name", shell_complete=complete_tasks)
@click.argument("args", nargs=-1, type=click.UNPROCESSED)
@click.option("--node", metavar="NODE", help="On this node; else the first by name that may run it.")
@click.option("--interactive", "-i", is_flag=True, help="Pass stdin on.")
@click.option("--tty", "-t", is_flag=True, help="On a terminal of its own; with -i for a console.")
@click.option("--yes", is_flag=True, help="Also the release task, which every rollout runs by itself.")
@environment_option
@pass_output
@click.pass_context
def run(
    ctx: click.Context,
    output: Output,
    name: str,
    args: tuple[str, ...],
    node: str | None,
    interactive: bool,
    tty: bool,
    yes: bool,
) -> None:
    """Run a task of the newest release in a container of its own, removed afterwards; its exit code is passed on.

    ARGS replace the task's own args. Ctrl-C stops the task: SIGTERM first, and a second one ends it.

    \b
    Example:
      devopsellence task run report
      devopsellence task run report -- --month 2024-05
    """
    from devopsellence.cli.agent import exec as agent_exec

    manner = agent_exec.Manner(interactive, tty, "SIGTERM")
    agent_exec.check(output, manner)
    ctx.exit(context.run(ctx, lambda etcd: _run(ctx, etcd, output, name, args, node, manner, yes)))


async def _run(
    ctx: click.Context,
    etcd: Etcd,
    output: Output,
    name: str,
    args: tuple[str, ...],
    node: str | None,
    manner: Manner,
    sure: bool,
) -> int:
    from devopsellence.api.v1.agent_pb2 import RunStart
    from devopsellence.cli.agent import exec as agent_exec
    from devopsellence.cli.agent.locate import survey
    from devopsellence.cli.agent.select import for_task, task_named

    ref = await context.environment(ctx, etcd)
    found = await survey(etcd, ref, (node,) if node else ())
    chosen = task_named(found, name, sure=sure)
    agent = for_task(found, chosen)
    start = RunStart(environment=str(ref), task=chosen)
    if args:
        start.task.args[:] = args
    return await agent_exec.run(context.connection(ctx), agent, lambda stub: stub.RunTask(), start, manner, output)


@task.command("list")
@environment_option
@pass_output
@click.pass_context
def list_(ctx: click.Context, output: Output) -> None:
    """List the tasks of the newest release.

    \b
    Example:
      devopsellence task list -o json
    """
    from devopsellence.cli.agent.select import all_tasks
    from devopsellence.cli.util.text import columns, safe

    found = context.run(ctx, lambda etcd: _survey(ctx, etcd))
    tasks = all_tasks(found)
    table = [
        [
            each.name,
            each.service,
            safe(_command(each)),
            "in every rollout" if _is_release_task(found, each) else "by hand",
        ]
        for each in tasks
    ]
    text = columns(("TASK", "SERVICE", "COMMAND", "RUNS"), table) if table else f"{found.ref} has no tasks."
    documents = [
        {
            "name": each.name,
            "service": each.service,
            "command": list(each.command),
            "args": list(each.args),
            "release_task": _is_release_task(found, each),
        }
        for each in tasks
    ]
    release = found.release.number if found.release is not None else 0
    output.result("task list", text, environment=str(found.ref), release=release, tasks=documents)


async def _survey(ctx: click.Context, etcd: Etcd) -> Survey:
    from devopsellence.cli.agent.locate import survey

    return await survey(etcd, await context.environment(ctx, etcd))


def _command(task: Task) -> str:
    return shlex.join([*task.command, *task.args])


def _is_release_task(found: Survey, task: Task) -> bool:
    release = found.release
    return release is not None and release.HasField("release_task") and release.release_task.name == task.name
