"""Stored secrets in etcd: read, set, delete."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from dataclasses import dataclass

from devopsellence.api.v1.stored_pb2 import Event, Secret, SecretVersion
from devopsellence.cli.output import CliError, NextAction
from devopsellence.cli.secrets import records, releases
from devopsellence.cli.secrets.identity import OperatorIdentity
from devopsellence.cli.secrets.recipients import Recipients
from devopsellence.cli.secrets.records import SecretId
from devopsellence.cli.store import transaction
from devopsellence.cli.store.author import author
from devopsellence.cli.store.reader import concurrently
from devopsellence.store.codec import decode
from devopsellence.store.etcd import Etcd, Put
from devopsellence.store.keys import REGISTRY, EnvironmentRef


@dataclass(frozen=True)
class StoredVersion:
    """Current version after a set; ``changed`` is False if the value was already set."""

    version: SecretVersion
    changed: bool


async def read(etcd: Etcd, ref: EnvironmentRef, wanted: Collection[SecretId]) -> dict[SecretId, Secret]:
    """Read the secrets ``wanted``; the result omits secrets that are not stored.

    Raises:
        MalformedRecord: a record cannot be read; has its key.
    """
    secrets = sorted(wanted)
    items = await concurrently(etcd.get(etcd.keys.secret(ref, secret.service, secret.name)) for secret in secrets)
    return {
        secret: records.checked(item.key, decode(Secret, item.key, item.value))
        for secret, item in zip(secrets, items, strict=True)
        if item is not None
    }


async def store(
    etcd: Etcd, ref: EnvironmentRef, secret: SecretId, value: bytes, *, me: OperatorIdentity, recipients: Recipients
) -> StoredVersion:
    """Set a secret to ``value``, encrypted for the recipients ``recipients``.

    The current version stays if known to hold the same value, and is re-encrypted if recipients are missing.

    Raises:
        MalformedRecord: the stored record cannot be read, so it is not overwritten.
        EncryptionError: the value is too large.
    """
    key = etcd.keys.secret(ref, secret.service, secret.name)
    floor, in_use = await asyncio.gather(
        releases.highest_in_use(etcd, ref, secret), releases.versions_in_use(etcd, ref, secret)
    )
    stamp, ours = transaction.now(), set[str]()

    def edit(before: Secret | None) -> Secret:
        last = records.current(records.checked(key, before)) if before else None
        if before and last and records.holds_value(last, me.identity, value):
            return records.reencrypted(before, me.identity, recipients.recipients, recipients.recipients, ())
        number = max(last.version if last else 0, floor) + 1
        version = records.new_version(value, number, recipients.recipients, stamp, author(etcd))
        ours.add(version.age)
        return records.appended(before, ref, secret, version, in_use)

    event = Event(
        severity=Event.INFO,
        code="secret_set",
        message=f"{author(etcd)} set secret {secret}",
        service="" if secret.service == REGISTRY else secret.service,
    )
    event_put = await transaction.event_put(etcd, ref, event)

    def also(after: Secret) -> list[Put]:
        return [event_put] if records.current(after).age in ours else []

    after = await transaction.change(etcd, key, Secret, edit, also=also)
    version = records.current(after)
    return StoredVersion(version, version.age in ours)


async def delete(etcd: Etcd, ref: EnvironmentRef, secret: SecretId) -> None:
    """Delete a secret with all its versions, even with an unreadable record.

    Raises:
        CliError: ``secret_unknown``, ``busy``.
    """
    key = etcd.keys.secret(ref, secret.service, secret.name)
    event = Event(severity=Event.INFO, code="secret_deleted", message=f"{author(etcd)} deleted secret {secret}")
    await transaction.delete(etcd, key, await transaction.event_put(etcd, ref, event), secret_unknown(ref, secret))


def flags(secret: SecretId) -> str:
    """Return the command-line arguments that name a secret."""
    return f"{secret.name} --registry" if secret.service == REGISTRY else f"{secret.name} --service {secret.service}"


def secret_in_use(ref: EnvironmentRef, secret: SecretId, release: int) -> CliError:
    """Return the error for the deletion of a secret in a release in use."""
    message = f"release {release} of {ref} uses secret {secret}: without it, containers could not be recreated"
    actions = [
        NextAction("remove it from secret_refs first, then", "devopsellence deploy"),
        NextAction("or delete it anyway", f"devopsellence secret delete {flags(secret)} --env {ref} --force"),
    ]
    return CliError("secret_in_use", message, next_actions=actions)


def secret_unknown(ref: EnvironmentRef, secret: SecretId) -> CliError:
    """Return the error for a secret that is not stored."""
    action = NextAction("list the secrets", f"devopsellence secret list --env {ref}")
    return CliError("secret_unknown", f"{ref} has no secret {secret}", next_actions=[action])
