"""Building blocks of Envoy's files: discovery responses, extensions, config sources, file names.

A file is a ``DiscoveryResponse`` as JSON (Envoy, xDS protocol, "filesystem subscriptions"): Envoy watches the path and
reads the file again when a new file is renamed to the path.
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
    """Return a message as ``google.protobuf.Any``; ``kind`` is the full name of the message type."""
    return {"@type": _TYPES + kind, **(fields or {})}


def extension(name: str, kind: str, fields: Mapping[str, Any] | None = None) -> Message:
    """Return an Envoy extension with its configuration."""
    return {"name": name, "typed_config": typed(kind, fields)}


def response(kind: str, resources: Sequence[Mapping[str, Any]]) -> bytes:
    """Return the file with these resources; ``version_info`` is a hash. Equal resources give equal bytes."""
    content = _json([typed(kind, resource) for resource in resources])
    version = hashlib.sha256(content).hexdigest()[:16]
    return b'{"resources":%s,"version_info":"%s"}' % (content, version.encode())


def to_json(message: Message) -> bytes:
    """Return a message as compact JSON with sorted keys."""
    return _json(message)


def source(folder: str, path: str) -> Message:
    """Return the config source of the file ``path`` in ``folder``.

    ``watched_directory`` is left out: Envoy would read every file again whenever a single file is replaced.
    """
    return {"resource_api_version": "V3", "path_config_source": {"path": f"{folder}/{path}"}}


def file_name(label: str, identity: str) -> str:
    """Return a short, unique file name for ``identity``, readable thanks to the beginning of ``label``."""
    readable = re.sub(r"[^a-z0-9.-]", "-", label.lower())[:40].strip(".-")
    return f"{readable}-{hashlib.sha256(identity.encode()).hexdigest()[:16]}.json"


def _json(value: object) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()
