"""Targets of a request: environment, services and containers on this node, or a refusal that lists the existing ones.
Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import grpc

from devopsellence.nodeagent.api.auth import CallRefused
from devopsellence.nodeagent.docker.model import Container, ContainerState
from devopsellence.nodeagent.plan.spec import Desired
from devopsellence.store.keys import EnvironmentRef

_Code = grpc.StatusCode


def parsed(path: str) -> EnvironmentRef:
    """Return the environment of a path. CallRefused (INVALID_ARGUMENT) for an invalid one."""
    try:
        return EnvironmentRef.parse(path)
    except ValueError as error:
        message = f"{path!r} is not organization/project/environment"
        raise CallRefused(_Code.INVALID_ARGUMENT, message) from error


def check_environment(node: str, path: str, known: Iterable[str]) -> None:
    """Refuse (NOT_FOUND) an environment not among ``known``."""
    present = sorted(known)
    if path not in present:
        raise CallRefused(
            _Code.NOT_FOUND, f"environment {path} is not on node {node}; environments here: {_listed(present)}"
        )


def check_services(ref: EnvironmentRef, node: str, requested: Iterable[str], known: Iterable[str]) -> None:
    """Refuse (NOT_FOUND) the first service not among ``known``."""
    present = sorted(known)
    for service in requested:
        if service not in present:
            message = f"{ref} has no service {service!r} on node {node}; services here: {_listed(present)}"
            raise CallRefused(_Code.NOT_FOUND, message)


def services(desired: Desired | None, containers: Iterable[Container]) -> set[str]:
    """Return the assigned services, and services still with a container."""
    assigned = set(desired.services) if desired is not None else set()
    return assigned | {container.service for container in containers if not container.task}


def with_output(containers: Iterable[Container], chosen: Sequence[str], task: str = "") -> list[Container]:
    """Return the containers of ``chosen`` services (empty: all) with output, sorted by service, oldest release first. A
    service during replacement has two. ``task``: those of this task instead of the services' own."""
    result = [
        container
        for container in containers
        if container.task == task
        and container.state is not ContainerState.CREATED
        and (not chosen or container.service in chosen)
    ]
    return sorted(result, key=lambda container: (container.service, container.release, container.id))


def running(desired: Desired | None, containers: Iterable[Container], service: str, node: str) -> Container:
    """Return the container for a command: a container of the desired spec if running, else the newest.

    Raises:
        CallRefused: FAILED_PRECONDITION if none is running.
    """
    candidates = [container for container in containers if container.service == service and not container.task]
    up = [container for container in candidates if container.state is ContainerState.RUNNING]
    if not up:
        states = ", ".join(sorted({container.state.value for container in candidates})) or "no container"
        message = f"no container of {service} is running on node {node} ({states})"
        raise CallRefused(_Code.FAILED_PRECONDITION, message)
    spec = desired.services.get(service) if desired is not None else None
    return max(up, key=lambda item: (spec is not None and item.hash == spec.hash, item.running_since, item.id))


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names) or "none"
