"""What is stored sealed and can be sealed anew: secrets, and the private keys of certificates.

Each kind of item says where it is stored, and shows the sealed files in its record as a secret's versions, so that
``records`` and ``sealing`` treat all of them alike.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, Protocol

from google.protobuf.message import Message

from devopsellence.api.v1.stored_pb2 import Certificate, Secret, SecretVersion
from devopsellence.cli.output import CliError, NextAction
from devopsellence.cli.secrets import records
from devopsellence.cli.secrets.records import SecretId
from devopsellence.cli.secrets.vault import flags, unknown
from devopsellence.store.keys import EnvironmentRef, Keys

#: The version that a private key counts as: there is only one.
KEY: Final = 1


class EncryptedItem(Protocol):
    """Something sealed of an environment; its text names it in a sentence."""

    @property
    def kind(self) -> type[Message]:
        """What its record is."""

    def key(self, keys: Keys, ref: EnvironmentRef) -> str:
        """Where it is stored."""

    def files(self, key: str, message: Any) -> Secret:
        """The sealed files in its record, which stands at ``key``; MalformedRecord when it makes no sense."""

    def with_files(self, message: Any, files: Secret) -> Message:
        """Its record with these files in place of its own."""

    def named(self, version: SecretVersion) -> str:
        """One of its files in a sentence."""

    def anew(self, ref: EnvironmentRef) -> NextAction:
        """What to do where nobody can open it any more."""

    def unknown(self, ref: EnvironmentRef) -> CliError:
        """The error for one that is not stored."""


@dataclass(frozen=True, order=True)
class SecretItem:
    """A secret."""

    secret: SecretId

    def __str__(self) -> str:
        return str(self.secret)

    @property
    def kind(self) -> type[Message]:
        return Secret

    def key(self, keys: Keys, ref: EnvironmentRef) -> str:
        return keys.secret(ref, self.secret.service, self.secret.name)

    def files(self, key: str, message: Secret) -> Secret:
        return records.checked(key, message)

    def with_files(self, message: Secret, files: Secret) -> Message:
        return files

    def named(self, version: SecretVersion) -> str:
        return f"secret {self.secret} (version {version.version})"

    def anew(self, ref: EnvironmentRef) -> NextAction:
        return NextAction("or set it anew", f"devopsellence secret set {flags(self.secret)} --env {ref} --stdin")

    def unknown(self, ref: EnvironmentRef) -> CliError:
        return unknown(ref, self.secret)


@dataclass(frozen=True, order=True)
class CertificateKeyItem:
    """The private key of a host's certificate."""

    host: str

    def __str__(self) -> str:
        return f"the key of {self.host}"

    @property
    def kind(self) -> type[Message]:
        return Certificate

    def key(self, keys: Keys, ref: EnvironmentRef) -> str:
        return keys.certificate(ref, self.host)

    def files(self, key: str, message: Certificate) -> Secret:
        """None where there is no certificate yet."""
        if not message.key_age:
            return Secret()
        return Secret(versions=[SecretVersion(version=KEY, age=message.key_age, recipients=message.recipients)])

    def with_files(self, message: Certificate, files: Secret) -> Message:
        after = Certificate()
        after.CopyFrom(message)
        for version in files.versions:
            after.key_age = version.age
            after.recipients[:] = version.recipients
        return after

    def named(self, version: SecretVersion) -> str:
        return f"the private key of {self.host}'s certificate"

    def anew(self, ref: EnvironmentRef) -> NextAction:
        install = f"devopsellence ingress cert install --host {self.host} --env {ref} --cert-file FILE --key-file FILE"
        return NextAction("or install it anew", install)

    def unknown(self, ref: EnvironmentRef) -> CliError:
        see = NextAction("see which there are", f"devopsellence ingress cert list --env {ref}")
        return CliError("certificate_unknown", f"{ref} has no certificate for {self.host}", next_actions=[see])
