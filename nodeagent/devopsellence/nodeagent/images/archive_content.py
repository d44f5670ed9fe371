"""Content of an image archive from a peer: names, links and digests of its files, checked against the configuration.

An engine unpacks a layer before it compares the digest, and a layer can be compressed or sparse: a small file becomes a
full disk. So the layers are compared before the engine has the end of the archive, up to which it unpacks nothing.
"""

from __future__ import annotations

import json
import posixpath
import tarfile
from typing import Any, Final

from devopsellence.nodeagent.images.layers import MAX_LAYERS

#: Limit of files and folders: an engine saves up to four for each layer, and a few more.
MAX_ENTRIES: Final = 4 * MAX_LAYERS + 64
#: Limit of an extended header; tarfile reads it as a whole.
MAX_HEADER_BYTES: Final = 1 << 20
_HEADER_TYPES: Final = (
    *(tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE),
    *(tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK),
)
#: Only name that a link may have: engines save a layer that equals another one as a link.
_LAYER: Final = "layer.tar"


class InvalidImageArchive(Exception):
    """The archive does not contain the image, or is incomplete; the message has the reason."""


class BoundedTarInfo(tarfile.TarInfo):
    """Entry of a tar archive that refuses extended headers of any size."""

    def _proc_member(self, archive: tarfile.TarFile) -> tarfile.TarInfo:
        if self.type in _HEADER_TYPES and self.size > MAX_HEADER_BYTES:
            raise InvalidImageArchive(f"a header is larger than {MAX_HEADER_BYTES >> 20} MiB")
        return super()._proc_member(archive)  # type: ignore[misc,no-any-return]


class ArchiveContent:
    """Files and links of an archive so far."""

    def __init__(self) -> None:
        self._digests: dict[str, str] = {}
        self._links: dict[str, str] = {}
        self._names: set[str] = set()

    def enter(self, entry: tarfile.TarInfo) -> None:
        """Note an entry.

        Raises:
            InvalidImageArchive: there are too many, or it could take the place of another one.
        """
        name = entry.name
        if len(self._names) >= MAX_ENTRIES:
            raise InvalidImageArchive(f"it contains more than {MAX_ENTRIES} files")
        if not (entry.isreg() or entry.isdir() or entry.issym() or entry.islnk()):
            raise InvalidImageArchive(f"it contains {name}, which is not a regular file, folder or link")
        if name != posixpath.normpath(name) or name.startswith(("/", "../")) or name in self._names:
            raise InvalidImageArchive(f"it contains {name}, whose name is not valid")
        if posixpath.dirname(name) in self._links:
            raise InvalidImageArchive(f"it contains {name} below a link")
        self._names.add(name)
        if entry.issym() or entry.islnk():
            if posixpath.basename(name) != _LAYER:
                raise InvalidImageArchive(f"it contains {name}, which is a link and not a regular file")
            folder = posixpath.dirname(name) if entry.issym() else ""
            self._links[name] = posixpath.normpath(posixpath.join(folder, entry.linkname))

    def add(self, name: str, digest: str) -> None:
        """Note the digest of a file, in hexadecimal."""
        self._digests[name] = digest

    def check_layers(self, names: list[Any], config: bytes) -> None:
        """Compare the layers with those of the configuration.

        Raises:
            InvalidImageArchive: they are not the same.
        """
        try:
            diff_ids = list(json.loads(config)["rootfs"].get("diff_ids") or ())
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise InvalidImageArchive("its configuration lists no layers") from error
        if len(names) != len(diff_ids) or len(diff_ids) > MAX_LAYERS:
            raise InvalidImageArchive(f"it contains {len(names)} layers instead of {len(diff_ids)}")
        for name, diff_id in zip(names, diff_ids, strict=True):
            if f"sha256:{self._digest_of(name)}" != diff_id:
                raise InvalidImageArchive(f"its layer {name} has a different digest than {diff_id}")

    def _digest_of(self, name: Any) -> str:
        # A link leads to a file, not to another link: an engine saves no others.
        return self._digests.get(self._links.get(name, name), "") if isinstance(name, str) else ""
