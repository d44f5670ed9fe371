"""Nodes that come to an environment and nodes that leave it: who is let into what is sealed, and who has seen it."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping
from contextlib import aclosing, suppress
from dataclasses import dataclass
from typing import Final

from devopsellence.api.v1.stored_pb2 import Certificate, Heartbeat, Release, Secret
from devopsellence.cli.secrets import identity, recipients, records, releases
from devopsellence.cli.secrets.grant import GrantRequest, GrantResult, grant
from devopsellence.cli.secrets.items import KEY, CertificateKeyItem, SecretItem
from devopsellence.cli.secrets.records import SecretId
from devopsellence.cli.store.reader import Reader
from devopsellence.cli.store.releases import newest
from devopsellence.cli.store.snapshot import Problem
from devopsellence.store.codec import decode
from devopsellence.store.errors import MalformedRecord, StoreError
from devopsellence.store.etcd import Etcd, KeyValue
from devopsellence.store.keys import EnvironmentRef

#: Seconds that an agent which is there has to say its key; it does so right after its first start.
KEY_SECONDS: Final = 5.0


@dataclass(frozen=True)
class StoredSecrets:
    """All secrets of an environment that can be read, sorted, and the keys that cannot."""

    stored: dict[SecretId, Secret]
    problems: tuple[Problem, ...]


@dataclass(frozen=True)
class StoredCertificates:
    """All certificates of an environment that can be read, by host, sorted, and the keys that cannot."""

    stored: dict[str, Certificate]
    problems: tuple[Problem, ...]


@dataclass(frozen=True)
class Exposure:
    """What somebody could open: secrets, and the private keys of the certificates of ``hosts``; all sorted."""

    secrets: tuple[SecretId, ...] = ()
    hosts: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.secrets or self.hosts)


@dataclass(frozen=True)
class ReencryptResult:
    """What was sealed anew, and what could not be looked at. ``keyless``: nodes that cannot be sealed for yet.

    ``hosts``: those whose certificates' keys were. ``closed``: those whose keys we cannot open; the controller obtains
    new certificates for them.
    """

    secrets: tuple[SecretId, ...] = ()
    keyless: tuple[str, ...] = ()
    problems: tuple[Problem, ...] = ()
    hosts: tuple[str, ...] = ()
    closed: tuple[str, ...] = ()


async def stored_certificates(etcd: Etcd, ref: EnvironmentRef) -> StoredCertificates:
    """Read all certificates of the environment."""
    reader = Reader(etcd)
    found = await reader.under(etcd.keys.certificates_prefix(ref), Certificate)
    stored, problems = {}, reader.problems
    for key, certificate in found.items():
        try:
            stored[etcd.keys.parse_certificate(key)[1]] = certificate
        except ValueError:
            problems.append(Problem(key, "not the key of a certificate"))
    return StoredCertificates(stored, tuple(problems))


async def stored_secrets(etcd: Etcd, ref: EnvironmentRef) -> StoredSecrets:
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
    return StoredSecrets(dict(sorted(stored.items())), tuple(problems))


async def grant_to_node(etcd: Etcd, ref: EnvironmentRef, name: str) -> ReencryptResult:
    """Let the registered node ``name``, which is about to be attached, into what the environment has.

    Sealed anew are the current versions of secrets and those that the newest release refers to, and the keys of
    certificates. A node whose agent is there but has not said its key yet is given a moment.

    Raises:
        CliError: ``secret_sealed``: it takes somebody else; ``identity_unusable``.
    """
    secrets, served = await stored_secrets(etcd, ref), await stored_certificates(etcd, ref)
    problems = secrets.problems + served.problems
    if not secrets.stored and not _with_keys(served):
        return ReencryptResult(problems=problems)
    found = await recipients.of_nodes(etcd, [name])
    if found.keyless:
        await _key_said(etcd, name)
    everybody = await recipients.of_nodes(etcd, {name, *await recipients.attached(etcd, ref)})
    wishes = _wishes(secrets, served, await newest(etcd, ref), everybody.keys([name]))
    done = await grant(etcd, ref, wishes, everybody.names)
    return _resealed(done, tuple({name} & set(everybody.keyless)), problems)


async def reencrypt(etcd: Etcd, ref: EnvironmentRef) -> ReencryptResult:
    """Seal what lacks one of the attached nodes or the operators for all of them.

    Raises:
        CliError: ``secret_sealed``: it takes somebody else; ``identity_unusable``.
    """
    # First, so that we are among the operators that it is sealed for.
    await identity.own_identity(etcd)
    secrets, served = await stored_secrets(etcd, ref), await stored_certificates(etcd, ref)
    everybody = await recipients.of_nodes(etcd, await recipients.attached(etcd, ref))
    wishes = _wishes(secrets, served, await newest(etcd, ref), everybody.recipients)
    done = await grant(etcd, ref, wishes, everybody.names)
    return _resealed(done, everybody.keyless, secrets.problems + served.problems)


async def grant_certificate_keys(etcd: Etcd, ref: EnvironmentRef, names: Collection[str]) -> ReencryptResult:
    """Seal the keys of certificates for those of the attached nodes ``names`` that lack them, as far as we can.

    Raises:
        CliError: ``identity_unusable``.
    """
    served = await stored_certificates(etcd, ref)
    if not _with_keys(served):
        return ReencryptResult(problems=served.problems)
    everybody = await recipients.of_nodes(etcd, names)
    one, must = frozenset({KEY}), everybody.keys(names)
    wishes = [
        GrantRequest(CertificateKeyItem(host), CertificateKeyItem(host).files("", certificate), frozenset(), must, one)
        for host, certificate in _with_keys(served).items()
    ]
    return _resealed(await grant(etcd, ref, wishes, names), everybody.keyless, served.problems)


async def exposure_of(etcd: Etcd, ref: EnvironmentRef, name: str) -> Exposure:
    """What node ``name`` could open, also an earlier version of it; what cannot be read is left out."""
    secrets, served = await stored_secrets(etcd, ref), await stored_certificates(etcd, ref)
    keys = _with_keys(served)
    if not secrets.stored and not keys:
        return Exposure()
    found = await recipients.of_nodes(etcd, [name], record=False)
    return Exposure(
        tuple(
            secret
            for secret, stored in secrets.stored.items()
            if any(found.nodes_among(version.recipients) for version in stored.versions)
        ),
        tuple(host for host, certificate in keys.items() if found.nodes_among(certificate.recipients)),
    )


async def exposures_of(etcd: Etcd, name: str) -> dict[EnvironmentRef, Exposure]:
    """As :func:`exposed_to`, over all environments that have something sealed, also those it is not attached to."""
    keys, refs = etcd.keys, set()
    for item in (await etcd.list(keys.all_secrets_prefix, keys_only=True)).items:
        with suppress(ValueError):
            refs.add(keys.parse_secret(item.key)[0])
    for item in (await etcd.list(keys.all_certificates_prefix, keys_only=True)).items:
        with suppress(ValueError):
            refs.add(keys.parse_certificate(item.key)[0])
    found = {ref: await exposure_of(etcd, ref, name) for ref in sorted(refs)}
    return {ref: exposure for ref, exposure in found.items() if exposure}


def _with_keys(served: StoredCertificates) -> Mapping[str, Certificate]:
    """Those that are more than a wish for one."""
    return {host: certificate for host, certificate in served.stored.items() if certificate.key_age}


def _wishes(
    secrets: StoredSecrets, served: StoredCertificates, release: Release | None, must: frozenset[str]
) -> list[GrantRequest]:
    """That everybody in ``must`` can open the current versions and those that ``release`` refers to, and the keys of
    certificates; of one that the controller obtained only if we can, because it can obtain another."""
    found = [
        GrantRequest(
            SecretItem(secret), stored, releases.pinned(release, secret) | {records.current(stored).version}, must
        )
        for secret, stored in secrets.stored.items()
    ]
    for host, certificate in _with_keys(served).items():
        item, one = CertificateKeyItem(host), frozenset({KEY})
        ours = certificate.source == Certificate.INSTALLED
        files = item.files("", certificate)
        found.append(GrantRequest(item, files, one if ours else frozenset(), must, frozenset() if ours else one))
    return found


def _resealed(done: GrantResult, keyless: tuple[str, ...], problems: tuple[Problem, ...]) -> ReencryptResult:
    return ReencryptResult(
        secrets=tuple(each.secret for each in done.sealed if isinstance(each, SecretItem)),
        keyless=keyless,
        problems=problems,
        hosts=tuple(each.host for each in done.sealed if isinstance(each, CertificateKeyItem)),
        closed=tuple(each.host for each in done.closed if isinstance(each, CertificateKeyItem)),
    )


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
