"""Sealing what is stored for more readers, which takes somebody who can open it."""

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
    """The versions ``needed`` among the ``files`` of an item, as they are now, are to be open to all keys of ``must``.

    Those ``welcome`` are as well if we can open them, and stay as they are if we cannot.
    """

    item: EncryptedItem
    files: Secret
    needed: frozenset[int]
    must: frozenset[str]
    welcome: frozenset[int] = frozenset()

    def granted(self, files: Secret) -> bool:
        """Whether ``files`` leave nothing to do."""
        return not records.lacks(files, self.needed | self.welcome, self.must)


@dataclass(frozen=True)
class GrantResult:
    """``sealed``: what is sealed for everybody now, and was not before. ``closed``: what was welcome, and still is."""

    sealed: tuple[EncryptedItem, ...] = ()
    closed: tuple[EncryptedItem, ...] = ()


async def grant(etcd: Etcd, ref: EnvironmentRef, wishes: Iterable[GrantRequest], nodes: Iterable[str]) -> GrantResult:
    """Seal anew what is not yet as wished, for all of ``nodes`` and the operators.

    Our identity is only looked for if there is something to do.

    Raises:
        CliError: ``secret_sealed``: a needed version is not sealed for us; nothing was written. ``identity_unusable``.
    """
    left = [wish for wish in wishes if not wish.granted(wish.files)]
    if not left:
        return GrantResult()
    me = await identity.own_identity(etcd)
    everybody = await recipients.of_nodes(etcd, nodes)
    for wish in left:
        _as_wished(ref, wish, wish.files, me, everybody)
    done: dict[EncryptedItem, bool] = {}
    for wish in left:
        done[wish.item] = await _grant_one(etcd, ref, wish, me, everybody) and done.get(wish.item, True)
    return GrantResult(
        tuple(item for item, granted in done.items() if granted),
        tuple(item for item, granted in done.items() if not granted),
    )


async def _grant_one(
    etcd: Etcd, ref: EnvironmentRef, wish: GrantRequest, me: OperatorIdentity, everybody: Recipients
) -> bool:
    """Whether it is as wished afterwards."""
    item, key = wish.item, wish.item.key(etcd.keys, ref)

    def edit(before: Message | None) -> Message:
        if before is None:
            raise item.unknown(ref)
        return item.with_files(before, _as_wished(ref, wish, item.files(key, before), me, everybody))

    return wish.granted(item.files(key, await transaction.change(etcd, key, item.kind, edit)))


def _as_wished(
    ref: EnvironmentRef, wish: GrantRequest, files: Secret, me: OperatorIdentity, everybody: Recipients
) -> Secret:
    """The files as wished; CliError when that takes somebody else."""
    try:
        return records.reencrypted(files, me.identity, everybody.recipients, wish.must, wish.needed)
    except CannotDecrypt as error:
        raise cannot_decrypt(ref, wish.item, error.version, me, everybody) from error


def cannot_decrypt(
    ref: EnvironmentRef, item: EncryptedItem, version: SecretVersion, me: OperatorIdentity, everybody: Recipients
) -> CliError:
    """The error for a version that we must open and cannot; says who can."""
    who: Sequence[str] = everybody.operators_among(version.recipients)
    what = f"{item.named(version)} is not sealed for this identity ({me.name}, {me.path})"
    again = item.anew(ref)
    if not who:
        return CliError("secret_sealed", f"{what}, nor for any other operator", next_actions=[again])
    ask = NextAction(f"let {' or '.join(who)} seal it for you", f"devopsellence secret reencrypt --env {ref}")
    return CliError("secret_sealed", f"{what}; {', '.join(who)} can open it", next_actions=[ask, again])
