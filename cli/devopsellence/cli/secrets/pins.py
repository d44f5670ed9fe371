"""Making a release refer to versions of secrets that the nodes which run it can open."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from devopsellence.age import SealError
from devopsellence.api.v1.stored_pb2 import Node, Registry, Secret
from devopsellence.api.v1.workload_pb2 import Service
from devopsellence.cli.output import CliError, Finding, NextAction, Output
from devopsellence.cli.secrets import identity, recipients, records, vault
from devopsellence.cli.secrets.grant import GrantRequest, cannot_decrypt, grant
from devopsellence.cli.secrets.items import SecretItem
from devopsellence.cli.secrets.records import SecretId
from devopsellence.placement import label_needed
from devopsellence.store.etcd import Etcd
from devopsellence.store.keys import REGISTRY, EnvironmentRef


@dataclass(frozen=True)
class _Use:
    """One version of a secret that a release refers to, and the nodes that will want to open it."""

    secret: SecretId
    version: int
    nodes: frozenset[str]


async def pin(
    etcd: Etcd, ref: EnvironmentRef, services: Sequence[Service], registry: Registry | None, *, nodes: Sequence[Node]
) -> list[str]:
    """:func:`pin_versions`, and see to it that the attached ``nodes`` can open what they will be given.

    A version that is not sealed for a node that will run one of its users is sealed anew. Returns the names of those
    nodes whose key is not known yet, sorted: they get what they cannot open, until a later deploy.

    Raises:
        CliError: ``missing_secret``; ``secret_sealed``: sealing anew takes somebody who can open it.
        MalformedRecord: a secret's record cannot be read.
    """
    stored = await pin_versions(etcd, ref, services, registry)
    if not stored:
        return []
    uses = _uses(services, registry, nodes)
    found = await recipients.of_nodes(etcd, {node.name for node in nodes})
    wishes = [
        GrantRequest(SecretItem(use.secret), stored[use.secret], frozenset({use.version}), found.keys(use.nodes))
        for use in dict.fromkeys(uses)
    ]
    await grant(etcd, ref, wishes, [node.name for node in nodes])
    return [name for name in found.keyless if any(name in use.nodes for use in uses)]


def warn_of_keyless(output: Output, nodes: Sequence[str]) -> None:
    """Say which nodes :func:`pin` could not seal for."""
    for name in nodes:
        text = f"node {name} has not told its key yet, so it cannot open the secrets"
        output.warning(f"{text}; deploy again when its agent is there")


async def pin_versions(
    etcd: Etcd, ref: EnvironmentRef, services: Iterable[Service], registry: Registry | None
) -> dict[SecretId, Secret]:
    """Fill in which version each reference means, in place, and return the secrets; writes nothing to etcd.

    A reference that says none gets the current version; one that says a version keeps it, as long as that is stored.

    Raises:
        CliError: ``missing_secret``: names all that are not stored.
        MalformedRecord: a secret's record cannot be read.
    """
    services = list(services)
    wanted = {SecretId(service.name, each.secret) for service in services for each in service.secret_refs}
    if registry is not None and registry.password_secret:
        wanted.add(SecretId(REGISTRY, registry.password_secret))
    stored = await vault.read(etcd, ref, wanted)
    if missing := sorted(wanted - stored.keys()):
        raise missing_secrets(ref, missing)
    for service in services:
        for secret_ref in service.secret_refs:
            secret_ref.version = records.version_to_pin(
                stored[SecretId(service.name, secret_ref.secret)], secret_ref.version
            )
    if registry is not None and registry.password_secret:
        secret = stored[SecretId(REGISTRY, registry.password_secret)]
        registry.password_version = records.version_to_pin(secret, registry.password_version)
    return stored


async def registry_password(etcd: Etcd, ref: EnvironmentRef, registry: Registry) -> str:
    """The registry's password: the pinned version, else the current one; "" where none is needed.

    Raises:
        CliError: ``missing_secret``, ``secret_sealed`` or ``identity_unusable``.
        MalformedRecord: its record cannot be read.
    """
    if not registry.password_secret:
        return ""
    secret = SecretId(REGISTRY, registry.password_secret)
    stored = await vault.read(etcd, ref, [secret])
    if secret not in stored:
        raise missing_secrets(ref, [secret])
    number = records.version_to_pin(stored[secret], registry.password_version)
    version = next(each for each in stored[secret].versions if each.version == number)
    me = await identity.own_identity(etcd)
    try:
        return me.identity.open(version.age).decode()
    except UnicodeDecodeError:
        # Not from it: the exception holds what it could not decode.
        raise CliError("invalid_secret", f"secret {secret} is not text, so it is no password") from None
    except SealError as error:
        operators = await recipients.of_nodes(etcd, [])
        raise cannot_decrypt(ref, SecretItem(secret), version, me, operators) from error


def missing_secrets(ref: EnvironmentRef, missing: Sequence[SecretId]) -> CliError:
    """The error for references to secrets that are not stored, all at once."""
    findings = [
        Finding(
            "missing_secret",
            f"secret {secret} is not set",
            next_actions=(
                NextAction("set it", f"devopsellence secret set {vault.flags(secret)} --env {ref.environment} --stdin"),
            ),
        )
        for secret in missing
    ]
    names = ", ".join(dict.fromkeys(secret.name for secret in missing))
    message = f"missing secrets: {names} (run devopsellence secret set <name> --service <service> --stdin)"
    return CliError("missing_secret", message, findings=findings)


def _uses(services: Sequence[Service], registry: Registry | None, nodes: Sequence[Node]) -> list[_Use]:
    # A cordoned node runs nothing new, but will when it is uncordoned, without another deploy.
    runs = {
        service.name: frozenset(node.name for node in nodes if label_needed(service) in node.labels)
        for service in services
    }
    uses = [
        _Use(SecretId(service.name, each.secret), each.version, runs[service.name])
        for service in services
        for each in service.secret_refs
    ]
    if registry is not None and registry.password_secret:
        pulling = frozenset[str]().union(*(runs[service.name] for service in services if service.image.app))
        uses.append(_Use(SecretId(REGISTRY, registry.password_secret), registry.password_version, pulling))
    return uses
