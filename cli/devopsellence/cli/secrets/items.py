"""Items stored encrypted in etcd: secrets, and private keys of certificates.

An item knows its key in etcd, and presents the encrypted files in its record as versions of a secret, so ``records``
and ``grant`` work for both kinds.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, Protocol

from google.protobuf.message import Message

from devopsellence.api.v1.stored_pb2 import Certificate, Secret, SecretVersion
from devopsellence.cli.output import CliError, NextAction
from devopsellence.cli.secrets import records
from devopsellence.cli.secrets.records import SecretId
from devopsellence.cli.secrets.vault import flags, secret_unknown
from devopsellence.store.keys import EnvironmentRef, Keys

#: Version number of a private key, which has no other versions.
KEY: Final = 1


class EncryptedItem(Protocol):
    """Encrypted item of an environment; ``str`` gives a name for messages."""

    @property
    def kind(self) -> type[Message]:
        """Message type of the record."""

    def key(self, keys: Keys, ref: EnvironmentRef) -> str:
        """Return the key of the record in etcd."""

    def files(self, key: str, message: Any) -> Secret:
        """Return the encrypted files of the record at ``key`` as versions.

        Raises:
            MalformedRecord: the record is invalid.
        """

    def with_files(self, message: Any, files: Secret) -> Message:
        """Return the record with its files replaced by ``files``."""

    def describe(self, version: SecretVersion) -> str:
        """Return the name of a version for messages."""

    def replace_action(self, ref: EnvironmentRef) -> NextAction:
        """Return the next step for an item that no operator can decrypt."""

    def unknown(self, ref: EnvironmentRef) -> CliError:
        """Return the error for an item that is not stored."""


@dataclass(frozen=True, order=True)
class SecretItem:
    """Secret of a service or of the registry."""

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

    def describe(self, version: SecretVersion) -> str:
        return f"secret {self.secret} (version {version.version})"

    def replace_action(self, ref: EnvironmentRef) -> NextAction:
        return NextAction("or set a new value", f"devopsellence secret set {flags(self.secret)} --env {ref} --stdin")

    def unknown(self, ref: EnvironmentRef) -> CliError:
        return secret_unknown(ref, self.secret)


@dataclass(frozen=True, order=True)
class CertificateKeyItem:
    """Private key of the certificate of a host."""

    host: str

    def __str__(self) -> str:
        return f"the key of {self.host}"

    @property
    def kind(self) -> type[Message]:
        return Certificate

    def key(self, keys: Keys, ref: EnvironmentRef) -> str:
        return keys.certificate(ref, self.host)

    def files(self, key: str, message: Certificate) -> Secret:
        """Return the private key as a version; no versions for a host without a certificate."""
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

    def describe(self, version: SecretVersion) -> str:
        return f"the private key of {self.host}'s certificate"

    def replace_action(self, ref: EnvironmentRef) -> NextAction:
        install = f"devopsellence ingress cert install --host {self.host} --env {ref} --cert-file FILE --key-file FILE"
        return NextAction("or install a new certificate", install)

    def unknown(self, ref: EnvironmentRef) -> CliError:
        action = NextAction("list the certificates", f"devopsellence ingress cert list --env {ref}")
        return CliError("certificate_unknown", f"{ref} has no certificate for {self.host}", next_actions=[action])
