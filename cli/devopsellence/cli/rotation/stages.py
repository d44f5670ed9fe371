"""Stages of a rotation, told by the files of the cluster's folder; each change can be repeated after a crash."""

from __future__ import annotations

import datetime
import shutil
from enum import StrEnum
from typing import Final

from devopsellence import input_file
from devopsellence.atomic_file import write_atomic
from devopsellence.cli.cluster import authority as authorities
from devopsellence.cli.cluster.authority import Passphrase
from devopsellence.cli.cluster.folder import ClusterFolder, make_private

#: Files of the next authorities, in the order in which they move: the certificate that tells the stage is the last.
_MOVED: Final = ("ca.key", "issuing.key", "issuing.crt", "ca.crt")


class Stage(StrEnum):
    """Stage of a rotation, also in JSON."""

    NONE = "none"
    #: The next root exists, and everybody is to trust it.
    INTRODUCED = "introduced"
    #: The next root has become the root, and everybody is to have a certificate under it.
    SWITCHED = "switched"


def stage_of(folder: ClusterFolder) -> Stage:
    """Return the stage; call with the folder locked, as an interrupted switch is finished."""
    if folder.former_certificate.exists():
        if folder.next.root.exists():
            _move(folder)
        return Stage.SWITCHED
    return Stage.INTRODUCED if folder.next.root.exists() else Stage.NONE


def introduce(folder: ClusterFolder, at: datetime.datetime, passphrase: Passphrase) -> None:
    """Create the next authorities, all of them or none.

    Raises:
        What ``passphrase`` raises; nothing is changed then.
    """
    draft = ClusterFolder(folder.root / "next.new")
    if draft.root.exists():
        shutil.rmtree(draft.root)
    make_private(draft.root)
    authorities.create(draft, at, passphrase)
    draft.root.rename(folder.next.root)


def abandon(folder: ClusterFolder) -> None:
    """Remove the next authorities."""
    shutil.rmtree(folder.next.root)


def switch(folder: ClusterFolder) -> None:
    """Put the next authorities in place of the present ones, which are kept as the former."""
    # The key may be in a safe place: nothing here needs it.
    if folder.authority_key.exists():
        write_atomic(folder.former_key, input_file.read(folder.authority_key), mode=0o600)
        # The next one may be in a safe place as well, and this one does not belong to its certificate.
        folder.authority_key.unlink()
    write_atomic(folder.former_certificate, input_file.read(folder.authority_certificate), mode=0o644)
    _move(folder)


def retire(folder: ClusterFolder) -> None:
    """Forget the former root and its key."""
    folder.former_key.unlink(missing_ok=True)
    folder.former_certificate.unlink(missing_ok=True)


def _move(folder: ClusterFolder) -> None:
    for name in _MOVED:
        source = folder.next.root / name
        if source.exists():
            source.replace(folder.root / name)
    folder.next.root.rmdir()
