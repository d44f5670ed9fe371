"""Rules for names that become part of an etcd key, a path or a container name.

Separate from ``config``, because all programs check names and only the CLI reads a configuration.
"""

from __future__ import annotations

import hashlib
import re
from typing import Final

NAME_RULE: Final = "letters, digits, '-', '_' and '.', at most 63 of them, the first a letter or digit"
NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}\Z", re.ASCII)
HOST_RULE: Final = "at most 253 letters in lower case, digits, '-' and '.', such as app.example.com (IDN as xn--…)"
#: RFC 1123, section 2.1, in lower case.
HOST: Final = re.compile(
    r"(?=.{1,253}\Z)[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?(\.[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)*\Z", re.ASCII
)


class InvalidName(ValueError):
    """Name not allowed in a key, a path or a container name."""

    def __init__(self, what: str, name: str, rule: str = NAME_RULE) -> None:
        super().__init__(f"{what} {name!r} is not a name: a name is {rule}")
        self.what = what
        self.name = name


def check_name(what: str, name: str) -> str:
    """Return ``name`` unchanged if allowed in a key.

    Raises:
        InvalidName: ``name`` breaks :data:`NAME_RULE`; ``what`` (such as ``"node"``) is part of the message.
    """
    if not NAME.match(name):
        raise InvalidName(what, name)
    return name


def check_host(host: str) -> str:
    """Return ``host`` unchanged if allowed as a host name in keys and file names.

    Raises:
        InvalidName: ``host`` breaks :data:`HOST_RULE`.
    """
    if not HOST.match(host):
        raise InvalidName("host", host, HOST_RULE)
    return host


def image_volume_source(service: str, target: str) -> str:
    """Return the source (``volumes[].source``) of a volume that an image declares itself (``VOLUME``) at ``target``.

    ``/data`` of ``redis`` is ``redis_volume_data``. Configuring a volume of this name at the same path keeps the data.
    """
    slug = target.strip("/").replace("/", "_")
    plain = re.fullmatch(r"[a-z0-9/]+", target, re.ASCII) is not None
    digest = "" if plain else f"_{hashlib.sha256(target.encode()).hexdigest()[:6]}"
    kept = re.sub(r"[^A-Za-z0-9._-]", "_", slug)[:63]
    source = f"{service}_volume_{kept}"
    if len(source) + len(digest) > 63:
        digest = f"_{hashlib.sha256(f'{service}:{target}'.encode()).hexdigest()[:6]}"
    return source[: 63 - len(digest)] + digest
