"""``task``: list the tasks of a release and run them by hand."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

import click

from devopsellence.access.roles import Action
from devopsellence.cli import context
from devopsellence.cli.commands.complete import complete_nodes, complete_tasks
from devopsellence.cli.confirm import confirm, destroys
from devopsellence.cli.groups import CommandGroup
from devopsellence.cli.options import environment_option
from devopsellence.cli.output import Output, pass_output

if TYPE_CHECKING:
    from devopsellence.api.v1.workload_pb2 import Task
    from devopsellence.cli.agent.exec import ExecOptions
    from devopsellence.cli.agent.locate import EnvironmentAgents
    from devopsellence.store.etcd import Etcd


@click.group(cls=CommandGroup)
def task() -> None:
    """List tasks and run them by hand.

    A task is a one-off command of the configuration, such as a database migration or a console.

    \b
    Example:
      devopsellence task list
      devopsellence task run console
    """


@task.command()
@destroys("runs the release task once more", late=True)
@click.argument("name", shell_complete=complete_tasks)
@click.argument("args", nargs=-1, type=click.UNPROCESSED)
@click.option(
    "--node",
    metavar="NODE",
    shell_complete=complete_nodes,
    help="Node to run on.  [default: first suitable node]",
)
@click.option("--interactive", "-i", is_flag=True, help="Pass stdin to the task.")
@click.option("--tty", "-t", is_flag=True, help="Allocate a pseudo-terminal; use -it for a console.")
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
) -> None:
    """Run a task of the running release in a new container.

    The container is removed afterwards, and devopsellence exits with the exit code of the task. ARGS replace the args
    of the task. The first Ctrl-C sends SIGTERM to the task and the second Ctrl-C ends the task. The release task, which
    every rollout runs anyway, needs a confirmation.

    \b
    Example:
      devopsellence task run report
      devopsellence task run report -- --month 2024-05
    """
    from devopsellence.cli.agent import exec as agent_exec
    from devopsellence.cli.agent.select import task_named

    manner = agent_exec.ExecOptions(interactive, tty, "SIGTERM")
    agent_exec.check_options(output, manner)
    nodes = context.run(ctx, lambda etcd: _agents(ctx, etcd, node))
    chosen = task_named(nodes, name)
    if _is_release_task(nodes, chosen):
        sentence = f"Task {name} is the release task, which every rollout runs; this runs it once more now."
        confirm(ctx, sentence, code="release_task")
    ctx.exit(context.run(ctx, lambda _: _run(ctx, output, nodes, chosen, args, manner)))


async def _agents(ctx: click.Context, etcd: Etcd, node: str | None) -> EnvironmentAgents:
    from devopsellence.cli.agent.locate import read_agents
    from devopsellence.cli.store.releases import read_numbers

    ref = await context.environment(ctx, etcd, Action.EXECUTE)
    # An unreadable record of the rollout is an error: the newest release may be one that was rolled back.
    await read_numbers(etcd, ref)
    return await read_agents(etcd, ref, (node,) if node else ())


async def _run(
    ctx: click.Context,
    output: Output,
    nodes: EnvironmentAgents,
    task: Task,
    args: tuple[str, ...],
    manner: ExecOptions,
) -> int:
    from devopsellence.api.v1.agent_pb2 import RunStart
    from devopsellence.cli.agent import exec as agent_exec
    from devopsellence.cli.agent.select import agent_for_task

    agent = agent_for_task(nodes, task)
    start = RunStart(environment=str(nodes.ref), task=task)
    if args:
        start.task.args[:] = args
    return await agent_exec.run_on_node(
        context.connection(ctx), agent, lambda stub: stub.RunTask(), start, manner, output
    )


@task.command("list")
@environment_option
@pass_output
@click.pass_context
def list_(ctx: click.Context, output: Output) -> None:
    """List the tasks of the running release.

    \b
    Example:
      devopsellence task list -o json
    """
    from devopsellence.cli.agent.select import all_tasks
    from devopsellence.cli.untrusted import safe
    from devopsellence.cli.util.text import columns

    nodes = context.run(ctx, lambda etcd: _survey(ctx, etcd))
    tasks = all_tasks(nodes)
    table = [
        [
            task.name,
            task.service,
            safe(_command(task)),
            "in every rollout" if _is_release_task(nodes, task) else "by hand",
        ]
        for task in tasks
    ]
    text = columns(("TASK", "SERVICE", "COMMAND", "RUNS"), table) if table else f"{nodes.ref} has no tasks."
    documents = [
        {
            "name": task.name,
            "service": task.service,
            "command": list(task.command),
            "args": list(task.args),
            "release_task": _is_release_task(nodes, task),
        }
        for task in tasks
    ]
    release = nodes.release.number if nodes.release is not None else 0
    output.result("task list", text, environment=str(nodes.ref), release=release, tasks=documents)


async def _survey(ctx: click.Context, etcd: Etcd) -> EnvironmentAgents:
    from devopsellence.cli.agent.locate import read_agents

    return await read_agents(etcd, await context.environment(ctx, etcd))


def _command(task: Task) -> str:
    return shlex.join([*task.command, *task.args])


def _is_release_task(nodes: EnvironmentAgents, task: Task) -> bool:
    release = nodes.release
    return release is not None and release.HasField("release_task") and release.release_task.name == task.name
