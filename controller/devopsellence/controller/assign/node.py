"""Assignment of one node for one environment, and its withdrawal. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from collections.abc import Set as AbstractSet
from typing import TypeVar

from google.protobuf.message import Message

from devopsellence.api.v1 import stored_pb2 as pb
from devopsellence.api.v1.workload_pb2 import Ingress, Service
from devopsellence.controller.assign.secrets import Secrets, add_secrets, has_current_secrets
from devopsellence.controller.ingress.rules import reaches
from devopsellence.controller.model.actions import KeyChange, Precondition, WriteAction, WriteKind
from devopsellence.controller.model.hosts import hosts_of
from devopsellence.controller.model.snapshot import NodeView
from devopsellence.controller.rollout.task_stage import withdrawn_task
from devopsellence.registries import logins, pull_login
from devopsellence.store.keys import EnvironmentRef, Keys
from devopsellence.store.record import Record, message_of, revision_of

M = TypeVar("M", bound=Message)


def template(ref: EnvironmentRef, release: pb.Release, names: AbstractSet[str]) -> pb.Assignment:
    """Return the assignment of ``release`` for nodes with the services ``names``, without fields of a single node."""
    assignment = pb.Assignment(
        organization=ref.organization,
        project=ref.project,
        environment=ref.environment,
        release=release.number,
        revision=release.revision,
    )
    assignment.services.extend(
        sorted((service for service in release.services if service.name in names), key=lambda service: service.name)
    )
    if release.HasField("registry") and any(service.image.app for service in assignment.services):
        assignment.registry.CopyFrom(release.registry)
    assignment.registry_logins.extend(_pull_logins(release, assignment.services))
    if reaches(release.ingress, names):
        assignment.ingress.CopyFrom(release.ingress)
    return assignment


def _pull_logins(release: pb.Release, services: Sequence[Service]) -> list[pb.RegistryLogin]:
    """Return the logins of ``release`` for the images of ``services``."""
    among = logins(release)
    needed = [pull_login(service, among, release.registry.repository) for service in services] if among else []
    return [login for login in release.registry_logins if login in needed]


def is_assigned(view: NodeView, node: pb.Node, wanted: pb.Assignment) -> bool:
    """Return whether ``view`` has the assignment ``wanted``, so that assign() has nothing to do."""
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
    last_settled: int = 0,
) -> tuple[pb.Assignment, WriteAction]:
    """Return the new assignment of ``view`` and the action that writes it.

    Args:
        node: the readable Node of ``view``.
        wanted: the template for its services.
        why_placed: a clause that says why services move to the node; may be empty.
        peers: nodes to pull images from.
        last_settled: the release to return to if the release of ``wanted`` fails; 0: none known.
    """
    current = message_of(view.assignment)
    assignment = pb.Assignment()
    assignment.CopyFrom(wanted)
    assignment.node, assignment.node_uid, assignment.generation = view.name, node.uid, next_generation(view)
    assignment.last_settled = last_settled
    assignment.peers.extend(peers)
    reason, warning = _why_written(view.assignment, assignment, why_placed)
    change = KeyChange(keys.assignment(view.name, ref), revision_of(view.assignment), assignment)
    return assignment, WriteAction(
        WriteKind.WRITE_ASSIGNMENT,
        reason,
        (change,),
        view.name,
        _preconditions_of_node(keys, view, current, assignment),
        warning,
    )


def keep(
    keys: Keys, ref: EnvironmentRef, view: NodeView, secrets: Secrets, release: int, *, task_failed: bool = False
) -> tuple[pb.Assignment | None, WriteAction | None]:
    """Return the kept assignment of ``view`` while ``release`` is the newest, and the action that updates it, if any.

    Secrets may have been encrypted again. A task of an earlier release does not start any more, nor the task of
    ``release`` once it counts as failed (``task_failed``).
    """
    current = message_of(view.assignment)
    if current is None or current.removed:
        return current, None
    withdrawn = withdrawn_task(current, message_of(view.status), release, failed=task_failed)
    if not withdrawn and has_current_secrets(current, secrets):
        return current, None
    assignment = pb.Assignment()
    assignment.CopyFrom(current)
    if withdrawn:
        assignment.ClearField("task")
    if withdrawn and current.release != release:
        # For the newest release the field stays: it marks the assignment as partial.
        assignment.ClearField("task_service")
    add_secrets(assignment, secrets, current, keep_deleted=True)
    if withdrawn and current.release == release:
        reason = f"release {release} has failed before its release task had begun here"
    elif withdrawn:
        reason = f"release {release} was written before the release task of release {current.release} had begun here"
    else:
        reason = _why_encrypted_again(current, assignment)
    return assignment, _rewrite(keys, ref, view, assignment, reason)


def offer(
    keys: Keys, ref: EnvironmentRef, view: NodeView, current: pb.Assignment, peers: Sequence[pb.Peer]
) -> tuple[pb.Assignment, WriteAction]:
    """Return ``current``, the assignment of ``view``, with image ``peers``, and the action that writes it."""
    assignment = pb.Assignment()
    assignment.CopyFrom(current)
    del assignment.peers[:]
    assignment.peers.extend(peers)
    names = ", ".join(peer.node for peer in peers)
    return assignment, _rewrite(keys, ref, view, assignment, f"an image that it lacks can be pulled from {names}")


def reduce(
    keys: Keys,
    ref: EnvironmentRef,
    view: NodeView,
    secrets: Secrets,
    names: AbstractSet[str],
    target: pb.Release | None,
) -> tuple[pb.Assignment | None, WriteAction | None]:
    """Return the assignment of a drained node reduced to the services ``names``, and the action that writes it.

    A node that serves the ingress goes on, because DNS still names it. Once it runs none of the services that the rules
    of ``target`` name, it forwards requests by these rules: those of the rollout's target, which the other nodes run
    (None: it cannot be read).
    """
    current = message_of(view.assignment)
    if current is None or current.removed:
        return current, None
    leaving = ", ".join(service.name for service in current.services if service.name not in names)
    assignment = pb.Assignment()
    assignment.CopyFrom(current)
    del assignment.services[:]
    assignment.services.extend(service for service in current.services if service.name in names)
    if current.HasField("ingress") and target is not None and not _names_any(target.ingress, assignment.services):
        assignment.ingress.CopyFrom(target.ingress)
    if assignment == current:
        return current, None
    add_secrets(assignment, secrets, current, keep_deleted=True)
    basis = (Precondition(keys.node(view.name), revision_of(view.node)),)
    reason = f"it is being drained of {leaving}" if leaving else "it forwards requests by another ingress"
    return assignment, _rewrite(keys, ref, view, assignment, reason, basis)


def _names_any(ingress: Ingress, services: Iterable[Service]) -> bool:
    """Return True if a rule of ``ingress`` names one of ``services``."""
    return not {rule.service for rule in ingress.rules}.isdisjoint(service.name for service in services)


def _rewrite(
    keys: Keys,
    ref: EnvironmentRef,
    view: NodeView,
    assignment: pb.Assignment,
    reason: str,
    rests_on: Sequence[Precondition] = (),
) -> WriteAction:
    """Return the action that writes ``assignment`` as the next generation of the assignment of ``view``."""
    assignment.generation = next_generation(view)
    change = KeyChange(keys.assignment(view.name, ref), revision_of(view.assignment), assignment)
    return WriteAction(WriteKind.WRITE_ASSIGNMENT, reason, (change,), view.name, rests_on)


def next_generation(view: NodeView) -> int:
    """Return a generation above every stored or reported generation."""
    assignment, status = message_of(view.assignment), message_of(view.status)
    stored = assignment.generation if assignment is not None else 0
    reported = status.generation if status is not None else 0
    return max(stored, reported) + 1


def withdraw(keys: Keys, ref: EnvironmentRef, view: NodeView, why: str) -> WriteAction | None:
    """Return the next action to remove ``ref`` from the node: a tombstone, its deletion, or None to wait.

    ``why`` is a clause that says why the node is to run nothing.
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
    """Return whether the node reports services without an assignment (its key was deleted by hand)."""
    status = message_of(view.status)
    if status is None or status.phase == pb.AssignmentStatus.REMOVED:
        return False
    return not _why_never_removed(view, status.node_uid)


