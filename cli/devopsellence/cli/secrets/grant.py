"""Encryption of stored items for more recipients; needs an operator able to decrypt the items."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from google.protobuf.message import Message

from devopsellence.api.v1.stored_pb2 import Secret, SecretVersion
from devopsellence.cli.output import CliError, NextAction
from devopsellence.cli.secrets import identity, recipients, records
from devopsellence.cli.secrets.identity import OperatorIdentity
from devopsellence.cli.secrets.items import EncryptedItem
from devopsellence.cli.secrets.recipients import Recipients
from devopsellence.cli.secrets.records import CannotDecrypt
from devopsellence.cli.store import transaction
from devopsellence.store.etcd import Etcd
from devopsellence.store.keys import EnvironmentRef


@dataclass(frozen=True)
class GrantRequest:
    """Request for access of all public keys in ``must`` to versions of an encrypted item.

    ``files`` are the current encrypted versions. A failure to decrypt a ``needed`` version is an error; an ``optional``
    version is skipped instead.
    """

    item: EncryptedItem
    files: Secret
    needed: frozenset[int]
    must: frozenset[str]
    optional: frozenset[int] = frozenset()

    def satisfied_by(self, files: Secret) -> bool:
        """Return True if all recipients have access to the versions in ``files``."""
        return not records.lacks(files, self.needed | self.optional, self.must)


@dataclass(frozen=True)
class GrantResult:
    """Result of :func:`grant`: re-encrypted items, and optional items this operator could not decrypt."""

    encrypted: tuple[EncryptedItem, ...] = ()
    undecryptable: tuple[EncryptedItem, ...] = ()


async def grant(etcd: Etcd, ref: EnvironmentRef, requests: Iterable[GrantRequest], nodes: Iterable[str]) -> GrantResult:
    """Re-encrypt items of unsatisfied requests for ``nodes`` and all operators.

    Reads the identity of the operator only if there is something to do.

    Raises:
        CliError: ``secret_sealed``: this operator cannot decrypt a needed version; nothing was written.
            ``identity_unusable``.
    """
    left = [request for request in requests if not request.satisfied_by(request.files)]
    if not left:
        return GrantResult()
    me = await identity.own_identity(etcd)
    everybody = await recipients.of_nodes(etcd, nodes)
    for request in left:
        _encrypted_files(ref, request, request.files, me, everybody)
    done: dict[EncryptedItem, bool] = {}
    for request in left:
        done[request.item] = await _grant_one(etcd, ref, request, me, everybody) and done.get(request.item, True)
    return GrantResult(
        tuple(item for item, granted in done.items() if granted),
        tuple(item for item, granted in done.items() if not granted),
    )


async def _grant_one(
    etcd: Etcd, ref: EnvironmentRef, request: GrantRequest, me: OperatorIdentity, everybody: Recipients
) -> bool:
    """Re-encrypt an item; return True if the request is satisfied afterwards."""
    item, key = request.item, request.item.key(etcd.keys, ref)

    def edit(before: Message | None) -> Message:
        if before is None:
            raise item.unknown(ref)
        return item.with_files(before, _encrypted_files(ref, request, item.files(key, before), me, everybody))

    return request.satisfied_by(item.files(key, await transaction.change(etcd, key, item.kind, edit)))


def _encrypted_files(
    ref: EnvironmentRef, request: GrantRequest, files: Secret, me: OperatorIdentity, everybody: Recipients
) -> Secret:
    """Return the re-encrypted files.

    Raises:
        CliError: ``secret_sealed``.
    """
    try:
        return records.reencrypted(files, me.identity, everybody.recipients, request.must, request.needed)
    except CannotDecrypt as error:
        raise cannot_decrypt(ref, request.item, error.version, me, everybody) from error


def cannot_decrypt(
    ref: EnvironmentRef, item: EncryptedItem, version: SecretVersion, me: OperatorIdentity, everybody: Recipients
) -> CliError:
    """Return the error for a version this operator cannot decrypt; names the operators who can."""
    able: Sequence[str] = everybody.operators_among(version.recipients)
    what = f"this identity ({me.name}, {me.place}) cannot decrypt {item.describe(version)}"
    replace = item.replace_action(ref)
    if not able:
        return CliError("secret_sealed", f"{what}, and no other operator can", next_actions=[replace])
    ask = NextAction(f"to get access, let {' or '.join(able)} run", f"devopsellence secret reencrypt --env {ref}")
    return CliError("secret_sealed", f"{what}; {', '.join(able)} can", next_actions=[ask, replace])
