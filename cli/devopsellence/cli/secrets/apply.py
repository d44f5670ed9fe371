"""``secret set --apply``: a release of the same content, in which one secret has its new version."""

from __future__ import annotations

from devopsellence.api.v1.stored_pb2 import Release
from devopsellence.cli.deploy.publish import Overtaken, publish, read_target
from devopsellence.cli.output import CliError, NextAction, Output
from devopsellence.cli.secrets import releases
from devopsellence.cli.secrets.pins import pin, warn_of_keyless
from devopsellence.cli.secrets.records import SecretId
from devopsellence.cli.store import transaction
from devopsellence.cli.store.releases import newest
from devopsellence.store.etcd import Etcd
from devopsellence.store.keys import EnvironmentRef


async def base_for(etcd: Etcd, ref: EnvironmentRef, secret: SecretId) -> Release:
    """The release whose content is repeated: the newest.

    Raises:
        CliError: ``secret_unused``: there is none yet, or it does not refer to ``secret``.
    """
    release = await newest(etcd, ref)
    if release is not None and releases.pinned(release, secret):
        return release
    why = "there is no release yet" if release is None else f"release {release.number} does not refer to it"
    message = f"{ref}: --apply has nothing to do for secret {secret}: {why}; nothing was written"
    action = NextAction("set it without --apply, then", "devopsellence deploy")
    raise CliError("secret_unused", message, next_actions=[action])


async def publish_with(
    etcd: Etcd, ref: EnvironmentRef, base: Release, secret: SecretId, version: int, output: Output
) -> Release | None:
    """Write a release of the content of ``base`` with ``version`` of ``secret``; None when it has that already.

    When another release is written at the same moment, its content is what is repeated.
    """
    while releases.pinned(base, secret) != {version}:
        draft = _draft(base, secret, version)
        target = await read_target(etcd, ref)
        registry = draft.registry if draft.HasField("registry") else None
        warn_of_keyless(output, await pin(etcd, ref, draft.services, registry, nodes=target.nodes))
        try:
            return (await publish(etcd, ref, draft, onto=base.number))[0]
        except Overtaken:
            base = await base_for(etcd, ref, secret)
    return None


def _draft(base: Release, secret: SecretId, version: int) -> Release:
    draft = releases.with_version(base, secret, version)
    draft.ClearField("rollback_of")
    draft.message = f"secret {secret} set"
    draft.created_by = transaction.who()
    draft.created_at.CopyFrom(transaction.now())
    return draft
