"""Opening what was sealed for this node, at the moment that a container is made or an image pulled.

Plaintext is only ever a return value here: it is not kept, and no error and no ``repr`` holds it.
"""

from __future__ import annotations

from typing import Final

from devopsellence.age import AgeIdentity, EncryptionError
from devopsellence.api.v1 import workload_pb2
from devopsellence.nodeagent.plan.spec import Desired
from devopsellence.store.keys import REGISTRY

_NUL: Final = "\0"


class SecretError(Exception):
    """A secret cannot be used; the message names it and its version, says why, and never holds its value."""


def reencrypted_specs(before: Desired | None, after: Desired | None) -> list[tuple[str, str]]:
    """The specs (service and hash) whose secrets have been sealed anew: what was refused may be tried at once."""
    if before is None or after is None:
        return []
    changed = {key for key, age in after.sealed.items() if before.sealed.get(key, age) != age}
    return [
        (name, assigned.hash)
        for name, assigned in after.services.items()
        if any((name, ref.secret, ref.version) in changed for ref in assigned.spec.secret_refs)
    ]


class SecretDecrypter:
    """The secrets of this node's assignments. Methods take a moment each (a millisecond a secret): for a thread."""

    def __init__(self, identity: AgeIdentity) -> None:
        self._identity = identity

    def environ(self, desired: Desired, service: workload_pb2.Service) -> dict[str, str]:
        """The variables that a service's secrets are.

        Raises:
            SecretError: one is missing, was not sealed for this node, or is nothing that a variable can hold.
        """
        return {ref.name: self._open(desired, service.name, ref.secret, ref.version) for ref in service.secret_refs}

    def registry_login(self, desired: Desired) -> tuple[str, str] | None:
        """User name and password of the assignment's registry; None where it needs none.

        Raises:
            SecretError: as for :meth:`environ`.
        """
        registry = desired.registry
        if registry is None or not registry.password_secret:
            return None
        password = self._open(desired, REGISTRY, registry.password_secret, registry.password_version)
        return registry.username, password

    def private_key(self, sealed: str) -> str:
        """A private key that was sealed for this node, as PEM.

        Raises:
            SecretError: it was not sealed for this node, or is no text.
        """
        try:
            value = _text(self._identity.decrypt(sealed))
        except EncryptionError as error:
            raise SecretError(str(error)) from error
        if value is None:
            raise SecretError("it is not PEM")
        return value

    def _open(self, desired: Desired, service: str, secret: str, version: int) -> str:
        called = f"secret {secret} (version {version})"
        sealed = desired.sealed.get((service, secret, version))
        if sealed is None:
            raise SecretError(f"{called} was not sent to this node; run devopsellence deploy")
        try:
            value = _text(self._identity.decrypt(sealed))
        except EncryptionError as error:
            raise SecretError(f"{called}: {error}; run devopsellence secret reencrypt") from error
        if value is None:
            raise SecretError(f"{called} is not UTF-8 text, which a variable must be")
        if _NUL in value:
            raise SecretError(f"{called} contains a NUL character, which no variable can hold")
        return value


def _text(content: bytes) -> str | None:
    """``content`` as text; None if it is none. No error leaves here, because it would hold the content."""
    try:
        return content.decode()
    except UnicodeDecodeError:
        return None
