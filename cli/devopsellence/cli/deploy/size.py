"""Size of a release and of the assignments that follow from it, checked before anything is written.

The controller puts the encrypted secrets of a node's services into one record, so a sum of allowed values can be more
than etcd takes. It checks again, because placement and secrets change later.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Final

from devopsellence.api.v1.stored_pb2 import Assignment, Node, Release, Secret, SecretVersion
from devopsellence.cli.deploy import replicas
from devopsellence.cli.deploy.replicas import CurrentCopies
from devopsellence.cli.output import CliError
from devopsellence.cli.secrets import recipients, records, vault
from devopsellence.cli.secrets.recipients import Recipients
from devopsellence.cli.secrets.records import SecretId
from devopsellence.cli.store.releases import target_release
from devopsellence.registries import logins
from devopsellence.store.etcd import Etcd
from devopsellence.store.keys import REGISTRY, EnvironmentRef
from devopsellence.store.size import NODE_ROOM, size_problem

#: Growth of an age file per further recipient, as JSON: a stanza of 98 bytes (https://age-encryption.org/v1) as base64,
#: with line ends.
RECIPIENT_BYTES: Final = 140
# age adds a stanza of random length to each file.
_GREASE_BYTES: Final = 500
# The reference and the digest of an image that is not known yet.
_IMAGE_BYTES: Final = 300
_FIX: Final = "put large values into files of the image or of a volume, or split the project"


async def check(
    etcd: Etcd, ref: EnvironmentRef, draft: Release, nodes: Sequence[Node], stored: Mapping[SecretId, Secret]
) -> None:
    """Check ``draft`` and its assignments for the attached ``nodes``; writes nothing.

    ``stored``: the secrets of ``draft``; a secret that is not stored counts nothing.

    Raises:
        CliError: ``release_too_large`` or ``assignment_too_large`` (exit code 2).
    """
    current = await replicas.read_copies(etcd, ref, draft.services, nodes)
    everybody = await recipients.of_nodes(etcd, [node.name for node in nodes]) if stored else None
    growth = growth_of(stored, everybody.recipients) if everybody is not None else {}
    if problem := too_large(ref.environment, draft, nodes, current, stored, growth):
        raise problem


async def check_attachment(etcd: Etcd, ref: EnvironmentRef, names: Collection[str]) -> None:
    """Check the running release as :func:`check` does, for the attached nodes and the nodes ``names``.

    Secrets grow with each node, and one of these may run together what no other node does.

    Raises:
        MalformedRecord: a record of the environment or of a secret cannot be read.
    """
    release = await target_release(etcd, ref)
    if release is not None:
        nodes = await recipients.readable_nodes(etcd, {*names, *await recipients.attached(etcd, ref)})
        await check(etcd, ref, release, nodes, await vault.read(etcd, ref, references(release)))


async def check_with_value(
    etcd: Etcd, ref: EnvironmentRef, base: Release, secret: SecretId, value: bytes, readers: Recipients
) -> None:
    """Check ``base`` as :func:`check` does for the attached nodes, with ``value`` as the value of ``secret``."""
    nodes = await recipients.readable_nodes(etcd, await recipients.attached(etcd, ref))
    stored = await vault.read(etcd, ref, references(base))
    encrypted = records.new_version(value, 1, readers.recipients, base.created_at, "").age
    before = stored.get(secret, Secret())
    stored[secret] = Secret(
        versions=[
            SecretVersion(version=kept.version, age=encrypted, recipients=sorted(readers.recipients))
            for kept in before.versions
        ]
    )
    await check(etcd, ref, base, nodes, stored)


def too_large(
    environment: str,
    draft: Release,
    nodes: Sequence[Node],
    current: CurrentCopies,
    stored: Mapping[SecretId, Secret],
    growth: Mapping[SecretId, int],
) -> CliError | None:
    """Return an error for a release, or an assignment of a node, that is too large for etcd; None for none. Pure.

    ``current``: the copies of services with replicas. ``growth``: bytes by which a secret
    grows when it is encrypted for all recipients.
    """
    if problem := size_problem(draft, room=NODE_ROOM + _IMAGE_BYTES * len(draft.services)):
        message = f"{environment}: the release is too large for etcd: {problem}; {_FIX}"
        return CliError("release_too_large", message, exit_code=2)
    placed = current.place_when_reachable(draft.services, nodes)
    checked: set[frozenset[str]] = set()
    for node, names in placed.services.items():
        if names in checked:
            continue
        checked.add(names)
        assignment = predicted(draft, names, stored)
        room = NODE_ROOM + _IMAGE_BYTES * (len(names) + 1)
        room += sum(growth.get(SecretId(sealed.service, sealed.name), 0) for sealed in assignment.secrets)
        if problem := size_problem(assignment, room=room):
            message = (
                f"{environment}: node {node} could not get this release, its assignment is too large for etcd: "
                f"{problem}; {_FIX}"
            )
            return CliError("assignment_too_large", message, exit_code=2)
    return None


def predicted(draft: Release, names: Collection[str], stored: Mapping[SecretId, Secret]) -> Assignment:
    """Return the assignment of ``draft`` for a node with the services ``names``, without fields of a single node.

    With a release task it has the task besides all services, as on the node that runs the task.
    """
    services = [service for service in draft.services if service.name in names]
    assignment = Assignment(services=services, revision=draft.revision)
    if draft.HasField("registry"):
        assignment.registry.CopyFrom(draft.registry)
    assignment.registry_logins.extend(draft.registry_logins)
    if draft.HasField("ingress"):
        assignment.ingress.CopyFrom(draft.ingress)
    with_task = draft.HasField("release_task") and draft.release_task.service in names
    if with_task:
        assignment.task.CopyFrom(draft.release_task)
        assignment.task_service.CopyFrom(next(one for one in services if one.name == draft.release_task.service))
    for secret, version in sorted(_versions(draft, names)):
        kept = stored.get(secret)
        if kept is None or not kept.versions:
            continue
        file = records.find(kept, version) or records.current(kept)
        assignment.secrets.add(service=secret.service, name=secret.name, version=file.version, age=file.age)
    return assignment


def growth_of(stored: Mapping[SecretId, Secret], everybody: Collection[str]) -> dict[SecretId, int]:
    """Return the bytes by which each secret grows when it is encrypted for ``everybody``. Pure."""
    growth = {}
    for secret, kept in stored.items():
        lacking = max((len(set(everybody) - set(version.recipients)) for version in kept.versions), default=0)
        growth[secret] = RECIPIENT_BYTES * lacking + _GREASE_BYTES if lacking else 0
    return growth


def references(release: Release) -> set[SecretId]:
    """Return the secrets that ``release`` refers to."""
    return {secret for secret, _ in _versions(release, {service.name for service in release.services})}


def _versions(release: Release, names: Collection[str]) -> set[tuple[SecretId, int]]:
    # The passwords of all registries, though a node gets only those of the images that it pulls.
    found = {(SecretId(REGISTRY, login.password_secret), login.password_version) for login in logins(release)}
    return found | {
        (SecretId(service.name, reference.secret), reference.version)
        for service in release.services
        if service.name in names
        for reference in service.secret_refs
    }