def _delete_status(keys: Keys, ref: EnvironmentRef, view: NodeView) -> WriteAction | None:
    status = message_of(view.status)
    never_removed = _why_never_removed(view, status.node_uid if status is not None else "")
    if status is None and not never_removed:
        return None
    change = KeyChange(keys.status(view.name, ref), revision_of(view.status))
    reason = never_removed or "its status was left over after the assignment was deleted"
    return WriteAction(
        WriteKind.DELETE_ASSIGNMENT,
        reason,
        (change,),
        view.name,
        _preconditions_of_absence(keys, view) if never_removed else (),
    )


def _delete_tombstone(keys: Keys, ref: EnvironmentRef, view: NodeView, tombstone: pb.Assignment) -> WriteAction | None:
    status = message_of(view.status)
    carried_out = (
        status is not None
        and status.phase == pb.AssignmentStatus.REMOVED
        and status.generation == tombstone.generation
        and status.node_uid == tombstone.node_uid
    )
    never_removed = "" if carried_out else _why_never_removed(view, tombstone.node_uid)
    if not carried_out and not never_removed:
        return None
    changes = [KeyChange(keys.assignment(view.name, ref), revision_of(view.assignment))]
    if view.status is not None:
        changes.append(KeyChange(keys.status(view.name, ref), revision_of(view.status)))
    reason = never_removed or "it has removed what it ran"
    return WriteAction(
        WriteKind.DELETE_ASSIGNMENT,
        reason,
        changes,
        view.name,
        _preconditions_of_absence(keys, view) if never_removed else (),
    )


