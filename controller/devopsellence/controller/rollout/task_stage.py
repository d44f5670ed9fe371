"""Stages of a release with a task, and the assignment of the node of the task before the task has succeeded. Pure.

Until then only the node of the task gets an assignment of the new release, the preparation: the supporting services of
the release, the node's former version of all other services, and the task. The preparation of a prepared node is equal
to its assignment, so planning any number of times changes nothing.
"""

from __future__ import annotations

from enum import Enum, auto

from devopsellence.api.v1 import stored_pb2 as pb
from devopsellence.registries import logins, pull_login


class TaskStage(Enum):
    """Nodes that a release may reach."""

    #: All nodes: the release has no task, or the task has succeeded.
    OPEN = auto()
    #: Only the node of the task, for the supporting services and the task.
    PREPARING = auto()
    #: No node: the task has failed, or no node can run it.
    CLOSED = auto()


def stage_of(task: pb.TaskStatus | None) -> TaskStage:
    """Return the stage of a release with ``task`` (None: without a task)."""
    if task is None or task.phase == pb.TaskStatus.SUCCEEDED:
        return TaskStage.OPEN
    return TaskStage.CLOSED if task.phase == pb.TaskStatus.FAILED or not task.node else TaskStage.PREPARING


def app_services(release: pb.Release) -> frozenset[str]:
    """Return the services that wait for the task: services with the app image, and all services depending on them."""
    dependents: dict[str, list[str]] = {}
    for service in release.services:
        for dependency in service.depends_on:
            dependents.setdefault(dependency.service, []).append(service.name)
    waiting: set[str] = set()
    left = [service.name for service in release.services if service.image.app]
    while left:
        name = left.pop()
        if name not in waiting:
            waiting.add(name)
            left += dependents.get(name, ())
    return frozenset(waiting)


def preparation(
    release: pb.Release, wanted: pb.Assignment, current: pb.Assignment | None, uid: str
) -> tuple[pb.Assignment, frozenset[str]]:
    """Return the assignment of the node of the task, before assign(), and the names of the services kept as before.

    ``wanted`` is the whole assignment of the node for ``release``, ``current`` the assignment now, ``uid`` belongs to
    the registered machine: services of another machine are not kept.
    """
    had = list(current.services) if current is not None and not current.removed and current.node_uid == uid else []
    waiting = app_services(release)
    supporting = {service.name: service for service in wanted.services if service.name not in waiting}
    kept = {service.name: service for service in had if service.image.app or service.name not in supporting}
    prepared = pb.Assignment()
    prepared.CopyFrom(wanted)
    del prepared.services[:]
    prepared.ClearField("ingress")
    prepared.services.extend(service for _, service in sorted({**supporting, **kept}.items()))
    prepared.task.CopyFrom(release.release_task)
    prepared.task_service.CopyFrom(
        next(service for service in release.services if service.name == release.release_task.service)
    )
    if release.HasField("registry"):
        prepared.registry.CopyFrom(release.registry)
    elif had and current is not None and current.HasField("registry"):
        prepared.registry.CopyFrom(current.registry)
    _add_logins(prepared, release, current if had else None)
    if had and current is not None and current.HasField("ingress"):
        # All targets of the ingress are kept or supporting services.
        prepared.ingress.CopyFrom(current.ingress)
    return prepared, frozenset(kept)


def _add_logins(prepared: pb.Assignment, release: pb.Release, current: pb.Assignment | None) -> None:
    """Add the login for the task's image, and those of the services that are kept as before."""
    needed = {login.host: login for login in (current.registry_logins if current is not None else ())}
    needed |= {login.host: login for login in prepared.registry_logins}
    task_login = pull_login(prepared.task_service, logins(release), release.registry.repository)
    if isinstance(task_login, pb.RegistryLogin):
        needed[task_login.host] = task_login
    del prepared.registry_logins[:]
    prepared.registry_logins.extend(login for _, login in sorted(needed.items()))


def withdrawn_task(
    current: pb.Assignment, status: pb.AssignmentStatus | None, release: int, *, failed: bool = False
) -> bool:
    """Return whether ``current`` contains a task that must not start any more.

    Such is the task of an earlier release than ``release``, unless it is running: a running task may end. Such is the
    task of ``release`` itself if it counts as ``failed`` before the node has started it.
    """
    if not current.HasField("task"):
        return False
    same_task = status is not None and status.node_uid == current.node_uid and status.task.release == current.release
    reported = status.task.phase if status is not None and same_task else pb.TaskStatus.WAITING
    if current.release == release:
        return failed and reported not in (pb.TaskStatus.RUNNING, pb.TaskStatus.SUCCEEDED, pb.TaskStatus.FAILED)
    return reported != pb.TaskStatus.RUNNING
