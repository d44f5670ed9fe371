"""Decryption of this node's secrets, when a container is created or an image is pulled.

Plaintext is a return value only: it is not kept, and no error and no ``repr`` contains it.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Final

from devopsellence.age import AgeIdentity, EncryptionError
from devopsellence.api.v1 import workload_pb2
from devopsellence.nodeagent.plan.spec import Desired
from devopsellence.registries import login_for
from devopsellence.store.keys import REGISTRY

_NUL: Final = "\0"


class SecretError(Exception):
    """A secret cannot be used. The message has its name, version and problem, never its value."""


def reencrypted_specs(before: Desired | None, after: Desired | None) -> list[tuple[str, str]]:
    """Return the specs (service and hash) with newly encrypted secrets: a refused start can be retried at once."""
    if before is None or after is None:
        return []
    changed = {key for key, age in after.encrypted.items() if before.encrypted.get(key, age) != age}
    return [
        (name, assigned.hash)
        for name, assigned in after.services.items()
        if any((name, ref.secret, ref.version) in changed for ref in assigned.spec.secret_refs)
    ]


class SecretDecrypter:
    """Secrets of this node's assignments. Methods take about 1 ms per secret, so they belong on a thread."""

    def __init__(self, identity: AgeIdentity) -> None:
        self._identity = identity

    def environ(self, desired: Desired, service: workload_pb2.Service) -> dict[str, str]:
        """Return the variables from a service's secrets.

        Raises:
            SecretError: a secret is missing, not encrypted for this node, or not valid as a variable.
        """
        return {ref.name: self._decrypt(desired, service.name, ref.secret, ref.version) for ref in service.secret_refs}

    def known_values(self, desired: Desired, service: str) -> list[str]:
        """Return the values of a service's secrets in all versions that were sent here, as far as they are text."""
        values = []
        for name, secret, version in desired.encrypted:
            if name == service:
                with suppress(SecretError):
                    values.append(self._decrypt(desired, name, secret, version))
        return values

    def registry_login(self, desired: Desired, repository: str) -> tuple[str, str] | None:
        """Return user name and password to pull from ``repository``; None if the assignment has no login for it.

        Raises:
            SecretError: as for :meth:`environ`.
        """
        login = login_for(repository, desired.logins)
        if login is None:
            return None
        return login.username, self._decrypt(desired, REGISTRY, login.password_secret, login.password_version)

    def private_key(self, encrypted: str) -> str:
        """Return a private key encrypted for this node, as PEM.

        Raises:
            SecretError: it was not encrypted for this node, or is no text.
        """
        try:
            value = _text(self._identity.decrypt(encrypted))
        except EncryptionError as error:
            raise SecretError(str(error)) from error
        if value is None:
            raise SecretError("it is not PEM")
        return value

    def _decrypt(self, desired: Desired, service: str, secret: str, version: int) -> str:
        label = f"secret {secret} (version {version})"
        encrypted = desired.encrypted.get((service, secret, version))
        if encrypted is None:
            raise SecretError(f"{label} was not sent to this node; run devopsellence deploy")
        try:
            value = _text(self._identity.decrypt(encrypted))
        except EncryptionError as error:
            raise SecretError(f"{label}: {error}; run devopsellence secret reencrypt") from error
        if value is None:
            raise SecretError(f"{label} is not UTF-8 text, which a variable must be")
        if _NUL in value:
            raise SecretError(f"{label} contains a NUL character, which no variable can hold")
        return value


def _text(content: bytes) -> str | None:
    """Return ``content`` as text, None if it is none. No exception leaves: it would contain the content."""
    try:
        return content.decode()
    except UnicodeDecodeError:
        return None
