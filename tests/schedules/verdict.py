"""Verdict on the end of a schedule, from the contents of etcd and of the machines. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass

from devopsellence.api.v1 import stored_pb2 as pb
from devopsellence.api.v1 import workload_pb2
from devopsellence.nodeagent.docker.model import Container
from devopsellence.store.codec import decode
from devopsellence.store.keys import Keys
from tests.integration.controller.audit import History
from tests.schedules.releases import REF, WEB
from tests.schedules.schedule import ReleaseQuality, ReleaseShape

_LABELS = {workload_pb2.Service.WEB: "web", workload_pb2.Service.WORKER: "worker"}
_Phase = pb.Rollout
#: Part of the reason of a release that failed at a node with a full or read-only disk, as it is to.
_NO_DISK = "the agent cannot write its folder"


@dataclass(frozen=True)
class ScheduleEnd:
    """End of a schedule. ``values``: contents of etcd, by key; the other fields: contents of the machines, by node."""

    keys: Keys
    values: Mapping[str, bytes]
    shapes: Mapping[int, ReleaseShape]
    containers: Mapping[str, Sequence[Container]]
    networks: Mapping[str, int]
    tasks_started: Sequence[Counter[int]]
    #: Ids of the containers behind each host, by node.
    served: Mapping[str, Mapping[str, Set[str]]]

    def environment(self) -> pb.Environment:
        key = self.keys.environment(REF)
        return decode(pb.Environment, key, self.values[key])

    def rollout(self) -> pb.Rollout:
        key = self.keys.rollout(REF)
        return decode(pb.Rollout, key, self.values.get(key, b"{}"))

    def release(self, number: int) -> pb.Release:
        key = self.keys.release(REF, number)
        return decode(pb.Release, key, self.values[key])

    def node(self, name: str) -> pb.Node:
        key = self.keys.node(name)
        return decode(pb.Node, key, self.values[key])

    def assignment(self, name: str) -> pb.Assignment | None:
        key = self.keys.assignment(name, REF)
        return decode(pb.Assignment, key, self.values[key]) if key in self.values else None


def defects(end: ScheduleEnd) -> list[str]:
    """Return the differences from the last release, or from the release after an automatic rollback."""
    if lost := list(_numbers(end)):
        return lost
    return [*_tasks(end), *_rollout(end), *_nodes(end)]


def _numbers(end: ScheduleEnd) -> Iterator[str]:
    latest = end.environment().latest_release
    if sorted(end.shapes) != list(range(1, latest + 1)):
        yield f"releases {sorted(end.shapes)} were written, the newest is {latest}"


def _tasks(end: ScheduleEnd) -> Iterator[str]:
    started = sum(end.tasks_started, Counter())
    for number, times in started.items():
        if times > 1:
            yield f"the task of release {number} was started {times} times"


def _is_bad(end: ScheduleEnd, rollout: pb.Rollout) -> bool:
    shape = end.shapes[rollout.release]
    # A task that was running when its machine or its agent went is rightly called failed, and so is a release that a
    # node could not write to its disk.
    return (
        shape.quality is not ReleaseQuality.GOOD
        or rollout.task.phase == pb.TaskStatus.FAILED
        or _NO_DISK in rollout.reason
    )


def _last_settled(rollout: pb.Rollout) -> int:
    # The history is lost with a record that somebody deletes; which release works is found out again.
    settled = max((outcome.release for outcome in rollout.history if outcome.phase == _Phase.SETTLED), default=0)
    return rollout.last_settled or settled


def _goes_back_to(end: ScheduleEnd, rollout: pb.Rollout) -> int:
    """Return the release of the automatic rollback after a bad release; 0: no rollback."""
    return _last_settled(rollout) if end.shapes[rollout.release].goes_back else 0


def _rollout(end: ScheduleEnd) -> Iterator[str]:
    rollout, latest = end.rollout(), end.environment().latest_release
    phase = _Phase.Phase.Name(rollout.phase)
    if rollout.release != latest:
        yield f"the rollout is about release {rollout.release}, the newest is {latest}"
        return
    releases = [outcome.release for outcome in rollout.history]
    # Of those before the first that was rolled out at all, nothing is told.
    if releases != list(range(latest - 1, latest - 1 - len(releases), -1)):
        yield f"the history tells of {releases} before release {latest}"
    settled = _last_settled(rollout)
    if settled and end.shapes[settled].quality is not ReleaseQuality.GOOD:
        yield f"release {settled} is bad and is said to have settled"
    if not _is_bad(end, rollout):
        if (rollout.phase, rollout.target or latest) != (_Phase.SETTLED, latest):
            yield f"release {latest} is good, and its rollout {phase} towards {rollout.target}: {rollout.reason}"
        return
    target = _goes_back_to(end, rollout) or latest
    if (rollout.phase, rollout.target or latest) != (_Phase.FAILED, target):
        yield (
            f"release {latest} is bad, and its rollout {phase} towards {rollout.target} "
            f"rather than FAILED towards {target}: {rollout.reason}"
        )


def _nodes(end: ScheduleEnd) -> Iterator[str]:
    attached = end.environment().nodes
    for name in end.containers:
        if name not in attached:
            yield from _detached(end, name)
        elif end.node(name).cordoned:
            yield from _as_assigned(end, name)
        else:
            yield from _attached(end, name)


def _detached(end: ScheduleEnd, name: str) -> Iterator[str]:
    left = [key for key in (end.keys.assignment(name, REF), end.keys.status(name, REF)) if key in end.values]
    if left or end.containers[name] or end.networks[name]:
        here = f"{left}, {_text(end.containers[name])}, {end.networks[name]} networks"
        yield f"{name} is not attached, and there are {here}"


def _attached(end: ScheduleEnd, name: str) -> Iterator[str]:
    rollout, latest = end.rollout(), end.environment().latest_release
    assignment = end.assignment(name)
    if rollout.release != latest:
        return
    if rollout.task.phase == pb.TaskStatus.FAILED and not _goes_back_to(end, rollout):
        # Nobody moved, from wherever an earlier release that was overtaken had left it.
        yield from _as_assigned(end, name)
        return
    if assignment is None:
        yield f"{name} is attached and has no assignment"
        return
    if _is_bad(end, rollout) and not _goes_back_to(end, rollout):
        yield from _halted(end, name, rollout, assignment)
        return
    target = latest if not _is_bad(end, rollout) else _goes_back_to(end, rollout)
    if assignment.release != target:
        yield f"{name} is assigned release {assignment.release} rather than {target}"
        return
    yield from _compare(end, name, end.release(target).services)


def _halted(end: ScheduleEnd, name: str, rollout: pb.Rollout, assignment: pb.Assignment) -> Iterator[str]:
    """Check a node of a rollout that stopped.

    Nodes at the bad release stay there; other nodes run the release before, even a release superseded before it
    settled. No node is left at another bad release.
    """
    if assignment.release == rollout.release:
        return
    if end.shapes[assignment.release].quality is not ReleaseQuality.GOOD:
        yield f"{name} is left at release {assignment.release}, which is bad"
    yield from _as_assigned(end, name)


def _as_assigned(end: ScheduleEnd, name: str) -> Iterator[str]:
    """Check a node that keeps its assignment, and runs the assignment if the release is good."""
    assignment = end.assignment(name)
    if assignment is None:
        if end.containers[name]:
            yield f"{name} has no assignment and runs {_text(end.containers[name])}"
    elif end.shapes[assignment.release].quality is ReleaseQuality.GOOD and not assignment.HasField("task"):
        running = {container.service for container in end.containers[name] if container.up and not container.task}
        if running != {service.name for service in assignment.services}:
            yield f"{name} runs {_text(end.containers[name])} rather than what it is assigned"


def _compare(end: ScheduleEnd, name: str, services: Sequence[workload_pb2.Service]) -> Iterator[str]:
    labels = set(end.node(name).labels)
    wanted = sorted((service.name, service.image.pinned) for service in services if _LABELS[service.kind] in labels)
    ours = [container for container in end.containers[name] if not container.task]
    running = sorted((container.service, container.image) for container in ours)
    if running != wanted or not all(container.up for container in ours):
        yield f"{name} should run {wanted} and has {_text(ours)}"
    yield from _hosts(end, name, ours)
    if any(container.up for container in end.containers[name] if container.task):
        yield f"a task goes on on {name}"
    if end.networks[name] > 1:
        yield f"{name} has {end.networks[name]} networks"


def _hosts(end: ScheduleEnd, name: str, ours: Sequence[Container]) -> Iterator[str]:
    """Check that each host's requests reach the container of the assigned release, and no other."""
    assignment = end.assignment(name)
    web = {container.id for container in ours if container.service == WEB}
    hosts = assignment.ingress.hosts if assignment is not None and web else []
    served = end.served[name]
    for host in hosts:
        if served.get(host) != web:
            yield f"{host} on {name} is served by {sorted(served.get(host, ()))} rather than {sorted(web)}"
    for host in served.keys() - {*hosts}:
        if served[host]:
            yield f"{host} on {name} is not assigned, and served by {sorted(served[host])}"


def _text(containers: Sequence[Container]) -> str:
    described = [
        f"{container.service}{'/' + container.task if container.task else ''} {container.image} {container.state.name}"
        for container in containers
    ]
    return ", ".join(described) or "no containers"


def regressions(history: History, keys: Keys) -> list[str]:
    """Return the rollouts that left SETTLED, or went back to an older release."""
    problems = []
    before = pb.Rollout()
    for revision in sorted(history):
        for event in history[revision]:
            if event.key != keys.rollout(REF):
                continue
            if event.kv is None:
                # Written again from what the nodes and the releases tell.
                before.phase = _Phase.PHASE_UNSPECIFIED
                continue
            rollout = decode(pb.Rollout, event.key, event.kv.value)
            if rollout.release < before.release:
                problems.append(
                    f"revision {revision}: the rollout went from release {before.release} to {rollout.release}"
                )
            if (rollout.release, before.phase) == (before.release, _Phase.SETTLED) and rollout.phase != before.phase:
                problems.append(f"revision {revision}: release {rollout.release} had settled and no longer has")
            before = rollout
    return problems
