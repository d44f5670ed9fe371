"""Nodes that come to an environment and nodes that leave it: who is let into its secrets, and who has seen them."""

from __future__ import annotations

import asyncio
from contextlib import aclosing, suppress
from dataclasses import dataclass
from typing import Final

from devopsellence.api.v1.stored_pb2 import Heartbeat, Release, Secret
from devopsellence.cli.read import Reader
from devopsellence.cli.release.stored import newest
from devopsellence.cli.secrets import identity, readers, records, releases
from devopsellence.cli.secrets.records import SecretId
from devopsellence.cli.secrets.sealing import Wish, grant
from devopsellence.cli.view.snapshot import Problem
from devopsellence.store.errors import MalformedRecord, StoreError
from devopsellence.store.etcd import Etcd, KeyValue
from devopsellence.store.keys import EnvironmentRef
from devopsellence.store.records import decode

#: Seconds that an agent which is there has to say its key; it does so right after its first start.
KEY_SECONDS: Final = 5.0


@dataclass(frozen=True)
class Secrets:
    """All secrets of an environment that can be read, sorted, and the keys that cannot."""

    stored: dict[SecretId, Secret]
    problems: tuple[Problem, ...]


@dataclass(frozen=True)
class Resealed:
    """What was sealed anew, and what could not be looked at. ``keyless``: nodes that cannot be sealed for yet."""

    secrets: tuple[SecretId, ...]
    keyless: tuple[str, ...]
    problems: tuple[Problem, ...]


async def everything(etcd: Etcd, ref: EnvironmentRef) -> Secrets:
    """Read all secrets of the environment."""
    reader = Reader(etcd)
    found = await reader.under(etcd.keys.secrets_prefix(ref), Secret)
    stored, problems = {}, reader.problems
    for key, secret in found.items():
        try:
            _, service, name = etcd.keys.parse_secret(key)
            stored[SecretId(service, name)] = records.checked(key, secret)
        except MalformedRecord as error:
            problems.append(Problem(key, f"not a readable {error.kind}: {error.reason}"))
        except ValueError:
            problems.append(Problem(key, "not the key of a secret"))
    return Secrets(dict(sorted(stored.items())), tuple(problems))


async def admit(etcd: Etcd, ref: EnvironmentRef, name: str) -> Resealed:
    """Let the registered node ``name``, which is about to be attached, into what the environment has.

    Sealed anew are the current versions and those that the newest release refers to. A node whose agent is there but
    has not said its key yet is given a moment.

    Raises:
        CliError: ``secret_sealed``: it takes somebody else; ``identity_unusable``.
    """
    secrets = await everything(etcd, ref)
    if not secrets.stored:
        return Resealed((), (), secrets.problems)
    found = await readers.of_nodes(etcd, [name])
    if found.keyless:
        await _key_said(etcd, name)
    everybody = await readers.of_nodes(etcd, {name, *await readers.attached(etcd, ref)})
    wishes = _wishes(secrets, await newest(etcd, ref), everybody.keys([name]))
    done = await grant(etcd, ref, wishes, everybody.names)
    return Resealed(done, tuple({name} & set(everybody.keyless)), secrets.problems)


async def reencrypt(etcd: Etcd, ref: EnvironmentRef) -> Resealed:
    """Seal what lacks one of the attached nodes or the operators for all of them.

    Raises:
        CliError: ``secret_sealed``: it takes somebody else; ``identity_unusable``.
    """
    # First, so that we are among the operators that it is sealed for.
    await identity.me(etcd)
    secrets = await everything(etcd, ref)
    everybody = await readers.of_nodes(etcd, await readers.attached(etcd, ref))
    wishes = _wishes(secrets, await newest(etcd, ref), everybody.recipients)
    done = await grant(etcd, ref, wishes, everybody.names)
    return Resealed(done, everybody.keyless, secrets.problems)


async def exposed_to(etcd: Etcd, ref: EnvironmentRef, name: str) -> list[SecretId]:
    """The secrets of which node ``name`` could open a version, sorted; those that cannot be read are left out."""
    secrets = await everything(etcd, ref)
    if not secrets.stored:
        return []
    found = await readers.of_nodes(etcd, [name], record=False)
    return [
        secret
        for secret, stored in secrets.stored.items()
        if any(found.nodes_among(each.recipients) for each in stored.versions)
    ]


async def known_to(etcd: Etcd, name: str) -> dict[EnvironmentRef, list[SecretId]]:
    """As :func:`exposed_to`, over all environments that have secrets, whether it is attached to them or not."""
    refs = set()
    for item in (await etcd.list(etcd.keys.all_secrets_prefix, keys_only=True)).items:
        with suppress(ValueError):
            refs.add(etcd.keys.parse_secret(item.key)[0])
    found = {ref: await exposed_to(etcd, ref, name) for ref in sorted(refs)}
    return {ref: secrets for ref, secrets in found.items() if secrets}


def _wishes(secrets: Secrets, release: Release | None, must: frozenset[str]) -> list[Wish]:
    """That everybody in ``must`` can open the current versions, and those that ``release`` refers to."""
    return [
        Wish(secret, stored, releases.pinned(release, secret) | {records.current(stored).version}, must)
        for secret, stored in secrets.stored.items()
    ]


async def _key_said(etcd: Etcd, name: str) -> None:
    """Wait, for a bounded time, until the heartbeat of ``name`` has a key; at once where there is no heartbeat."""
    key = etcd.keys.heartbeat(name)
    # What fails here fails again, and better explained, where the key is read.
    with suppress(TimeoutError, StoreError):
        now = await etcd.list(key)
        if not now.items or _has_key(now.items[0]):
            return
        async with asyncio.timeout(KEY_SECONDS), aclosing(etcd.watch(key, start_revision=now.revision + 1)) as batches:
            async for batch in batches:
                if any(event.kv is not None and _has_key(event.kv) for event in batch.events):
                    return


def _has_key(item: KeyValue) -> bool:
    return bool(decode(Heartbeat, item.key, item.value).age_recipient)
