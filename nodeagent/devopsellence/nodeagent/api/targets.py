"""What a request is about: an environment, services and containers of this node, found or refused with what there is.

Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import grpc

from devopsellence.nodeagent.api.auth import CallRefused
from devopsellence.nodeagent.docker.model import Container, ContainerState
from devopsellence.nodeagent.plan.spec import Desired
from devopsellence.store.keys import EnvironmentRef

_Code = grpc.StatusCode


def environment(node: str, named: str, known: Iterable[str]) -> EnvironmentRef:
    """The environment that a request names.

    Raises:
        Refusal: INVALID_ARGUMENT: it is no environment's path; NOT_FOUND: it is not among ``known``.
    """
    try:
        env = EnvironmentRef.parse(named)
    except ValueError as error:
        sentence = f"{named!r} is not organization/project/environment"
        raise CallRefused(_Code.INVALID_ARGUMENT, sentence) from error
    there = sorted(known)
    if named not in there:
        raise CallRefused(_Code.NOT_FOUND, f"nothing of {named} is on node {node}; here {_listed('is', 'are', there)}")
    return env


def check_services(env: EnvironmentRef, node: str, named: Iterable[str], known: Iterable[str]) -> None:
    """Refusal (NOT_FOUND) of the first service that is not among ``known``."""
    there = sorted(known)
    for service in named:
        if service not in there:
            sentence = f"{env} has no service {service!r} on node {node}; here {_listed('is', 'are', there)}"
            raise CallRefused(_Code.NOT_FOUND, sentence)


def services(want: Desired | None, containers: Iterable[Container]) -> set[str]:
    """The services that are assigned, and those that still have a container."""
    assigned = set(want.services) if want is not None else set()
    return assigned | {container.service for container in containers if not container.task}


def with_output(containers: Iterable[Container], chosen: Sequence[str]) -> list[Container]:
    """The containers of these services (none: of all) that have run or run, by service, the oldest release first.

    A service that is being replaced has two, and both speak.
    """
    found = [
        container
        for container in containers
        if not container.task
        and container.state is not ContainerState.CREATED
        and (not chosen or container.service in chosen)
    ]
    return sorted(found, key=lambda each: (each.service, each.release, each.id))


def running(want: Desired | None, containers: Iterable[Container], service: str, node: str) -> Container:
    """The container to run a command in: of the assigned spec if that runs, otherwise the newest.

    Raises:
        Refusal: FAILED_PRECONDITION: none runs.
    """
    mine = [container for container in containers if container.service == service and not container.task]
    up = [each for each in mine if each.state is ContainerState.RUNNING]
    if not up:
        states = ", ".join(sorted({each.state.value for each in mine})) or "there is none"
        sentence = f"no container of {service} runs on node {node} ({states})"
        raise CallRefused(_Code.FAILED_PRECONDITION, sentence)
    wanted = want.services.get(service) if want is not None else None
    return max(up, key=lambda each: (wanted is not None and each.hash == wanted.hash, each.running_since, each.id))


def _listed(one: str, several: str, names: Sequence[str]) -> str:
    if not names:
        return f"{one} nothing"
    return f"{one if len(names) == 1 else several} {', '.join(names)}"
