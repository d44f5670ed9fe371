"""``ingress set``: edit the ingress section of devopsellence.yml and leave the rest of the file as it is."""

from __future__ import annotations

import contextlib
import difflib
import os
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from io import StringIO
from pathlib import Path
from typing import Any, Final

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.error import YAMLError

from devopsellence import config
from devopsellence.cli.output import CliError, NextAction
from devopsellence.config.cross_checks import HTTP, is_web


@dataclass(frozen=True)
class IngressEdit:
    """What was said on the command line; None and empty where nothing was.

    ``hosts`` replace those that are there. ``service``, ``port`` and ``path`` make up the rule of each host.
    """

    hosts: tuple[str, ...] = ()
    service: str | None = None
    port: str | None = None
    path: str | None = None
    tls: str | None = None
    email: str | None = None
    ca_directory_url: str | None = None
    redirect_http: bool | None = None
    drain_timeout: str | None = None

    @property
    def rule(self) -> bool:
        """Whether something was said of rules."""
        return self.service is not None or self.port is not None or self.path is not None


def edit_ingress(text: str, path: Path, wanted: IngressEdit, overlay: str = "") -> str:
    """``text``, the file at ``path``, with what is wanted in its ingress, or in that of the environment ``overlay``.

    Raises:
        ConfigError: the file, or what would become of it, is not valid.
        CliError: ``missing_option`` (exit code 2): it must be said which hosts, which service or which port.
    """
    try:
        yaml = _library(text)
        data = yaml.load(text)
        plain = _dump(yaml, data)
    except YAMLError:
        # Explained as everywhere else.
        config.parse(text, path)
        raise
    if not isinstance(data, CommentedMap):
        config.parse(text, path)
    _edit(data, wanted, overlay)
    changed = _dump(yaml, data)
    after = merge_layout(text, plain, changed)
    if _meaning(after) != _meaning(changed):
        # A layout that cannot be kept.
        after = changed
    config.parse(after, path)
    return after


def difference(before: str, after: str, name: str) -> str:
    """What changes, as a unified diff; "" where nothing does."""
    lines = difflib.unified_diff(before.splitlines(), after.splitlines(), name, name, lineterm="")
    return "\n".join(lines)


def write(path: Path, text: str) -> None:
    """Put ``text`` in the place of what is at ``path``, in one step, for the same readers."""
    real = path.resolve()
    descriptor, name = tempfile.mkstemp(prefix=f".{real.name}.", dir=real.parent)
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8", newline="") as file:
            file.write(text)
            file.flush()
            os.fsync(descriptor)
        temporary.chmod(real.stat().st_mode & 0o777)
        temporary.replace(real)
    finally:
        with contextlib.suppress(FileNotFoundError):
            temporary.unlink()


def _library(text: str) -> YAML:
    """The library, set to write as ``text`` is written: what is under a key further in by as much, dashes as well."""
    yaml = YAML()
    yaml.preserve_quotes = True
    yaml.width = 1 << 20
    step = next((len(found[1]) for found in re.finditer(r"(?m)^( +)[^\s#-]", text)), 2)
    # How far a dash is from its key, and what follows it from the dash.
    dash = re.search(r"(?m)^( *)(?:- +)?[^\s#][^#\n]*:[ ]*\n(?:\s*#.*\n)*( *)-( +)\S", text)
    offset, after = (len(dash[2]) - len(dash[1]), len(dash[3])) if dash else (2, 1)
    offset = offset if 0 <= offset <= step else 2
    yaml.indent(mapping=step, sequence=offset + 1 + after, offset=offset)
    return yaml


def _dump(yaml: YAML, data: Any) -> str:
    stream = StringIO()
    yaml.dump(data, stream)
    return stream.getvalue()


def _meaning(text: str) -> Any:
    try:
        return YAML(typ="safe", pure=True).load(text)
    except YAMLError:
        return None


