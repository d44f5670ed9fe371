"""Whom to ask, decided from a survey. Pure; every refusal says what there is instead."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from devopsellence.api.v1.workload_pb2 import Service, Task
from devopsellence.cli.agent.client import AgentEndpoint
from devopsellence.cli.agent.locate import EnvironmentAgents
from devopsellence.cli.output import CliError, NextAction
from devopsellence.placement import why_not

_STATUS: Final = NextAction("see what runs where", "devopsellence status")


@dataclass(frozen=True)
class LogSource:
    """A node to ask for output, and the services to ask it for, sorted."""

    agent: AgentEndpoint
    services: tuple[str, ...]


def log_sources(survey: EnvironmentAgents, services: Sequence[str]) -> list[LogSource]:
    """Which nodes run, or should run, any of ``services`` (none named: all), in order of their names.

    Raises:
        CliError: ``service_unknown``: neither the newest release nor any node knows one of them; ``not_running``: no
            node has anything to do with them.
    """
    known = {name: _services_of(survey, name) for name in survey.agents}
    _require(survey, services, set().union(*known.values()))
    wanted = set(services)
    found = [
        LogSource(survey.agents[node], tuple(sorted(has & wanted if wanted else has))) for node, has in known.items()
    ]
    found = [source for source in found if source.services]
    if not found:
        what = f"service {' or '.join(services)}" if services else "anything"
        raise CliError("not_running", f"no node of {survey.ref} runs {what}", next_actions=[_STATUS])
    return found


def agent_for_exec(survey: EnvironmentAgents, service: str, *, said: bool) -> tuple[AgentEndpoint, str]:
    """The node to run a command on, and a note about the choice ("" where there was none).

    ``said``: the survey is of the one node that was asked for, and its agent decides whether there is something to run
    the command in.

    Raises:
        CliError: ``service_unknown``, ``not_running``, or ``agent_unreachable``: no agent that runs it can be asked.
    """
    if said:
        return next(iter(survey.agents.values())), ""
    _require(survey, [service], {name for node in survey.agents for name in _services_of(survey, node)})
    running = [node for node in survey.agents if _runs(survey, node, service)]
    if not running:
        raise CliError("not_running", f"service {service} runs on no node of {survey.ref}", next_actions=[_STATUS])
    reachable = [node for node in running if survey.agents[node].address]
    if not reachable:
        raise CliError("agent_unreachable", "; ".join(survey.agents[node].problem for node in running))
    others = [node for node in running if node != reachable[0]]
    note = f"on node {reachable[0]}; {service} also runs on {', '.join(others)} (--node chooses)" if others else ""
    return survey.agents[reachable[0]], note


def agent_for_task(survey: EnvironmentAgents, task: Task) -> AgentEndpoint:
    """The first node by name whose agent is there and that may run the task's service, as for a release task.

    Raises:
        CliError: ``no_node_for_task``: none; says of each node why not.
    """
    service = next((each for each in _released(survey) if each.name == task.service), None)
    if service is None:
        message = f"task {task.name} runs in service {task.service}, which the newest release does not have"
        raise CliError("service_unknown", message)
    reasons = []
    for name, agent in survey.agents.items():
        node = survey.nodes.get(name)
        reason = why_not(service, node) if node is not None else ""
        if not reason and agent.address:
            return agent
        reasons.append(f"{name} is {reason}" if reason else agent.problem)
    message = f"no node of {survey.ref} can run task {task.name}: {'; '.join(reasons) or 'none is attached'}"
    raise CliError("no_node_for_task", message, next_actions=[NextAction("see the nodes", "devopsellence node list")])


def task_named(survey: EnvironmentAgents, name: str, *, sure: bool) -> Task:
    """The task ``name`` of the newest release; ``sure``: also the one that rollouts run.

    Raises:
        CliError: ``task_unknown``, or ``release_task`` (exit code 2) for want of being sure.
    """
    release = survey.release
    for task in release.tasks if release is not None else ():
        if task.name == name:
            return task
    if release is not None and release.HasField("release_task") and release.release_task.name == name:
        if sure:
            return release.release_task
        message = f"every rollout runs task {name} once, by itself; --yes runs it now, once more"
        raise CliError("release_task", message, exit_code=2)
    names = ", ".join(sorted(task.name for task in all_tasks(survey))) or "none"
    number = f"release {release.number} of {survey.ref}" if release is not None else f"{survey.ref}, never deployed,"
    mend = NextAction("tasks come with a release", "devopsellence deploy")
    raise CliError("task_unknown", f"{number} has no task {name}; it has: {names}", next_actions=[mend])


def all_tasks(survey: EnvironmentAgents) -> list[Task]:
    """The newest release's tasks by name, the release task first."""
    if survey.release is None:
        return []
    first = [survey.release.release_task] if survey.release.HasField("release_task") else []
    return [*first, *sorted(survey.release.tasks, key=lambda task: task.name)]


def _released(survey: EnvironmentAgents) -> Sequence[Service]:
    return survey.release.services if survey.release is not None else ()


def _services_of(survey: EnvironmentAgents, name: str) -> set[str]:
    """What a node runs, by its own account, and what it should run, by its labels.

    On which nodes the replicas of a service run, these tell alone.
    """
    status, node = survey.statuses.get(name), survey.nodes.get(name)
    reported = {service.name for service in status.services} if status is not None else set()
    everywhere = [each for each in _released(survey) if not each.replicas]
    placed = {each.name for each in everywhere if node is not None and not why_not(each, node)}
    return reported | placed


def _runs(survey: EnvironmentAgents, node: str, service: str) -> bool:
    status = survey.statuses.get(node)
    return status is not None and any(each.name == service and each.container for each in status.services)


def _require(survey: EnvironmentAgents, services: Sequence[str], known: set[str]) -> None:
    known = known | {each.name for each in _released(survey)}
    for name in services:
        if name not in known:
            message = f"{survey.ref} has no service {name}; it has: {', '.join(sorted(known)) or 'none'}"
            raise CliError("service_unknown", message)
