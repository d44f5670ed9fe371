"""An environment's overlay laid over the document: maps merge, everything else replaces. On nodes: places are kept."""

from __future__ import annotations

from typing import Final

from devopsellence.config.cross_checks import PROBES
from devopsellence.config.problems import ConfigProblem, DocPath, did_you_mean
from devopsellence.config.yaml_tree import MapEntry, MapNode, Scalar

OVERLAID: Final = ("services", "tasks", "ingress")


def strangers(overlay: MapNode, base: MapNode, path: DocPath) -> list[ConfigProblem]:
    """What an overlay holds that none may: other parts of the document, services that the document does not have."""
    problems = [
        ConfigProblem(
            (*path, key), f"cannot differ between environments; an overlay holds {', '.join(OVERLAID)}", on_key=True
        )
        for key in overlay.entries
        if key not in OVERLAID
    ]
    known, named = _services(base), _services(overlay)
    for name in named.keys() - known.keys() if known else ():
        fact = f"not found in services, and an overlay cannot add one{did_you_mean(name, [*known])}"
        problems.append(ConfigProblem((*path, "services", name), fact, on_key=True))
    return problems


def laid_over(base: MapNode, overlay: MapNode) -> MapNode:
    """The document as the environment has it, without ``environments`` and without what :func:`strangers` names."""
    known = _services(base)
    entries = {key: entry for key, entry in base.entries.items() if key != "environments"}
    for key in OVERLAID:
        entry = overlay.entries.get(key)
        if entry is None:
            continue
        value = entry.value
        if key == "services" and isinstance(value, MapNode):
            kept = {name: service for name, service in value.entries.items() if name in known}
            value = MapNode(value.mark, kept)
        entries[key] = _merged(entries.get(key), MapEntry(entry.mark, value), (key,))
    return MapNode(base.mark, entries)


def _merged(base: MapEntry | None, over: MapEntry, path: DocPath) -> MapEntry:
    if base is None:
        return over
    if isinstance(over.value, Scalar) and over.value.value is None:
        return base  # a key with nothing after it changes nothing
    if not (isinstance(base.value, MapNode) and isinstance(over.value, MapNode)):
        return over
    entries = dict(base.value.entries)
    if _is_readiness(path):
        entries = _of_one_probe(entries, over.value)
    for key, entry in over.value.entries.items():
        entries[key] = _merged(entries.get(key), entry, (*path, key))
    return MapEntry(over.mark, MapNode(over.value.mark, entries))


def _is_readiness(path: DocPath) -> bool:
    return len(path) == 3 and path[0] == "services" and path[2] == "readiness"


def _of_one_probe(entries: dict[str, MapEntry], over: MapNode) -> dict[str, MapEntry]:
    """An overlay that asks in another way (``tcp`` instead of ``command``) takes the base's way out."""
    kept = [probe for probe in PROBES if probe & over.entries.keys()]
    dropped = {key for probe in PROBES if kept and probe not in kept for key in probe}
    return {key: entry for key, entry in entries.items() if key not in dropped}


def _services(document: MapNode) -> dict[str, MapEntry]:
    entry = document.entries.get("services")
    return entry.value.entries if entry and isinstance(entry.value, MapNode) else {}
