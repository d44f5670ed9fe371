"""Manifest of a bundle: the versions in it, and every file of the tree with its SHA-256."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from deploy.bundle.archive import entries, sha256

#: Name of the manifest in the tree, which it does not list.
NAME: Final = "MANIFEST.json"


@dataclass(frozen=True)
class Versions:
    """Version and architecture of a bundle, and the versions of the programs in it."""

    version: str
    architecture: str
    etcd: str
    envoy: str
    python: str
    base: str
    source_date_epoch: int


def manifest(versions: Versions, tree: Path) -> dict[str, Any]:
    """Return the manifest of a tree: files with their hashes, links with their targets."""
    files: dict[str, str] = {}
    links: dict[str, str] = {}
    for path in entries(tree):
        name = str(path.relative_to(tree))
        if path.is_symlink():
            links[name] = str(path.readlink())
        elif path.is_file() and name != NAME:
            files[name] = sha256(path)
    return {"format": 1, **asdict(versions), "files": files, "links": links}


def as_text(document: dict[str, Any]) -> str:
    """Return a JSON object as text, for files."""
    return json.dumps(document, indent=1, ensure_ascii=False) + "\n"
