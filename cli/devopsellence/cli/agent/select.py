"""Selection of nodes and tasks for logs, exec and tasks. Pure; errors list the available names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from devopsellence.api.v1.stored_pb2 import Release
from devopsellence.api.v1.workload_pb2 import Service, Task
from devopsellence.cli.agent.client import AgentEndpoint
from devopsellence.cli.agent.locate import EnvironmentAgents
from devopsellence.cli.output import CliError, NextAction
from devopsellence.placement import why_not

_STATUS: Final = NextAction("see services and nodes", "devopsellence status")


@dataclass(frozen=True)
class LogSource:
    """Agent to request logs from, with the names of the services, sorted."""

    agent: AgentEndpoint
    services: tuple[str, ...]


def log_sources(survey: EnvironmentAgents, services: Sequence[str]) -> list[LogSource]:
    """Return the nodes that run, or should run, any of ``services`` (empty: all), sorted by name.

    Raises:
        CliError: ``service_unknown``: a service is neither in the running release nor on a node; ``not_running``:
            no node runs or should run the services.
    """
    known = {name: _services_of(survey, name) for name in survey.agents}
    _require(survey, services, set().union(*known.values()))
    requested = set(services)
    sources = [
        LogSource(survey.agents[node], tuple(sorted(has & requested if requested else has)))
        for node, has in known.items()
    ]
    sources = [source for source in sources if source.services]
    if not sources:
        message = f"service {' or '.join(services)}" if services else "anything"
        raise CliError("not_running", f"no node of {survey.ref} runs {message}", next_actions=[_STATUS])
    return sources


def past_log_sources(survey: EnvironmentAgents, services: Sequence[str], release: Release | None) -> list[LogSource]:
    """Return all nodes of ``survey``, to ask for the output of containers that are gone.

    A container may be gone from a node that no longer runs its service. Without ``services``, those of ``release``
    (None: of the running release) and those that nodes report.
    """
    known = {service.name for service in (release.services if release is not None else _released(survey))}
    known |= {service.name for status in survey.statuses.values() for service in status.services}
    names = tuple(sorted(set(services) or known))
    return [LogSource(agent, names) for agent in survey.agents.values()]


def agent_for_exec(survey: EnvironmentAgents, service: str, *, node_given: bool) -> tuple[AgentEndpoint, str]:
    """Return the node for a command, and a note about the choice ("" without a choice).

    ``node_given``: ``survey`` has only the requested node, and its agent checks whether the service runs.

    Raises:
        CliError: ``service_unknown``, ``not_running``; ``agent_unreachable``: no node with the service is reachable.
    """
    if node_given:
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
    """Return the first reachable node, by name, that can run the service of the task, as for a release task.

    Raises:
        CliError: ``no_node_for_task``: there is none; the message has the reason for every node.
    """
    service = next((candidate for candidate in _released(survey) if candidate.name == task.service), None)
    if service is None:
        message = f"task {task.name} runs in service {task.service}, which the running release does not have"
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


def task_named(survey: EnvironmentAgents, name: str) -> Task:
    """Return the task ``name`` of the running release, which may be the release task.

    Raises:
        CliError: ``task_unknown``.
    """
    release = survey.release
    for task in release.tasks if release is not None else ():
        if task.name == name:
            return task
    if release is not None and release.HasField("release_task") and release.release_task.name == name:
        return release.release_task
    names = ", ".join(sorted(task.name for task in all_tasks(survey))) or "none"
    number = f"release {release.number} of {survey.ref}" if release is not None else f"{survey.ref}, never deployed,"
    fix = NextAction("add the task to devopsellence.yml, then", "devopsellence deploy")
    raise CliError("task_unknown", f"{number} has no task {name}; it has: {names}", next_actions=[fix])


def all_tasks(survey: EnvironmentAgents) -> list[Task]:
    """Return the tasks of the running release, the release task first, then by name."""
    if survey.release is None:
        return []
    first = [survey.release.release_task] if survey.release.HasField("release_task") else []
    return [*first, *sorted(survey.release.tasks, key=lambda task: task.name)]


def _released(survey: EnvironmentAgents) -> Sequence[Service]:
    return survey.release.services if survey.release is not None else ()


def _services_of(survey: EnvironmentAgents, name: str) -> set[str]:
    """Return the services reported by a node, and the services that the node should run because of its labels.

    Services with replicas count only if reported, because the controller chooses their nodes.
    """
    status, node = survey.statuses.get(name), survey.nodes.get(name)
    reported = {service.name for service in status.services} if status is not None else set()
    everywhere = [service for service in _released(survey) if not service.replicas]
    placed = {service.name for service in everywhere if node is not None and not why_not(service, node)}
    return reported | placed


def _runs(survey: EnvironmentAgents, node: str, service: str) -> bool:
    status = survey.statuses.get(node)
    return status is not None and any(reported.name == service and reported.container for reported in status.services)


def _require(survey: EnvironmentAgents, services: Sequence[str], known: set[str]) -> None:
    known = known | {service.name for service in _released(survey)}
    for name in services:
        if name not in known:
            message = f"{survey.ref} has no service {name}; it has: {', '.join(sorted(known)) or 'none'}"
            raise CliError("service_unknown", message)
