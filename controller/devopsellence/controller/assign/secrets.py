"""Which stored secrets an assignment refers to, and their ciphertexts. Pure.

The controller opens nothing: it copies age files from ``secrets/`` into the assignments of those who can. A record that
cannot be read takes nothing away, and neither does a version that has aged out of its record: a node that was given the
ciphertext keeps it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from devopsellence.api.v1 import stored_pb2 as pb
from devopsellence.api.v1 import workload_pb2
from devopsellence.store.keys import REGISTRY
from devopsellence.store.record import Record

# By service and name.
Secrets = Mapping[tuple[str, str], Record[pb.Secret]]


class SecretReference(NamedTuple):
    """One version of one secret; ``service`` may be keys.REGISTRY."""

    service: str
    name: str
    version: int


def references(services: Iterable[workload_pb2.Service], registry: pb.Registry | None) -> frozenset[SecretReference]:
    """All that ``services`` and the login to ``registry`` refer to."""
    found = {SecretReference(one.name, ref.secret, ref.version) for one in services for ref in one.secret_refs}
    if registry is not None and registry.password_secret:
        found.add(SecretReference(REGISTRY, registry.password_secret, registry.password_version))
    return frozenset(found)


def references_of(assignment: pb.Assignment) -> frozenset[SecretReference]:
    """All that an assignment refers to: by its services, its task and its registry."""
    services = list(assignment.services)
    if assignment.HasField("task_service"):
        services.append(assignment.task_service)
    return references(services, assignment.registry if assignment.HasField("registry") else None)


def missing_secrets(release: pb.Release, secrets: Secrets) -> list[tuple[str, str]]:
    """The secrets, by service and name, of which a version that ``release`` refers to is not there."""
    needed = references(release.services, release.registry if release.HasField("registry") else None)
    gone = {(one.service, one.name) for one in needed if find_ciphertext(one, secrets) is None}
    return sorted(key for key in gone if key not in secrets or secrets[key].error is None)


def find_ciphertext(reference: SecretReference, secrets: Secrets) -> str | None:
    """The ciphertext; None: the record or the version is not there, or the record cannot be read."""
    record = secrets.get((reference.service, reference.name))
    if record is None or record.message is None:
        return None
    return next((one.age for one in record.message.versions if one.version == reference.version and one.age), None)


def add_secrets(
    assignment: pb.Assignment, secrets: Secrets, held: pb.Assignment | None = None, *, keep_deleted: bool = False
) -> frozenset[SecretReference]:
    """Put into ``assignment`` all that it refers to; returns what could not be found.

    What cannot be read or has aged out is taken from ``held``, the assignment that the node has; with ``keep_deleted``
    also what was deleted.
    """
    given = {SecretReference(one.service, one.name, one.version): one.age for one in held.secrets} if held else {}
    lacking = set()
    del assignment.secrets[:]
    for reference in sorted(references_of(assignment)):
        age = find_ciphertext(reference, secrets)
        if age is None and (keep_deleted or (reference.service, reference.name) in secrets):
            age = given.get(reference)
        if age is None:
            lacking.add(reference)
        else:
            assignment.secrets.add(service=reference.service, name=reference.name, version=reference.version, age=age)
    return frozenset(lacking)


def has_current_secrets(assignment: pb.Assignment, secrets: Secrets) -> bool:
    """Whether seal() with ``keep_deleted`` would change nothing in a stored assignment; cheaper than trying."""
    if not secrets and not assignment.secrets:
        return True
    given = {SecretReference(one.service, one.name, one.version): one.age for one in assignment.secrets}
    needed = references_of(assignment)
    return given.keys() <= needed and all(find_ciphertext(one, secrets) in (None, given.get(one)) for one in needed)


def holdable(lacking: Iterable[SecretReference], secrets: Secrets) -> bool:
    """Whether a node may still hold some of what is ``lacking``."""
    return any((one.service, one.name) in secrets for one in lacking)


def secret_problems(
    needed: Iterable[SecretReference], lacking: frozenset[SecretReference], secrets: Secrets
) -> list[str]:
    """What is wrong with the secrets that are ``needed``, in sentences that name the key or the command."""
    said: dict[str, None] = {}
    for reference in sorted(needed):
        record = secrets.get((reference.service, reference.name))
        if record is not None and record.error is not None:
            said[f"{record.error}; the nodes keep the version that they have"] = None
        elif reference in lacking:
            said[_why_lacking(reference, stored=record is not None)] = None
    return list(said)


def _why_lacking(reference: SecretReference, *, stored: bool) -> str:
    registry = reference.service == REGISTRY
    whose = "of the registry" if registry else f'of service "{reference.service}"'
    if stored:
        return f"secret {reference.name} {whose} has no version {reference.version}; run devopsellence deploy"
    scope = "--registry" if registry else f"--service {reference.service}"
    return (
        f"secret {reference.name} {whose} does not exist; "
        f"run devopsellence secret set {reference.name} {scope} --stdin, then devopsellence deploy"
    )
