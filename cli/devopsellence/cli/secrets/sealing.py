"""Sealing what is stored for more readers, which takes somebody who can open it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from devopsellence.api.v1.stored_pb2 import Secret, SecretVersion
from devopsellence.cli import write
from devopsellence.cli.output import CliError, NextAction
from devopsellence.cli.secrets import identity, readers, records
from devopsellence.cli.secrets.identity import Me
from devopsellence.cli.secrets.readers import Readers
from devopsellence.cli.secrets.records import CannotOpen, SecretId
from devopsellence.cli.secrets.vault import flags, unknown
from devopsellence.store.etcd import Etcd
from devopsellence.store.keys import EnvironmentRef


@dataclass(frozen=True)
class Wish:
    """The versions ``needed`` of a secret, as it is ``stored`` now, are to be open to all keys of ``must``."""

    secret: SecretId
    stored: Secret
    needed: frozenset[int]
    must: frozenset[str]

    @property
    def granted(self) -> bool:
        """Whether there is nothing to do."""
        return not records.lacks(self.stored, self.needed, self.must)


async def grant(etcd: Etcd, ref: EnvironmentRef, wishes: Iterable[Wish], nodes: Iterable[str]) -> tuple[SecretId, ...]:
    """Seal anew what is not yet as wished, for all of ``nodes`` and the operators; return which secrets that were.

    Our identity is only looked for if there is something to do.

    Raises:
        CliError: ``secret_sealed``: a needed version is not sealed for us; nothing was written. ``identity_unusable``.
    """
    left = [wish for wish in wishes if not wish.granted]
    if not left:
        return ()
    me = await identity.me(etcd)
    everybody = await readers.of_nodes(etcd, nodes)
    for wish in left:
        _as_wished(ref, wish, wish.stored, me, everybody)
    for wish in left:
        await _grant_one(etcd, ref, wish, me, everybody)
    return tuple(dict.fromkeys(wish.secret for wish in left))


async def _grant_one(etcd: Etcd, ref: EnvironmentRef, wish: Wish, me: Me, everybody: Readers) -> None:
    key = etcd.keys.secret(ref, wish.secret.service, wish.secret.name)

    def edit(before: Secret | None) -> Secret:
        if before is None:
            raise unknown(ref, wish.secret)
        return _as_wished(ref, wish, records.checked(key, before), me, everybody)

    await write.change(etcd, key, Secret, edit)


def _as_wished(ref: EnvironmentRef, wish: Wish, stored: Secret, me: Me, everybody: Readers) -> Secret:
    """The record as wished; CliError when that takes somebody else."""
    try:
        return records.resealed(stored, me.identity, everybody.recipients, wish.must, wish.needed)
    except CannotOpen as error:
        raise sealed_for_others(ref, wish.secret, error.version, me, everybody) from error


def sealed_for_others(
    ref: EnvironmentRef, secret: SecretId, version: SecretVersion, me: Me, everybody: Readers
) -> CliError:
    """The error for a version that we must open and cannot; says who can."""
    who: Sequence[str] = everybody.operators_among(version.recipients)
    what = f"secret {secret} (version {version.version}) is not sealed for this identity ({me.name}, {me.path})"
    again = NextAction("or set it anew", f"devopsellence secret set {flags(secret)} --env {ref} --stdin")
    if not who:
        return CliError("secret_sealed", f"{what}, nor for any other operator", next_actions=[again])
    ask = NextAction(f"let {' or '.join(who)} seal it for you", f"devopsellence secret reencrypt --env {ref}")
    return CliError("secret_sealed", f"{what}; {', '.join(who)} can open it", next_actions=[ask, again])
