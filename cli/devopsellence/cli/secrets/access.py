"""Access of nodes to the secrets and certificate keys of an environment: grants, re-encryption, exposure."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass
from typing import Final

from devopsellence.api.v1.stored_pb2 import Certificate, Heartbeat, Release, Secret
from devopsellence.cli.secrets import identity, recipients, records, releases
from devopsellence.cli.secrets.grant import GrantRequest, GrantResult, grant
from devopsellence.cli.secrets.items import KEY, CertificateKeyItem, SecretItem
from devopsellence.cli.secrets.records import SecretId
from devopsellence.cli.store.reader import Reader
from devopsellence.cli.store.releases import releases_in_use
from devopsellence.cli.store.snapshot import UnreadableKey
from devopsellence.store.codec import decode
from devopsellence.store.errors import MalformedRecord, StoreError
from devopsellence.store.etcd import Etcd, KeyValue
from devopsellence.store.keys import EnvironmentRef

#: Seconds to wait for the public key of a running agent, which publishes the key right after its first start.
KEY_SECONDS: Final = 5.0


@dataclass(frozen=True)
class StoredSecrets:
    """Readable secrets of an environment, sorted, and the problems of unreadable records."""

    stored: dict[SecretId, Secret]
    problems: tuple[UnreadableKey, ...]


@dataclass(frozen=True)
class StoredCertificates:
    """Readable certificates of an environment by host, sorted, and the problems of unreadable records."""

    stored: dict[str, Certificate]
    problems: tuple[UnreadableKey, ...]


@dataclass(frozen=True)
class Exposure:
    """Secrets, and hosts with private keys of certificates, that a node could decrypt; sorted."""

    secrets: tuple[SecretId, ...] = ()
    hosts: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.secrets or self.hosts)


@dataclass(frozen=True)
class ReencryptResult:
    """Result of a re-encryption: re-encrypted secrets, and problems of unreadable records.

    ``keyless``: nodes without a known public key. ``hosts``: hosts with re-encrypted private keys. ``undecryptable``:
    hosts with private keys this operator cannot decrypt; the controller obtains new certificates for them.
    """

    secrets: tuple[SecretId, ...] = ()
    keyless: tuple[str, ...] = ()
    problems: tuple[UnreadableKey, ...] = ()
    hosts: tuple[str, ...] = ()
    undecryptable: tuple[str, ...] = ()


async def stored_certificates(etcd: Etcd, ref: EnvironmentRef) -> StoredCertificates:
    """Read all certificates of the environment."""
    reader = Reader(etcd)
    records_by_key = await reader.get_prefix(etcd.keys.certificates_prefix(ref), Certificate)
    stored, problems = {}, reader.problems
    for key, certificate in records_by_key.items():
        try:
            stored[etcd.keys.parse_certificate(key)[1]] = certificate
        except ValueError:
            problems.append(UnreadableKey(key, "not the key of a certificate"))
    return StoredCertificates(stored, tuple(problems))


async def stored_secrets(etcd: Etcd, ref: EnvironmentRef) -> StoredSecrets:
    """Read all secrets of the environment."""
    reader = Reader(etcd)
    records_by_key = await reader.get_prefix(etcd.keys.secrets_prefix(ref), Secret)
    stored, problems = {}, reader.problems
    for key, secret in records_by_key.items():
        try:
            _, service, name = etcd.keys.parse_secret(key)
            stored[SecretId(service, name)] = records.checked(key, secret)
        except MalformedRecord as error:
            problems.append(UnreadableKey(key, f"not a readable {error.kind}: {error.reason}"))
        except ValueError:
            problems.append(UnreadableKey(key, "not the key of a secret"))
    return StoredSecrets(dict(sorted(stored.items())), tuple(problems))


async def grant_to_nodes(etcd: Etcd, ref: EnvironmentRef, names: Collection[str]) -> ReencryptResult:
    """Encrypt secrets and certificate keys of the environment for registered nodes, before their attachment.

    Covers the current versions of secrets, the versions in the releases in use, and the private keys of certificates.
    Waits some seconds for the public keys of reachable nodes.

    Raises:
        CliError: ``secret_sealed``: only another operator can decrypt a secret; ``identity_unusable``.
    """
    secrets, served = await stored_secrets(etcd, ref), await stored_certificates(etcd, ref)
    problems = secrets.problems + served.problems
    if not secrets.stored and not _with_keys(served):
        return ReencryptResult(problems=problems)
    node_keys = await recipients.of_nodes(etcd, names)
    await asyncio.gather(*(_key_said(etcd, name) for name in node_keys.keyless))
    everybody = await recipients.of_nodes(etcd, {*names, *await recipients.attached(etcd, ref)})
    requests = _grant_requests(secrets, served, await releases_in_use(etcd, ref), everybody.keys(names))
    done = await grant(etcd, ref, requests, everybody.names)
    return _result(done, tuple(sorted({*names} & {*everybody.keyless})), problems)


async def reencrypt(etcd: Etcd, ref: EnvironmentRef) -> ReencryptResult:
    """Encrypt secrets and certificate keys for all attached nodes and operators.

    Raises:
        CliError: ``secret_sealed``: only another operator can decrypt a secret; ``identity_unusable``.
    """
    # First, so that this operator is registered as a recipient.
    await identity.own_identity(etcd)
    secrets, served = await stored_secrets(etcd, ref), await stored_certificates(etcd, ref)
    everybody = await recipients.of_nodes(etcd, await recipients.attached(etcd, ref))
    requests = _grant_requests(secrets, served, await releases_in_use(etcd, ref), everybody.recipients)
    done = await grant(etcd, ref, requests, everybody.names)
    return _result(done, everybody.keyless, secrets.problems + served.problems)


async def grant_certificate_keys(etcd: Etcd, ref: EnvironmentRef, names: Collection[str]) -> ReencryptResult:
    """Encrypt the private keys of certificates for the attached nodes ``names``, as far as this operator can.

    Raises:
        CliError: ``identity_unusable``.
    """
    served = await stored_certificates(etcd, ref)
    if not _with_keys(served):
        return ReencryptResult(problems=served.problems)
    everybody = await recipients.of_nodes(etcd, names)
    key_version, must = frozenset({KEY}), everybody.keys(names)
    requests = [
        GrantRequest(
            CertificateKeyItem(host), CertificateKeyItem(host).files("", certificate), frozenset(), must, key_version
        )
        for host, certificate in _with_keys(served).items()
    ]
    return _result(await grant(etcd, ref, requests, names), everybody.keyless, served.problems)


async def exposure_of(etcd: Etcd, ref: EnvironmentRef, name: str) -> Exposure:
    """Return everything node ``name`` could decrypt, including old versions; ignores unreadable records."""
    node_keys = await recipients.of_nodes(etcd, [name])
    return await _exposure(etcd, ref, node_keys.keys([name]))


async def exposures_of(etcd: Etcd, name: str) -> dict[EnvironmentRef, Exposure]:
    """Return the exposure of node ``name`` by environment, also for environments without the node; omits empty ones."""
    node_keys = await recipients.of_nodes(etcd, [name])
    return await exposures_to(etcd, node_keys.keys([name]))


async def exposures_to(etcd: Etcd, public_keys: Collection[str]) -> dict[EnvironmentRef, Exposure]:
    """Return what the owners of some public keys could decrypt, by environment; omits empty ones."""
    keys, refs = etcd.keys, set()
    for item in (await etcd.list(keys.all_secrets_prefix, keys_only=True)).items:
        with suppress(ValueError):
            refs.add(keys.parse_secret(item.key)[0])
    for item in (await etcd.list(keys.all_certificates_prefix, keys_only=True)).items:
        with suppress(ValueError):
            refs.add(keys.parse_certificate(item.key)[0])
    exposures = {ref: await _exposure(etcd, ref, public_keys) for ref in sorted(refs)}
    return {ref: exposure for ref, exposure in exposures.items() if exposure}


async def _exposure(etcd: Etcd, ref: EnvironmentRef, public_keys: Collection[str]) -> Exposure:
    secrets, served = await stored_secrets(etcd, ref), await stored_certificates(etcd, ref)
    known = set(public_keys)
    return Exposure(
        tuple(
            secret
            for secret, stored in secrets.stored.items()
            if any(known.intersection(version.recipients) for version in stored.versions)
        ),
        tuple(host for host, served_by in _with_keys(served).items() if known.intersection(served_by.recipients)),
    )


def _with_keys(served: StoredCertificates) -> Mapping[str, Certificate]:
    """Return the certificates with a private key; a record without a key is only a request for a certificate."""
    return {host: certificate for host, certificate in served.stored.items() if certificate.key_age}


def _grant_requests(
    secrets: StoredSecrets, served: StoredCertificates, in_use: Sequence[Release], must: frozenset[str]
) -> list[GrantRequest]:
    """Return the requests for access of ``must`` to secrets (current versions and those ``in_use``) and keys.

    Access to the key of an ACME certificate is optional, because the controller can obtain another certificate.
    """
    requests = [
        GrantRequest(
            SecretItem(secret), stored, releases.pinned_in(in_use, secret) | {records.current(stored).version}, must
        )
        for secret, stored in secrets.stored.items()
    ]
    for host, certificate in _with_keys(served).items():
        item, key_version = CertificateKeyItem(host), frozenset({KEY})
        installed = certificate.source == Certificate.INSTALLED
        files = item.files("", certificate)
        requests.append(
            GrantRequest(
                item, files, key_version if installed else frozenset(), must, frozenset() if installed else key_version
            )
        )
    return requests


def _result(done: GrantResult, keyless: tuple[str, ...], problems: tuple[UnreadableKey, ...]) -> ReencryptResult:
    return ReencryptResult(
        secrets=tuple(item.secret for item in done.encrypted if isinstance(item, SecretItem)),
        keyless=keyless,
        problems=problems,
        hosts=tuple(item.host for item in done.encrypted if isinstance(item, CertificateKeyItem)),
        undecryptable=tuple(item.host for item in done.undecryptable if isinstance(item, CertificateKeyItem)),
    )


async def _key_said(etcd: Etcd, name: str) -> None:
    """Wait up to :data:`KEY_SECONDS` for a public key in the heartbeat of ``name``; not without a heartbeat."""
    key = etcd.keys.heartbeat(name)
    # The caller reads the key again and reports errors with a better message.
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
