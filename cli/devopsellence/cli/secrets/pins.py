"""Pinned versions of secrets in a release, encrypted for the nodes that run the release."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from devopsellence.age import EncryptionError
from devopsellence.api.v1.stored_pb2 import Node, Release, Secret
from devopsellence.api.v1.workload_pb2 import Service
from devopsellence.cli.output import CliError, Finding, NextAction, Output
from devopsellence.cli.secrets import identity, recipients, records, vault
from devopsellence.cli.secrets.grant import GrantRequest, cannot_decrypt, grant
from devopsellence.cli.secrets.items import SecretItem
from devopsellence.cli.secrets.records import SecretId
from devopsellence.cli.secrets.size import too_large
from devopsellence.cli.util.text import few
from devopsellence.placement import label_needed
from devopsellence.registries import Login, logins, pull_login
from devopsellence.store.etcd import Etcd
from devopsellence.store.keys import REGISTRY, EnvironmentRef


@dataclass(frozen=True)
class _Use:
    """Version of a secret in a release, and the nodes that need access."""

    secret: SecretId
    version: int
    nodes: frozenset[str]


async def pin(etcd: Etcd, ref: EnvironmentRef, draft: Release, *, nodes: Sequence[Node]) -> list[str]:
    """Pin versions by :func:`pin_versions`, and encrypt them for the attached ``nodes`` that run the services.

    Returns the names of nodes without a known public key, sorted: they cannot decrypt the secrets until a later deploy.

    Raises:
        CliError: ``missing_secret``; ``start_too_large``; ``secret_sealed``: this operator cannot decrypt a version to
            re-encrypt it.
        MalformedRecord: the record of a secret cannot be read.
    """
    stored = await pin_versions(etcd, ref, draft)
    if not stored:
        return []
    uses = _uses(draft, nodes)
    keys = await recipients.of_nodes(etcd, {node.name for node in nodes})
    requests = [
        GrantRequest(SecretItem(use.secret), stored[use.secret], frozenset({use.version}), keys.keys(use.nodes))
        for use in dict.fromkeys(uses)
    ]
    await grant(etcd, ref, requests, [node.name for node in nodes])
    return [name for name in keys.keyless if any(name in use.nodes for use in uses)]


def warn_of_keyless(output: Output, nodes: Sequence[str]) -> None:
    """Print a warning for each node without a known public key."""
    for name in nodes:
        text = f"node {name} cannot decrypt the secrets, because its public key is not known yet"
        output.warning(f"{text}; deploy again once its agent is running")


async def pin_versions(etcd: Etcd, ref: EnvironmentRef, draft: Release) -> dict[SecretId, Secret]:
    """Set the version of each secret reference of ``draft``, and return the secrets; writes nothing to etcd.

    A reference without a version gets the current version; a version that is named stays.

    Raises:
        CliError: ``missing_secret``: lists all missing secrets; ``secret_version_gone``: lists the named versions that
            are no longer stored; ``start_too_large``.
        MalformedRecord: the record of a secret cannot be read.
    """
    wanted = {
        SecretId(service.name, secret_ref.secret) for service in draft.services for secret_ref in service.secret_refs
    }
    wanted |= {_password(login) for login in logins(draft)}
    stored = await vault.read(etcd, ref, wanted)
    if gone := sorted(named_but_gone(draft.services, logins(draft), stored)):
        raise versions_gone(ref, gone)
    if missing := sorted(wanted - stored.keys()):
        raise missing_secrets(ref, missing)
    for service in draft.services:
        for secret_ref in service.secret_refs:
            secret_ref.version = records.version_to_pin(
                stored[SecretId(service.name, secret_ref.secret)], secret_ref.version
            )
    if problem := too_large(draft.services, stored):
        raise problem
    for login in logins(draft):
        login.password_version = records.version_to_pin(stored[_password(login)], login.password_version)
    return stored


def _password(login: Login) -> SecretId:
    return SecretId(REGISTRY, login.password_secret)


async def registry_password(etcd: Etcd, ref: EnvironmentRef, login: Login) -> str:
    """Return the password of a login: the pinned version, else the current one.

    Raises:
        CliError: ``missing_secret``, ``secret_version_gone``, ``secret_sealed`` or ``identity_unusable``.
        MalformedRecord: the record of the secret cannot be read.
    """
    secret = _password(login)
    stored = await vault.read(etcd, ref, [secret])
    if secret not in stored:
        raise missing_secrets(ref, [secret])
    if gone := sorted(named_but_gone([], [login], stored)):
        raise versions_gone(ref, gone)
    number = records.version_to_pin(stored[secret], login.password_version)
    version = next(kept for kept in stored[secret].versions if kept.version == number)
    me = await identity.own_identity(etcd)
    try:
        return me.identity.decrypt(version.age).decode()
    except UnicodeDecodeError:
        # "from None": the original exception contains the value.
        raise CliError("invalid_secret", f"secret {secret} is not a valid password: not UTF-8") from None
    except EncryptionError as error:
        operators = await recipients.of_nodes(etcd, [])
        raise cannot_decrypt(ref, SecretItem(secret), version, me, operators) from error


def missing_secrets(ref: EnvironmentRef, missing: Sequence[SecretId]) -> CliError:
    """Return the error for all references to secrets that are not stored."""
    findings = [
        Finding(
            "missing_secret",
            f"secret {secret} is not set",
            next_actions=(
                NextAction(
                    "set the secret", f"devopsellence secret set {vault.flags(secret)} --env {ref.environment} --stdin"
                ),
            ),
        )
        for secret in missing
    ]
    names = ", ".join(dict.fromkeys(secret.name for secret in missing))
    message = f"missing secrets: {names} (run devopsellence secret set <name> --service <service> --stdin)"
    return CliError("missing_secret", message, findings=findings)


def versions_gone(ref: EnvironmentRef, gone: Sequence[tuple[SecretId, int]]) -> CliError:
    """Return the error for versions of secrets in an older release that are no longer stored."""
    findings = [
        Finding("secret_version_gone", f"version {version} of secret {secret} is no longer stored")
        for secret, version in gone
    ]
    names = few([f"{secret} (version {version})" for secret, version in gone])
    message = f"{ref}: the release names secrets that are no longer stored, so no release was written: {names}"
    deploy = NextAction("deploy that configuration again, with the current values", "devopsellence deploy")
    look = NextAction("see the stored versions", f"devopsellence secret list --env {ref}")
    return CliError("secret_version_gone", message, findings=findings, next_actions=[deploy, look])


def named_but_gone(
    services: Iterable[Service], among: Iterable[Login], stored: Mapping[SecretId, Secret]
) -> set[tuple[SecretId, int]]:
    """Return the versions that the references name and that are not stored. Pure."""
    named = {
        (SecretId(service.name, secret_ref.secret), secret_ref.version)
        for service in services
        for secret_ref in service.secret_refs
    }
    named |= {(_password(login), login.password_version) for login in among}
    return {
        (secret, version)
        for secret, version in named
        if version and (secret not in stored or records.find(stored[secret], version) is None)
    }


def _uses(draft: Release, nodes: Sequence[Node]) -> list[_Use]:
    # Include cordoned nodes: once uncordoned, they run the release without another deploy.
    runs = {
        service.name: frozenset(node.name for node in nodes if label_needed(service) in node.labels)
        for service in draft.services
    }
    uses = [
        _Use(SecretId(service.name, secret_ref.secret), secret_ref.version, runs[service.name])
        for service in draft.services
        for secret_ref in service.secret_refs
    ]
    among = logins(draft)
    needed = {service.name: pull_login(service, among, draft.registry.repository) for service in draft.services}
    for login in among:
        pulling = frozenset[str]().union(*(runs[name] for name, needs in needed.items() if needs == login))
        uses.append(_Use(_password(login), login.password_version, pulling))
    return uses
