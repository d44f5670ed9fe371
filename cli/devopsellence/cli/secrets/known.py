"""Recipients that this operator has confirmed: a file beside its identity, as known_hosts of ssh."""

from __future__ import annotations

import fcntl
import hashlib
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from devopsellence import input_file
from devopsellence.cli.access_token import TokenSettings
from devopsellence.cli.output import CliError
from devopsellence.cli.secrets.identity import identity_path

if TYPE_CHECKING:
    from devopsellence.store.settings import Settings

FILE_NAME: Final = "known-recipients"
_MAX_BYTES: Final = 16 << 20
_CLUSTER_CHARACTERS: Final = 16


@dataclass(frozen=True)
class KnownRecipients:
    """File of confirmed recipients, a line for each; ``cluster`` tells those of other clusters apart."""

    path: Path
    cluster: str

    def load(self) -> frozenset[str]:
        """Return the entries of this cluster. Blocks.

        Raises:
            CliError: ``known_recipients_unusable``.
        """
        try:
            lines = input_file.read(self.path, _MAX_BYTES).decode().splitlines()
        except FileNotFoundError:
            return frozenset()
        except (OSError, UnicodeDecodeError) as error:
            raise self._unusable(error) from error
        mine = f"{self.cluster} "
        return frozenset(line.removeprefix(mine) for line in lines if line.startswith(mine))

    def add(self, entries: Iterable[str]) -> None:
        """Append entries of this cluster. Blocks.

        Raises:
            CliError: ``known_recipients_unusable``.
        """
        try:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
            with os.fdopen(descriptor, "w") as file:
                fcntl.flock(descriptor, fcntl.LOCK_EX)
                file.writelines(f"{self.cluster} {entry}\n" for entry in entries)
        except OSError as error:
            raise self._unusable(error) from error

    def _unusable(self, error: Exception) -> CliError:
        why = error.strerror if isinstance(error, OSError) else "it is not text"
        return CliError("known_recipients_unusable", f"cannot use the confirmed recipients in {self.path}: {why}")


def of_settings(settings: Settings) -> KnownRecipients | None:
    """Return the file of the operator with these settings; None for a job with a token, which confirms nothing.

    Raises:
        CliError: ``known_recipients_unusable``: the cluster's authority cannot be read.
    """
    if isinstance(settings, TokenSettings) or settings.ca_cert is None:
        return None
    path = identity_path().with_name(FILE_NAME)
    try:
        authority = input_file.read(settings.ca_cert)
    except OSError as error:
        raise CliError("known_recipients_unusable", f"cannot read {settings.ca_cert}: {error.strerror}") from error
    return KnownRecipients(path, hashlib.sha256(authority).hexdigest()[:_CLUSTER_CHARACTERS])