def _edit(data: CommentedMap, wanted: IngressEdit, overlay: str) -> None:
    base = _map(data.get("ingress"))
    environments = _map(data.get("environments"))
    over = _map(_map(environments.get(overlay)).get("ingress")) if overlay else {}
    # As overlays are merged: lists replace, maps key by key.
    seen: dict[str, Any] = {**base, **over, "tls": {**_map(base.get("tls")), **_map(over.get("tls"))}}
    fields: dict[str, Any] = {}
    hosts = [host.lower() for host in wanted.hosts] or list(map(str, _list(seen.get("hosts"))))
    if not hosts:
        say = NextAction("say which", "devopsellence ingress set --host app.example.com")
        message = "the configuration has no ingress yet, so it must be said for which hosts it is to be"
        raise CliError("missing_option", message, exit_code=2, next_actions=[say])
    if wanted.hosts or not seen.get("hosts"):
        fields["hosts"] = list(dict.fromkeys(hosts))
    if wanted.hosts or wanted.rule or not seen.get("rules"):
        fields["rules"] = list(_rules(data, _list(seen.get("rules")), list(dict.fromkeys(hosts)), wanted))
    for name in ("redirect_http", "drain_timeout"):
        if getattr(wanted, name) is not None:
            fields[name] = getattr(wanted, name)
    said = {"mode": wanted.tls, "email": wanted.email, "ca_directory_url": wanted.ca_directory_url}
    tls = {key: value for key, value in said.items() if value is not None and seen["tls"].get(key) != value}
    changed = {key: value for key, value in fields.items() if seen.get(key) != value}
    if not changed and not tls:
        return
    section = _section(data, *(("environments", overlay) if overlay else ()), "ingress")
    for key, value in changed.items():
        section[key] = _replaced(section.get(key), value)
    if tls:
        _section(section, "tls").update(tls)


def _rules(data: Mapping[str, Any], rules: Sequence[Any], hosts: Sequence[str], wanted: IngressEdit) -> Iterator[Any]:
    """The rules as they are to be: those of hosts that stay, and one for the path of each host that has none there."""
    path = wanted.path or "/"
    target: dict[str, str] | None = None
    if wanted.service is not None or wanted.port is not None:
        target = _target(data, wanted)
    # /api and /api/ are the same to a router.
    same = path.rstrip("/")
    there: set[tuple[str, str]] = set()
    for rule in rules:
        match = _map(_map(rule).get("match"))
        host, prefix = str(match.get("host", "")).lower(), str(match.get("path_prefix", "/")).rstrip("/")
        if host not in hosts:
            continue
        there.add((host, prefix))
        if target is not None and prefix == same and _map(rule).get("target") != target:
            rule = {"match": match, "target": target}
        yield rule
    for host in hosts:
        # A host that has rules keeps them, unless another path is asked for.
        has = any(each == host for each, _ in there)
        if (host, same) not in there and (not has or wanted.path is not None):
            match = {"host": host} if path == "/" else {"host": host, "path_prefix": path}
            yield {"match": match, "target": target or _target(data, wanted)}


def _target(data: Mapping[str, Any], wanted: IngressEdit) -> dict[str, str]:
    """The service and port that were said, else the only ones that can be meant."""
    services = {str(name): _map(service) for name, service in _map(data.get("services")).items()}
    ports = {
        name: [str(_map(port).get("name")) for port in _list(service.get("ports"))]
        for name, service in services.items()
    }
    service = wanted.service
    if service is None:
        web = [
            n for n, each in services.items() if is_web(n, ports[n], healthcheck=each.get("healthcheck") is not None)
        ]
        service = "web" if "web" in web else web[0] if len(web) == 1 else ""
    if not service:
        raise _unsaid("service", "which service requests are to go to", sorted(services))
    port = wanted.port
    if port is None:
        known = ports.get(service, [])
        port = HTTP if HTTP in known or not known else known[0] if len(known) == 1 else ""
    if not port:
        raise _unsaid("port", f"which port of {service} requests are to go to", ports[service])
    return {"service": service, "port": port}


