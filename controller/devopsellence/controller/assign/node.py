"""What one node should run of one environment, and how it is taken back. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from typing import TypeVar

from google.protobuf.message import Message

from devopsellence.api.v1 import stored_pb2 as pb
from devopsellence.controller.assign.secrets import Secrets, add_secrets, has_current_secrets
from devopsellence.controller.ingress.rules import hosts_of, reaches
from devopsellence.controller.model.actions import KeyChange, Precondition, WriteAction, WriteKind
from devopsellence.controller.model.snapshot import NodeView
from devopsellence.controller.rollout.task_stage import withdrawn_task
from devopsellence.store.keys import EnvironmentRef, Keys
from devopsellence.store.record import Record, message_of, revision_of

M = TypeVar("M", bound=Message)


def template(ref: EnvironmentRef, release: pb.Release, names: AbstractSet[str]) -> pb.Assignment:
    """The assignment of ``release`` for nodes that run ``names`` of it, without what differs from node to node."""
    made = pb.Assignment(
        organization=ref.organization,
        project=ref.project,
        environment=ref.environment,
        release=release.number,
        revision=release.revision,
    )
    made.services.extend(
        sorted((one for one in release.services if one.name in names), key=lambda service: service.name)
    )
    if release.HasField("registry") and any(service.image.app for service in made.services):
        made.registry.CopyFrom(release.registry)
    if reaches(release.ingress, names):
        made.ingress.CopyFrom(release.ingress)
    return made


def is_assigned(view: NodeView, node: pb.Node, wanted: pb.Assignment) -> bool:
    """Whether ``wanted`` is what ``view`` has: then assign() has nothing to do."""
    current = message_of(view.assignment)
    return current is not None and _is_same(current, view.name, node.uid, wanted)


def assign(
    keys: Keys,
    ref: EnvironmentRef,
    view: NodeView,
    node: pb.Node,
    wanted: pb.Assignment,
    why_placed: str = "",
    peers: Sequence[pb.Peer] = (),
) -> tuple[pb.Assignment, WriteAction]:
    """The assignment that ``view``, which has another, should have, and the action that writes it.

    ``node`` is the readable Node of ``view``, ``wanted`` the template for its services, ``why_placed`` a clause about
    why it is given some that it did not have, ``peers`` whom it can ask for images.
    """
    current = message_of(view.assignment)
    made = pb.Assignment()
    made.CopyFrom(wanted)
    made.node, made.node_uid, made.generation = view.name, node.uid, next_generation(view)
    made.peers.extend(peers)
    reason, warning = _why_written(view.assignment, made, why_placed)
    change = KeyChange(keys.assignment(view.name, ref), revision_of(view.assignment), made)
    return made, WriteAction(
        WriteKind.WRITE_ASSIGNMENT, reason, (change,), view.name, _basis_of_node(keys, view, current, made), warning
    )


def keep(
    keys: Keys, ref: EnvironmentRef, view: NodeView, secrets: Secrets, release: int, *, task_failed: bool = False
) -> tuple[pb.Assignment | None, WriteAction | None]:
    """What ``view`` has, kept while ``release`` is the newest, and the action that brings it up to date, if any.

    Its secrets may have been encrypted anew, and a task of an earlier release is not started any more, nor that of
    ``release`` once it counts as failed (``task_failed``).
    """
    current = message_of(view.assignment)
    if current is None or current.removed:
        return current, None
    withdrawn = withdrawn_task(current, message_of(view.status), release, failed=task_failed)
    if not withdrawn and has_current_secrets(current, secrets):
        return current, None
    made = pb.Assignment()
    made.CopyFrom(current)
    if withdrawn:
        made.ClearField("task")
    if withdrawn and current.release != release:
        # Of the newest release it stays, and says that the assignment is not all of the release.
        made.ClearField("task_service")
    add_secrets(made, secrets, current, keep_deleted=True)
    if withdrawn and current.release == release:
        reason = f"release {release} has failed before its release task had begun here"
    elif withdrawn:
        reason = f"release {release} was written before the release task of release {current.release} had begun here"
    else:
        reason = _why_sealed(current, made)
    return made, _rewrite(keys, ref, view, made, reason)


def offer(
    keys: Keys, ref: EnvironmentRef, view: NodeView, current: pb.Assignment, peers: Sequence[pb.Peer]
) -> tuple[pb.Assignment, WriteAction]:
    """``current``, which is what ``view`` has, with others to ask for images, and the action that writes it."""
    made = pb.Assignment()
    made.CopyFrom(current)
    del made.peers[:]
    made.peers.extend(peers)
    whom = ", ".join(peer.node for peer in peers)
    return made, _rewrite(keys, ref, view, made, f"an image that it lacks can be had from {whom}")


def reduce(
    keys: Keys, ref: EnvironmentRef, view: NodeView, secrets: Secrets, names: AbstractSet[str]
) -> tuple[pb.Assignment | None, WriteAction | None]:
    """What ``view``, which is being drained, has of the services ``names``, and the action that takes the rest away."""
    current = message_of(view.assignment)
    if current is None or current.removed or all(service.name in names for service in current.services):
        return current, None
    leaving = ", ".join(service.name for service in current.services if service.name not in names)
    made = pb.Assignment()
    made.CopyFrom(current)
    del made.services[:]
    made.services.extend(service for service in current.services if service.name in names)
    if not reaches(made.ingress, {service.name for service in made.services}):
        made.ClearField("ingress")
    add_secrets(made, secrets, current, keep_deleted=True)
    basis = (Precondition(keys.node(view.name), revision_of(view.node)),)
    return made, _rewrite(keys, ref, view, made, f"it is being drained of {leaving}", basis)


def _rewrite(
    keys: Keys,
    ref: EnvironmentRef,
    view: NodeView,
    made: pb.Assignment,
    reason: str,
    rests_on: Sequence[Precondition] = (),
) -> WriteAction:
    """The action that writes ``made``, changed from what ``view`` has, as its next generation."""
    made.generation = next_generation(view)
    change = KeyChange(keys.assignment(view.name, ref), revision_of(view.assignment), made)
    return WriteAction(WriteKind.WRITE_ASSIGNMENT, reason, (change,), view.name, rests_on)


def next_generation(view: NodeView) -> int:
    """Above every generation that was stored or that the node has reported."""
    assignment, status = message_of(view.assignment), message_of(view.status)
    stored = assignment.generation if assignment is not None else 0
    reported = status.generation if status is not None else 0
    return max(stored, reported) + 1


def withdraw(keys: Keys, ref: EnvironmentRef, view: NodeView, why: str) -> WriteAction | None:
    """The next step on the way to nothing of ``ref`` on the node: a tombstone, its deletion, or waiting (None).

    ``why`` is the sentence's end for why the node should run nothing.
    """
    current = message_of(view.assignment)
    if view.assignment is None and not _is_left_over(view):
        return _delete_status(keys, ref, view) if view.status is not None else None
    if current is not None and current.removed:
        return _delete_tombstone(keys, ref, view, current)
    status, node = message_of(view.status), message_of(view.node)
    owner = current or status or pb.Assignment(node_uid=node.uid if node is not None else "")
    tombstone = pb.Assignment(
        node=view.name,
        node_uid=owner.node_uid,
        organization=ref.organization,
        project=ref.project,
        environment=ref.environment,
        generation=next_generation(view),
        release=owner.release,
        revision=current.revision if current is not None else "",
        removed=True,
    )
    rests_on = [Precondition(keys.node(view.name), 0)] if view.node is None else []
    if view.assignment is None:
        rests_on.append(Precondition(keys.status(view.name, ref), revision_of(view.status)))
        why = f"{why}, but it still reports services that nothing assigns to it"
    change = KeyChange(keys.assignment(view.name, ref), revision_of(view.assignment), tombstone)
    return WriteAction(WriteKind.WITHDRAW_ASSIGNMENT, why, (change,), view.name, rests_on)


def _is_left_over(view: NodeView) -> bool:
    """Whether there is a status of something that runs although no assignment says so (its key was deleted by hand)."""
    status = message_of(view.status)
    if status is None or status.phase == pb.AssignmentStatus.REMOVED:
        return False
    return not _why_nobody_answers(view, status.node_uid)


def _delete_status(keys: Keys, ref: EnvironmentRef, view: NodeView) -> WriteAction | None:
    status = message_of(view.status)
    nobody = _why_nobody_answers(view, status.node_uid if status is not None else "")
    if status is None and not nobody:
        return None
    change = KeyChange(keys.status(view.name, ref), revision_of(view.status))
    reason = nobody or "its status was left over after the assignment was deleted"
    return WriteAction(
        WriteKind.DELETE_ASSIGNMENT, reason, (change,), view.name, _basis_of_nobody(keys, view) if nobody else ()
    )


def _delete_tombstone(keys: Keys, ref: EnvironmentRef, view: NodeView, tombstone: pb.Assignment) -> WriteAction | None:
    status = message_of(view.status)
    carried_out = (
        status is not None
        and status.phase == pb.AssignmentStatus.REMOVED
        and status.generation == tombstone.generation
        and status.node_uid == tombstone.node_uid
    )
    nobody = "" if carried_out else _why_nobody_answers(view, tombstone.node_uid)
    if not carried_out and not nobody:
        return None
    changes = [KeyChange(keys.assignment(view.name, ref), revision_of(view.assignment))]
    if view.status is not None:
        changes.append(KeyChange(keys.status(view.name, ref), revision_of(view.status)))
    reason = nobody or "it has removed what it ran"
    return WriteAction(
        WriteKind.DELETE_ASSIGNMENT, reason, changes, view.name, _basis_of_nobody(keys, view) if nobody else ()
    )


def _why_nobody_answers(view: NodeView, uid: str) -> str:
    """Why no agent will ever carry out a tombstone for the machine ``uid``; empty while one may."""
    if view.node is None:
        return "the node is not registered and has no heartbeat" if view.heartbeat is None else ""
    node, heartbeat = message_of(view.node), message_of(view.heartbeat)
    if node is None or not uid or node.uid == uid:
        return ""
    if view.heartbeat is None or (heartbeat is not None and heartbeat.uid != uid):
        return "the machine that it was meant for has been replaced"
    return ""


def _basis_of_nobody(keys: Keys, view: NodeView) -> list[Precondition]:
    return [
        Precondition(keys.node(view.name), revision_of(view.node)),
        Precondition(keys.heartbeat(view.name), revision_of(view.heartbeat)),
    ]


def _basis_of_node(
    keys: Keys, view: NodeView, current: pb.Assignment | None, made: pb.Assignment
) -> tuple[Precondition, ...]:
    """The Node, where something is taken away because of what it says: an old copy of it must not do that."""
    if current is None or current.removed:
        return ()
    kept = {service.name for service in made.services}
    if current.node_uid == made.node_uid and all(service.name in kept for service in current.services):
        return ()
    return (Precondition(keys.node(view.name), revision_of(view.node)),)


def _is_same(current: pb.Assignment, name: str, uid: str, wanted: pb.Assignment) -> bool:
    """Whether ``current`` says the same as ``wanted``, whatever its generation and whom it may ask for images; the
    cheap comparisons come first."""
    return (
        not current.removed
        and current.release == wanted.release
        and current.node_uid == uid
        and current.node == name
        and current.generation > 0
        and current.revision == wanted.revision
        and current.environment == wanted.environment
        and current.project == wanted.project
        and current.organization == wanted.organization
        and current.services == wanted.services
        and current.secrets == wanted.secrets
        and current.registry == wanted.registry
        and current.task == wanted.task
        and current.task_service == wanted.task_service
        and current.ingress == wanted.ingress
    )


def _why_written(record: Record[pb.Assignment] | None, made: pb.Assignment, why_placed: str) -> tuple[str, bool]:
    """Why an assignment is written, for people, and whether that is something that should not have happened."""
    services = ", ".join(service.name for service in made.services) or "no service"
    if record is None:
        return f"attached; release {made.release} gives it {services}", False
    current = record.message
    if current is None:
        reason = record.error.reason if record.error is not None else "it does not parse"
        return f"its assignment could not be read and is written anew: {reason}", True
    if current.removed:
        return f"attached again; release {made.release} gives it {services}", False
    if made.HasField("task") and not (current.HasField("task") and current.release == made.release):
        first = f"release {made.release} begins with its release task, {made.task.name}, here"
        return f"{first}; beside it: {services}", False
    if current.release != made.release:
        return f"release {made.release} replaces release {current.release}: {services}", False
    if current.HasField("task") and not made.HasField("task"):
        return f"the release task of release {made.release} has succeeded; it now gives {services}", False
    if current.node_uid != made.node_uid:
        return f"registered anew, as another machine; release {made.release} gives it {services}", False
    if [service.name for service in current.services] != [service.name for service in made.services]:
        why = why_placed or _why_placed_anew(current, made)
        return f"{why}; release {made.release} now gives it {services}", False
    if current.services == made.services and made.HasField("ingress") and not current.HasField("ingress"):
        # Written by an earlier version.
        return f"release {made.release} routes {', '.join(hosts_of(made.ingress))} to it", False
    if current.services == made.services and current.secrets != made.secrets:
        return _why_sealed(current, made), False
    return f"its assignment did not say what release {made.release} says, and is written anew", True


def _why_placed_anew(current: pb.Assignment, made: pb.Assignment) -> str:
    """What changed for a node whose services are others at the same release."""
    before, after = {one.name: one for one in current.services}, {one.name: one for one in made.services}
    changed = [*(after[name] for name in after.keys() - before), *(before[name] for name in before.keys() - after)]
    if all(service.replicas for service in changed):
        return f"replicas have moved ({', '.join(sorted(service.name for service in changed))})"
    return "its labels have changed"


def _why_sealed(current: pb.Assignment, made: pb.Assignment) -> str:
    before = {(one.service, one.name, one.version): one.age for one in current.secrets}
    after = {(one.service, one.name, one.version): one.age for one in made.secrets}
    changed = sorted(
        {
            f"{name} of {service}"
            for service, name, version in before | after
            if before.get((service, name, version)) != after.get((service, name, version))
        }
    )
    return f"secrets were stored anew: {', '.join(changed)}"
