"""Software bill of materials (CycloneDX 1.5) and list of licences, from the packages' own metadata."""

from __future__ import annotations

import datetime
import re
from collections.abc import Iterable
from dataclasses import dataclass
from email.message import Message
from typing import Any, Final
from urllib.parse import quote

_FIELD: Final = re.compile(r"^License:[ \t]*(\S.*)$", re.MULTILINE)
_CLASSIFIER: Final = "License :: OSI Approved :: "


@dataclass(frozen=True)
class Component:
    """A package in the bundle. ``kind`` is the type of its package URL; ``texts`` says where its licences are."""

    kind: str
    name: str
    version: str
    licences: tuple[str, ...]
    texts: str
    architecture: str = ""
    sha256: str = ""

    @property
    def url(self) -> str:
        """Package URL: the name that identifies a package everywhere."""
        space = "debian/" if self.kind == "deb" else ""
        suffix = f"?arch={self.architecture}" if self.architecture else ""
        return f"pkg:{self.kind}/{space}{quote(self.name)}@{quote(self.version, safe='')}{suffix}"


def python_licences(package: Message) -> tuple[str, ...]:
    """Return the licences that a Python package names: its expression, else its classifiers, else its free text."""
    if expression := package.get("License-Expression"):
        return (expression,)
    classifiers = [value for value in package.get_all("Classifier", []) if value.startswith(_CLASSIFIER)]
    if classifiers:
        return tuple(sorted(value.removeprefix(_CLASSIFIER) for value in classifiers))
    text = str(package.get("License") or "").strip()
    return (text.splitlines()[0],) if text else ()


def debian_licences(copyright_file: str) -> tuple[str, ...]:
    """Return the short names of the licences in a Debian copyright file; none if it is not machine-readable."""
    if not copyright_file.startswith("Format"):
        return ()
    return tuple(sorted({name.strip() for name in _FIELD.findall(copyright_file)}))


def cyclonedx(version: str, epoch: int, components: Iterable[Component]) -> dict[str, Any]:
    """Return the bill of materials as a JSON object."""
    time = datetime.datetime.fromtimestamp(epoch, datetime.UTC)
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {
            "timestamp": f"{time:%Y-%m-%dT%H:%M:%SZ}",
            "component": {"type": "application", "name": "devopsellence", "version": version},
        },
        "components": [_component(component) for component in components],
    }


def _component(component: Component) -> dict[str, Any]:
    result: dict[str, Any] = {
        "type": "library",
        "bom-ref": component.url,
        "name": component.name,
        "version": component.version,
        "purl": component.url,
    }
    if component.licences:
        result["licenses"] = [{"license": {"name": licence}} for licence in component.licences]
    if component.sha256:
        result["hashes"] = [{"alg": "SHA-256", "content": component.sha256}]
    return result


def licence_list(components: Iterable[Component]) -> str:
    """Return the list of licences for people, one package a line."""
    lines = ["Packages in this bundle, their licences as the packages name them, and where the full texts are.", ""]
    for component in components:
        named = "; ".join(component.licences) or "see the text"
        lines.append(f"{component.name} {component.version} ({component.kind}): {named}. {component.texts}")
    return "\n".join(lines) + "\n"