def _unsaid(option: str, what: str, known: Sequence[str]) -> CliError:
    say = [NextAction("say it", f"devopsellence ingress set --{option} {each}") for each in known[:5]]
    return CliError("missing_option", f"it must be said {what}: --{option}", exit_code=2, next_actions=say)


def _section(data: CommentedMap, *path: str) -> CommentedMap:
    """The map at ``path``, made where there is none."""
    for key in path:
        if not isinstance(data.get(key), CommentedMap):
            data[key] = CommentedMap()
        data = data[key]
    return data


def _replaced(before: Any, value: Any) -> Any:
    """``value`` in the place of ``before``; a list in place, so that comments on what stays do."""
    if not isinstance(value, list):
        return value
    if not isinstance(before, CommentedSeq):
        return CommentedSeq([_block(each) for each in value])
    for index in reversed(range(len(before))):
        if before[index] not in value:
            del before[index]
    for index, each in enumerate(value):
        if index >= len(before) or before[index] != each:
            if each in before:
                before.remove(each)
            before.insert(index, _block(each))
    return before


def _block(value: Any) -> Any:
    """``value`` as the library writes it line by line, its maps not shared with others."""
    if not isinstance(value, dict):
        return value
    return (
        value if isinstance(value, CommentedMap) else CommentedMap({key: _block(each) for key, each in value.items()})
    )


def _map(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


_IDLE: Final = re.compile(r"\s*(#.*)?$")


def merge_layout(text: str, plain: str, changed: str) -> str:
    """``text`` with what is otherwise in ``changed`` than in ``plain``, which says the same as ``text``.

    Lines that did not change are those of ``text``. Comments and empty lines are never dropped; what is added comes
    before those that belong to what follows, because they are further out.
    """
    original, before, after = (each.splitlines(keepends=True) for each in (text, plain, changed))
    pieces = list(_pieces(original, before))
    result: list[str] = []
    for kind, start, end, new_start, new_end in SequenceMatcher(None, before, after, autojunk=False).get_opcodes():
        if kind == "equal":
            result += _as_written(pieces, start, end, after[new_start:new_end])
            continue
        added = after[new_start:new_end]
        place = _place(result, added) if kind == "insert" else len(result)
        kept = [line for line in before[start:end] if _IDLE.match(line) and line not in added]
        result[place:place] = [*added, *kept]
    return "".join(result)


def _pieces(original: Sequence[str], plain: Sequence[str]) -> Iterator[tuple[int, int, Sequence[str]]]:
    """Which lines of ``plain`` (from, to) are which of ``original``, in pieces as small as can be told."""
    for kind, start, end, new_start, new_end in SequenceMatcher(None, original, plain, autojunk=False).get_opcodes():
        if kind == "equal" or end - start == new_end - new_start:
            yield from ((new_start + at, new_start + at + 1, [original[start + at]]) for at in range(end - start))
        else:
            yield new_start, new_end, original[start:end]


def _as_written(
    pieces: Sequence[tuple[int, int, Sequence[str]]], start: int, end: int, otherwise: Sequence[str]
) -> Iterator[str]:
    """The lines ``start`` to ``end`` of the plain text as the original has them; those of a piece that is cut as
    ``otherwise`` has them."""
    for first, last, lines in pieces:
        if first == last:
            # Lines that the plain text has not; they stay with the line before them.
            yield from lines if start < first <= end or start == first == 0 else ()
        elif start <= first and last <= end:
            yield from lines
        elif first < end and last > start:
            yield from otherwise[max(first, start) - start : min(last, end) - start]


def _place(result: Sequence[str], added: Sequence[str]) -> int:
    """Where ``added`` goes, after ``result`` but for comments and empty lines that are further out."""
    place, indent = len(result), _indent(added[0]) if added else 0
    while (
        place
        and _IDLE.match(result[place - 1])
        and (not result[place - 1].strip() or _indent(result[place - 1]) < indent)
    ):
        place -= 1
    return place if indent else len(result)


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip(" "))
