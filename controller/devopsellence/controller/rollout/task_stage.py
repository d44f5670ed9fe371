"""What nodes run before the release task has succeeded. Pure.

Only the node of the task gets an assignment of the new release then, its preparation: the release's supporting
services, what the node ran before of everything else, and the task. Made again from a preparation it is the same one,
so that it does not matter how often it is planned.
"""

from __future__ import annotations

from enum import Enum, auto

from devopsellence.api.v1 import stored_pb2 as pb


class Stage(Enum):
    """How far a release may go."""

    # To everybody: it has no task, or the task has succeeded.
    OPEN = auto()
    # To the task's node, for its supporting services and the task.
    PREPARING = auto()
    # To nobody: the task has failed, or no node can run it.
    CLOSED = auto()


def stage_of(task: pb.TaskStatus | None) -> Stage:
    """How far a release with this task (None: without one) may go."""
    if task is None or task.phase == pb.TaskStatus.SUCCEEDED:
        return Stage.OPEN
    return Stage.CLOSED if task.phase == pb.TaskStatus.FAILED or not task.node else Stage.PREPARING


def app_services(release: pb.Release) -> frozenset[str]:
    """The services that wait for the task: with the app's image, or depending on such a one, however indirectly."""
    dependents: dict[str, list[str]] = {}
    for service in release.services:
        for dependency in service.depends_on:
            dependents.setdefault(dependency.service, []).append(service.name)
    found: set[str] = set()
    left = [service.name for service in release.services if service.image.app]
    while left:
        name = left.pop()
        if name not in found:
            found.add(name)
            left += dependents.get(name, ())
    return frozenset(found)


def preparation(
    release: pb.Release, wanted: pb.Assignment, current: pb.Assignment | None, uid: str
) -> tuple[pb.Assignment, frozenset[str]]:
    """The assignment of the task's node, without what assign() fills in; and the services that are kept as they were.

    ``wanted`` is what the node runs of ``release`` in the end, ``current`` what it is assigned now, ``uid`` the
    machine's: what another machine ran is not kept.
    """
    had = list(current.services) if current is not None and not current.removed and current.node_uid == uid else []
    waiting = app_services(release)
    supporting = {service.name: service for service in wanted.services if service.name not in waiting}
    kept = {service.name: service for service in had if service.image.app or service.name not in supporting}
    made = pb.Assignment()
    made.CopyFrom(wanted)
    del made.services[:]
    made.ClearField("ingress")
    made.services.extend(service for _, service in sorted({**supporting, **kept}.items()))
    made.task.CopyFrom(release.release_task)
    made.task_service.CopyFrom(next(one for one in release.services if one.name == release.release_task.service))
    if release.HasField("registry"):
        made.registry.CopyFrom(release.registry)
    elif had and current is not None and current.HasField("registry"):
        made.registry.CopyFrom(current.registry)
    if had and current is not None and current.HasField("ingress"):
        # All that it routes to is kept, or supports.
        made.ingress.CopyFrom(current.ingress)
    return made, frozenset(kept)


def withdrawn_task(
    current: pb.Assignment, status: pb.AssignmentStatus | None, release: int, *, failed: bool = False
) -> bool:
    """Whether ``current`` carries a task that is not to be started any more.

    That of an earlier release than ``release``, unless it is running: then it is left to end. That of ``release``
    itself if it counts as ``failed`` although the node has not begun it.
    """
    if not current.HasField("task"):
        return False
    theirs = status is not None and status.node_uid == current.node_uid and status.task.release == current.release
    reported = status.task.phase if status is not None and theirs else pb.TaskStatus.WAITING
    if current.release == release:
        return failed and reported not in (pb.TaskStatus.RUNNING, pb.TaskStatus.SUCCEEDED, pb.TaskStatus.FAILED)
    return reported != pb.TaskStatus.RUNNING
