"""Secrets of assignments: references to stored secrets, and their ciphertexts. Pure.

The controller decrypts nothing: it copies age ciphertexts from ``secrets/`` into the assignments of the nodes that can
decrypt them. An unreadable record, or a version that has aged out of its record, takes nothing away: a node with the
ciphertext keeps it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from devopsellence.api.v1 import stored_pb2 as pb
from devopsellence.api.v1 import workload_pb2
from devopsellence.registries import Login, logins
from devopsellence.store.keys import REGISTRY
from devopsellence.store.record import Record

#: Records by service and name.
Secrets = Mapping[tuple[str, str], Record[pb.Secret]]


class SecretReference(NamedTuple):
    """Reference to a version of a secret; ``service`` may be keys.REGISTRY."""

    service: str
    name: str
    version: int


def references(services: Iterable[workload_pb2.Service], among: Iterable[Login]) -> frozenset[SecretReference]:
    """Return the references of ``services`` and of logins to registries."""
    needed = {
        SecretReference(service.name, secret.secret, secret.version)
        for service in services
        for secret in service.secret_refs
    }
    needed |= {SecretReference(REGISTRY, login.password_secret, login.password_version) for login in among}
    return frozenset(needed)


def references_of(assignment: pb.Assignment) -> frozenset[SecretReference]:
    """Return the references of an assignment: of its services, its task and its registries."""
    services = list(assignment.services)
    if assignment.HasField("task_service"):
        services.append(assignment.task_service)
    return references(services, logins(assignment))


def missing_secrets(release: pb.Release, secrets: Secrets) -> list[tuple[str, str]]:
    """Return the service and name of each secret without the version that ``release`` refers to."""
    needed = references(release.services, logins(release))
    gone = {(reference.service, reference.name) for reference in needed if find_ciphertext(reference, secrets) is None}
    return sorted(key for key in gone if key not in secrets or secrets[key].error is None)


def find_ciphertext(reference: SecretReference, secrets: Secrets) -> str | None:
    """Return the ciphertext; None if the record or the version does not exist, or the record cannot be read."""
    record = secrets.get((reference.service, reference.name))
    if record is None or record.message is None:
        return None
    return next(
        (stored.age for stored in record.message.versions if stored.version == reference.version and stored.age), None
    )


def add_secrets(
    assignment: pb.Assignment, secrets: Secrets, held: pb.Assignment | None = None, *, keep_deleted: bool = False
) -> frozenset[SecretReference]:
    """Put the ciphertexts of all references into ``assignment``; return the references without a ciphertext.

    Unreadable and aged-out secrets are copied from ``held``, the present assignment of the node; with ``keep_deleted``
    deleted secrets as well.
    """
    ciphertexts = _ciphertexts(held) if held else {}
    lacking = set()
    del assignment.secrets[:]
    for reference in sorted(references_of(assignment)):
        age = find_ciphertext(reference, secrets)
        if age is None and (keep_deleted or (reference.service, reference.name) in secrets):
            age = ciphertexts.get(reference)
        if age is None:
            lacking.add(reference)
        else:
            assignment.secrets.add(service=reference.service, name=reference.name, version=reference.version, age=age)
    return frozenset(lacking)


def has_current_secrets(assignment: pb.Assignment, secrets: Secrets) -> bool:
    """Return whether add_secrets() with ``keep_deleted`` would not change a stored assignment; cheaper than a call."""
    if not secrets and not assignment.secrets:
        return True
    ciphertexts = _ciphertexts(assignment)
    needed = references_of(assignment)
    return ciphertexts.keys() <= needed and all(
        find_ciphertext(reference, secrets) in (None, ciphertexts.get(reference)) for reference in needed
    )


def _ciphertexts(assignment: pb.Assignment) -> dict[SecretReference, str]:
    return {SecretReference(secret.service, secret.name, secret.version): secret.age for secret in assignment.secrets}


def holdable(lacking: Iterable[SecretReference], secrets: Secrets) -> bool:
    """Return whether a node may still hold some of the ``lacking`` secrets."""
    return any((reference.service, reference.name) in secrets for reference in lacking)


def secret_problems(
    needed: Iterable[SecretReference], lacking: frozenset[SecretReference], secrets: Secrets
) -> list[str]:
    """Return the problems with the ``needed`` secrets, in sentences with the key or the command to run."""
    sentences: dict[str, None] = {}
    for reference in sorted(needed):
        record = secrets.get((reference.service, reference.name))
        if record is not None and record.error is not None:
            sentences[f"{record.error}; the nodes keep the version that they have"] = None
        elif reference in lacking:
            sentences[_why_lacking(reference, stored=record is not None)] = None
    return list(sentences)


def _why_lacking(reference: SecretReference, *, stored: bool) -> str:
    registry = reference.service == REGISTRY
    owner = "of the registry" if registry else f'of service "{reference.service}"'
    if stored:
        return f"secret {reference.name} {owner} has no version {reference.version}; run devopsellence deploy"
    scope = "--registry" if registry else f"--service {reference.service}"
    return (
        f"secret {reference.name} {owner} does not exist; "
        f"run devopsellence secret set {reference.name} {scope} --stdin, then devopsellence deploy"
    )
