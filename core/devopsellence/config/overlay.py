"""Overlay of an environment on the document: maps merge, other values replace. Line and column are kept."""

from __future__ import annotations

from typing import Final

from devopsellence.config.cross_checks import PROBES
from devopsellence.config.problems import ConfigProblem, DocPath, did_you_mean
from devopsellence.config.yaml_tree import MapEntry, MapNode, Scalar

OVERLAY_KEYS: Final = ("services", "tasks", "ingress")


def unknown_entries(overlay: MapNode, base: MapNode, path: DocPath) -> list[ConfigProblem]:
    """Return problems of entries not allowed in an overlay: further sections, services missing in the document."""
    problems = [
        ConfigProblem(
            (*path, key),
            f"cannot differ between environments; allowed in an overlay: {', '.join(OVERLAY_KEYS)}",
            on_key=True,
        )
        for key in overlay.entries
        if key not in OVERLAY_KEYS
    ]
    known, named = _services(base), _services(overlay)
    for name in named.keys() - known.keys() if known else ():
        fact = f"not found in services, and an overlay cannot add one{did_you_mean(name, [*known])}"
        problems.append(ConfigProblem((*path, "services", name), fact, on_key=True))
    return problems


def apply_overlay(base: MapNode, overlay: MapNode) -> MapNode:
    """Return the document of an environment, without ``environments`` and :func:`unknown_entries`."""
    known = _services(base)
    entries = {key: entry for key, entry in base.entries.items() if key != "environments"}
    for key in OVERLAY_KEYS:
        entry = overlay.entries.get(key)
        if entry is None:
            continue
        value = entry.value
        if key == "services" and isinstance(value, MapNode):
            known_services = {name: service for name, service in value.entries.items() if name in known}
            value = MapNode(value.mark, known_services)
        entries[key] = _merged(entries.get(key), MapEntry(entry.mark, value), (key,))
    return MapNode(base.mark, entries)


def _merged(base: MapEntry | None, over: MapEntry, path: DocPath) -> MapEntry:
    if base is None:
        return over
    if isinstance(over.value, Scalar) and over.value.value is None:
        return base  # a key without a value changes nothing
    if not (isinstance(base.value, MapNode) and isinstance(over.value, MapNode)):
        return over
    entries = dict(base.value.entries)
    if _is_readiness(path):
        entries = _without_replaced_probe(entries, over.value)
    for key, entry in over.value.entries.items():
        entries[key] = _merged(entries.get(key), entry, (*path, key))
    return MapEntry(over.mark, MapNode(over.value.mark, entries))


def _is_readiness(path: DocPath) -> bool:
    return len(path) == 3 and path[0] == "services" and path[2] == "readiness"


def _without_replaced_probe(entries: dict[str, MapEntry], over: MapNode) -> dict[str, MapEntry]:
    """Remove the probe of the base if the overlay sets another kind (``tcp`` instead of ``command``)."""
    overlay_probes = [probe for probe in PROBES if probe & over.entries.keys()]
    dropped = {key for probe in PROBES if overlay_probes and probe not in overlay_probes for key in probe}
    return {key: entry for key, entry in entries.items() if key not in dropped}


def _services(document: MapNode) -> dict[str, MapEntry]:
    entry = document.entries.get("services")
    return entry.value.entries if entry and isinstance(entry.value, MapNode) else {}