def _why_never_removed(view: NodeView, uid: str) -> str:
    """Return why no agent will ever carry out a tombstone for the machine ``uid``; empty if an agent may."""
    if view.node is None:
        return "the node is not registered and has no heartbeat" if view.heartbeat is None else ""
    node, heartbeat = message_of(view.node), message_of(view.heartbeat)
    if node is None or not uid or node.uid == uid:
        return ""
    if view.heartbeat is None or (heartbeat is not None and heartbeat.uid != uid):
        return "the machine that it was meant for has been replaced"
    return ""


def _preconditions_of_absence(keys: Keys, view: NodeView) -> list[Precondition]:
    return [
        Precondition(keys.node(view.name), revision_of(view.node)),
        Precondition(keys.heartbeat(view.name), revision_of(view.heartbeat)),
    ]


def _preconditions_of_node(
    keys: Keys, view: NodeView, current: pb.Assignment | None, assignment: pb.Assignment
) -> tuple[Precondition, ...]:
    """Return the Node as a precondition if services are removed: an old copy of the Node must not remove any."""
    if current is None or current.removed:
        return ()
    kept = {service.name for service in assignment.services}
    if current.node_uid == assignment.node_uid and all(service.name in kept for service in current.services):
        return ()
    return (Precondition(keys.node(view.name), revision_of(view.node)),)


def _is_same(current: pb.Assignment, name: str, uid: str, wanted: pb.Assignment) -> bool:
    """Return whether ``current`` equals ``wanted`` but for its generation and image peers; cheap comparisons first."""
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
        and current.registry_logins == wanted.registry_logins
        and current.task == wanted.task
        and current.task_service == wanted.task_service
        and current.ingress == wanted.ingress
    )


def _why_written(record: Record[pb.Assignment] | None, assignment: pb.Assignment, why_placed: str) -> tuple[str, bool]:
    """Return why an assignment is written, and whether the reason is something that should not have happened."""
    services = ", ".join(service.name for service in assignment.services) or "no service"
    if record is None:
        return f"attached; release {assignment.release} gives it {services}", False
    current = record.message
    if current is None:
        reason = record.error.reason if record.error is not None else "it does not parse"
        return f"its assignment could not be read and is replaced: {reason}", True
    if current.removed:
        return f"attached again; release {assignment.release} gives it {services}", False
    if assignment.HasField("task") and not (current.HasField("task") and current.release == assignment.release):
        first = f"release {assignment.release} begins with its release task, {assignment.task.name}, here"
        return f"{first}; beside it: {services}", False
    if current.release != assignment.release:
        return f"release {assignment.release} replaces release {current.release}: {services}", False
    if current.HasField("task") and not assignment.HasField("task"):
        return f"the release task of release {assignment.release} has succeeded; it now gives {services}", False
    if current.node_uid != assignment.node_uid:
        return f"registered again, as another machine; release {assignment.release} gives it {services}", False
    if [service.name for service in current.services] != [service.name for service in assignment.services]:
        why = why_placed or _why_replaced(current, assignment)
        return f"{why}; release {assignment.release} now gives it {services}", False
    if current.services == assignment.services and assignment.HasField("ingress") and not current.HasField("ingress"):
        # Written by an earlier version.
        return f"release {assignment.release} routes {', '.join(hosts_of(assignment.ingress))} to it", False
    if current.services == assignment.services and current.secrets != assignment.secrets:
        return _why_encrypted_again(current, assignment), False
    return f"its assignment did not say what release {assignment.release} says, and is replaced", True


def _why_replaced(current: pb.Assignment, assignment: pb.Assignment) -> str:
    """Return why the services of a node have changed at the same release."""
    before = {service.name: service for service in current.services}
    after = {service.name: service for service in assignment.services}
    changed = [*(after[name] for name in after.keys() - before), *(before[name] for name in before.keys() - after)]
    if all(service.replicas for service in changed):
        return f"replicas have moved ({', '.join(sorted(service.name for service in changed))})"
    return "its labels have changed"


def _why_encrypted_again(current: pb.Assignment, assignment: pb.Assignment) -> str:
    before = {(secret.service, secret.name, secret.version): secret.age for secret in current.secrets}
    after = {(secret.service, secret.name, secret.version): secret.age for secret in assignment.secrets}
    changed = sorted(
        {
            f"{name} of {service}"
            for service, name, version in before | after
            if before.get((service, name, version)) != after.get((service, name, version))
        }
    )
    return f"secrets were encrypted again: {', '.join(changed)}"
