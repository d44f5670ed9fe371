"""What all of Envoy's files have in common: their form, their names, and how one says where another is.

Each file is a ``DiscoveryResponse`` as JSON (Envoy, xDS protocol, "filesystem subscriptions"): Envoy watches its name
and reads it again when another file is moved there.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

#: A message of Envoy's v3 API in proto3's JSON form.
Message = dict[str, Any]

LISTENERS: Final = "lds.json"
CLUSTERS: Final = "cds.json"
_TYPES: Final = "type.googleapis.com/"


def typed(kind: str, fields: Mapping[str, Any] | None = None) -> Message:
    """A message as ``google.protobuf.Any``; ``kind`` is its full name."""
    return {"@type": _TYPES + kind, **(fields or {})}


def extension(name: str, kind: str, fields: Mapping[str, Any] | None = None) -> Message:
    """An extension of Envoy with its configuration."""
    return {"name": name, "typed_config": typed(kind, fields)}


def response(kind: str, resources: Sequence[Mapping[str, Any]]) -> bytes:
    """The file that holds these resources. Equal resources give equal bytes; the version is a hash of them."""
    found = _json([typed(kind, resource) for resource in resources])
    version = hashlib.sha256(found).hexdigest()[:16]
    return b'{"resources":%s,"version_info":"%s"}' % (found, version.encode())


def plain(message: Message) -> bytes:
    return _json(message)


def source(folder: str, path: str) -> Message:
    """Where Envoy is to find resources: the file ``path`` in ``folder``.

    Without ``watched_directory``, which is for folders that are swapped as a whole and would have every file read again
    whenever one of them is replaced.
    """
    return {"resource_api_version": "V3", "path_config_source": {"path": f"{folder}/{path}"}}


def file_name(label: str, identity: str) -> str:
    """A short file name for whatever ``identity`` is, with enough of ``label`` in it for a person to find it."""
    readable = re.sub(r"[^a-z0-9.-]", "-", label.lower())[:40].strip(".-")
    return f"{readable}-{hashlib.sha256(identity.encode()).hexdigest()[:16]}.json"


def _json(value: object) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()
