"""Image references, as the distribution project's reference grammar defines them.

``redis:7`` is ``docker.io/library/redis:7``; what docker prints is the short ("familiar") form.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

IMAGE_ID: Final = re.compile(r"sha256:[0-9a-f]{64}\Z")
_PART: Final = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_HOST: Final = r"(?:[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?)(?:\.[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?)*"
_DOMAIN: Final = re.compile(rf"(?:{_HOST}|\[[0-9a-fA-F:]+\])(?::[0-9]+)?\Z")
_PATH: Final = re.compile(rf"{_PART}(?:/{_PART})*\Z")
_TAG: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}\Z", re.ASCII)
_DIGEST: Final = re.compile(r"[a-z0-9]+(?:[+._-][a-z0-9]+)*:[0-9a-f]{32,}\Z")
_DEFAULT_DOMAIN: Final = "docker.io"


class InvalidReference(ValueError):
    """Invalid image reference; the message is the reason."""


@dataclass(frozen=True)
class Reference:
    """Complete image reference; ``tag`` and ``digest`` are "" if absent."""

    domain: str
    path: str
    tag: str = ""
    digest: str = ""

    @property
    def repository(self) -> str:
        """Repository as docker prints it: without ``docker.io`` and ``library/``."""
        if self.domain != _DEFAULT_DOMAIN:
            return f"{self.domain}/{self.path}"
        short = self.path.removeprefix("library/")
        return self.path if "/" in short else short

    def same_repository(self, other: Reference) -> bool:
        """Return True if both references name the same repository, in whatever form."""
        return (self.domain, self.path) == (other.domain, other.path)


def parse_reference(text: str) -> Reference:
    """Parse an image reference.

    Raises:
        InvalidReference: ``text`` is not an image reference.
    """
    rest, _, digest = text.partition("@")
    if "@" in text and not _DIGEST.match(digest):
        raise InvalidReference(f"{text!r} has no digest such as sha256:… after its '@'")
    # A colon after the last slash starts a tag; a colon before belongs to a port.
    head, colon, tag = rest.rpartition(":")
    if colon and "/" not in tag:
        rest = head
        if not _TAG.match(tag):
            raise InvalidReference(f"{text!r} is not an image reference: {tag!r} is not a tag")
    else:
        tag = ""
    domain, path = _split(rest)
    if not _DOMAIN.match(domain) or not _PATH.match(path):
        raise InvalidReference(f"{text!r} is not an image reference, such as redis:7 or registry.example.com/app:1")
    return Reference(domain, path, tag, digest)


def _split(name: str) -> tuple[str, str]:
    first, slash, rest = name.partition("/")
    is_domain = slash and ("." in first or ":" in first or first == "localhost" or first != first.lower())
    domain, path = (first, rest) if is_domain else (_DEFAULT_DOMAIN, name)
    if domain == "index.docker.io":
        domain = _DEFAULT_DOMAIN
    if domain == _DEFAULT_DOMAIN and "/" not in path:
        path = f"library/{path}"
    return domain, path
