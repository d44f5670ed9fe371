"""``secret set``: store the value and, with ``--apply``, publish the release that runs again with the new version."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from devopsellence.api.v1.stored_pb2 import Release
from devopsellence.cli.deploy import size
from devopsellence.cli.deploy.follow import follow_release
from devopsellence.cli.deploy.publish import NewerReleaseExists, publish, read_target
from devopsellence.cli.output import CliError, NextAction, Output
from devopsellence.cli.render import json
from devopsellence.cli.secrets import identity, recipients, releases, vault
from devopsellence.cli.secrets.pins import pin, warn_of_keyless
from devopsellence.cli.secrets.recipients import Recipients
from devopsellence.cli.secrets.records import SecretId
from devopsellence.cli.secrets.sealing import sealing_recipients
from devopsellence.cli.secrets.vault import StoredVersion
from devopsellence.cli.store import transaction
from devopsellence.cli.store.releases import read_numbers, read_release
from devopsellence.cli.util.text import iso, plural
from devopsellence.store.etcd import Etcd
from devopsellence.store.keys import REGISTRY, EnvironmentRef

OPERATION: Final = "secret set"


@dataclass
class InterruptNote:
    """Progress of ``secret set``, for the message after an interrupt."""

    text: str = "nothing was written"


def config_warnings(path: Path | None, ref: EnvironmentRef, secret: SecretId) -> list[str]:
    """Return warnings about a secret that the configuration does not use; empty without a configuration.

    Raises:
        ConfigError: the configuration is not valid.
        CliError: ``service_unknown`` (exit code 2): the environment has no such service.
    """
    from devopsellence import config

    loaded = config.load(path) if path else None
    if loaded is None or (loaded.organization, loaded.project) != (ref.organization, ref.project):
        return []
    resolved = loaded.resolve(ref.environment)
    if secret.service == REGISTRY:
        named = {login.password_secret for login in resolved.registries}
        named |= {resolved.registry.password_secret} if resolved.registry else set()
        return [] if secret.name in named else [f"no password_secret of a registry is {secret.name} in {path}"]
    services = {service.name: service for service in resolved.services}
    if secret.service not in services:
        message = f"{ref.environment} has no service {secret.service!r}; its services are {', '.join(services)}"
        raise CliError("service_unknown", message, exit_code=2)
    referenced = any(secret_ref.secret == secret.name for secret_ref in services[secret.service].secret_refs)
    return [] if referenced else [f"services.{secret.service}.secret_refs does not name {secret.name} in {path}"]


async def set_secret(
    etcd: Etcd,
    ref: EnvironmentRef,
    secret: SecretId,
    value: bytes,
    output: Output,
    note: InterruptNote,
    *,
    apply: bool,
) -> None:
    """Store ``value``; with ``apply``, publish a release with the new version and follow the rollout."""
    base = await base_release(etcd, ref, secret) if apply else None
    me = await identity.own_identity(etcd)
    readers = await sealing_recipients(etcd, ref, me, await recipients.attached(etcd, ref))
    if readers.keyless:
        names = ", ".join(readers.keyless)
        output.warning(f"the public key of {names} is not known yet: the next deploy encrypts the secret for them")
    if base is not None:
        await size.check_with_value(etcd, ref, base, secret, value, readers)
    note.text = f"secret {secret} may have been set; check with devopsellence secret list"
    stored = await vault.store(etcd, ref, secret, value, me=me, recipients=readers)
    text, facts = _text(ref, secret, stored, readers), _facts(ref, secret, stored, readers)
    if base is None:
        after = "" if not stored.changed else "\nContainers get the value with the next devopsellence deploy."
        deploy = NextAction("give containers the value", "devopsellence deploy")
        output.result(OPERATION, text + after, next_actions=[deploy] if stored.changed else [], **facts)
        return
    output.progress(OPERATION, text, stage="set", **facts)
    note.text = f"secret {secret} is set; containers get it with the next devopsellence deploy"
    release = await publish_with(etcd, ref, base, secret, stored.version.version, output)
    if release is None:
        text = f"No change: release {base.number} already uses version {stored.version.version}."
        output.result(OPERATION, text, **facts, release=json.release(base))
        return
    note.text = f"the rollout of release {release.number} continues; follow with devopsellence status --watch"
    text = f"created release {release.number} of {ref}"
    output.progress(OPERATION, text, stage="released", release=json.release(release))
    await follow_release(etcd, ref, output, OPERATION, release)


def _text(ref: EnvironmentRef, secret: SecretId, stored: StoredVersion, readers: Recipients) -> str:
    number = stored.version.version
    if not stored.changed:
        return f"No change: version {number} of secret {secret} of {ref} already has this value."
    nodes = ", ".join(readers.nodes) or "no node"
    operators = plural(len(readers.operators), "operator")
    return f"Secret {secret} of {ref} is set: version {number}, encrypted for {nodes} and {operators}."


def _facts(ref: EnvironmentRef, secret: SecretId, stored: StoredVersion, readers: Recipients) -> dict[str, Any]:
    return {
        "environment": str(ref),
        "service": secret.service,
        "name": secret.name,
        "version": stored.version.version,
        "changed": stored.changed,
        "set_at": iso(stored.version.set_at),
        "nodes": sorted(readers.nodes),
        "nodes_without_key": list(readers.keyless),
        "operators": sorted(readers.operators),
    }


async def base_release(etcd: Etcd, ref: EnvironmentRef, secret: SecretId) -> Release:
    """Return the running release, to be published again: after a rollback not the newest.

    Raises:
        CliError: ``secret_unused``: no release yet, or the running release does not use ``secret``;
            ``release_unknown``: the record of the running release is missing.
    """
    numbers = await read_numbers(etcd, ref)
    release = await read_release(etcd, ref, numbers.target) if numbers.target else None
    if release is not None and releases.pinned(release, secret):
        return release
    if release is None and numbers.target:
        message = f"{ref}: cannot apply secret {secret}: release {numbers.target}, which runs, is not stored"
        list_ = NextAction("list the releases", "devopsellence release list")
        raise CliError("release_unknown", f"{message}; nothing was written", next_actions=[list_])
    why = "there is no release yet"
    if release is not None:
        why = f"release {release.number} does not use it"
        if numbers.newest != numbers.target:
            why += f", and it runs because release {numbers.newest} was rolled back"
    message = f"{ref}: cannot apply secret {secret}: {why}; nothing was written"
    action = NextAction("set it without --apply, then", "devopsellence deploy")
    raise CliError("secret_unused", message, next_actions=[action])


async def publish_with(
    etcd: Etcd, ref: EnvironmentRef, base: Release, secret: SecretId, version: int, output: Output
) -> Release | None:
    """Publish the content of ``base`` with ``version`` of ``secret``; None for a base with that version already.

    If another release is published, or the rollout rolls back, at the same time, the release running then is the
    base instead.
    """
    while releases.pinned(base, secret) != {version}:
        numbers = await read_numbers(etcd, ref)
        if numbers.target != base.number:
            base = await base_release(etcd, ref, secret)
            continue
        draft = _draft(base, secret, version)
        target = await read_target(etcd, ref)
        warn_of_keyless(output, await pin(etcd, ref, draft, nodes=target.nodes))
        try:
            return (await publish(etcd, ref, draft, onto=numbers.newest, runs=base.number))[0]
        except NewerReleaseExists:
            base = await base_release(etcd, ref, secret)
    return None


def _draft(base: Release, secret: SecretId, version: int) -> Release:
    draft = releases.with_version(base, secret, version)
    draft.ClearField("rollback_of")
    draft.message = f"secret {secret} set"
    draft.created_at.CopyFrom(transaction.now())
    return draft
