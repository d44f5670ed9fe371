"""``ingress set``: edit the ingress section of devopsellence.yml and leave the rest of the file unchanged.

ruamel.yaml keeps comments, order and quotes; layout changed by ruamel.yaml is restored from the original text. Line
ends, a missing final newline and a byte order mark stay as they are.
"""

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
from devopsellence.config.file import read_file
from devopsellence.config.problems import unusable

_BOM: Final = "\ufeff"
# Line breaks of YAML 1.2 (section 5.4).
_LINE: Final = re.compile(r"[^\r\n]*(?:\r\n|\r|\n)|[^\r\n]+")
_NO_NEWLINE: Final = "\\ No newline at end of file"


@dataclass(frozen=True)
class IngressEdit:
    """Options of ``ingress set``; None or empty if not given.

    ``hosts`` replace the configured hosts. ``service``, ``port`` and ``path`` form the rule of every host.
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
        """True if an option about rules was given."""
        return self.service is not None or self.port is not None or self.path is not None


def read(path: Path) -> str:
    """Return the text of the file at ``path``, with its line ends and byte order mark.

    Raises:
        ConfigError: the file cannot be read, or is not text.
    """
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise unusable(str(path), "is a pipe or a device, which cannot be edited; give a file")
    # Raises the usual errors about an unusable file.
    read_file(path)
    return path.read_bytes().decode()


def edit_ingress(text: str, path: Path, options: IngressEdit, overlay: str = "") -> str:
    """Return the edited ``text`` of the file at ``path``; ``overlay`` is the environment to edit, "" for the base.

    Raises:
        ConfigError: the file is invalid, or would be invalid after the edit.
        CliError: ``missing_option`` (exit code 2): hosts, service or port must be given.
    """
    unmarked = text.removeprefix(_BOM)
    before = _line_feeds(unmarked)
    after = _edited(before, path, options, overlay)
    if after == before:
        return text
    restored = restore_line_ends(unmarked, after)
    if _meaning(restored) != _meaning(after):
        # The end of a block scalar: its newline is data.
        restored += _line_end(unmarked)
    return text[: len(text) - len(unmarked)] + restored


def _edited(text: str, path: Path, options: IngressEdit, overlay: str) -> str:
    try:
        yaml = _library(text)
        data = yaml.load(text)
        plain = _dump(yaml, data)
    except YAMLError:
        # Raises the usual error about an invalid configuration.
        config.parse(text, path)
        raise
    if not isinstance(data, CommentedMap):
        config.parse(text, path)
    _edit(data, options, overlay)
    changed = _dump(yaml, data)
    after = merge_layout(text, plain, changed)
    if _meaning(after) != _meaning(changed):
        # The original layout cannot be kept.
        after = changed
    config.parse(after, path)
    return after


def difference(before: str, after: str, name: str) -> str:
    """Return a unified diff in which each changed line has its line end, as in the files; "" without changes."""
    diff = difflib.unified_diff(_LINE.findall(before), _LINE.findall(after), name, name)
    lines = [line if line.endswith("\n") else f"{line}\n{_NO_NEWLINE}\n" for line in diff]
    return "".join(lines).removesuffix("\n")


def restore_line_ends(text: str, edited: str) -> str:
    """Return ``edited`` with the line ends of ``text``: of the same line, of the first line for a new one. Pure.

    ``edited`` has line feeds only. Without a newline at the end of ``text`` there is none at the end of the result.
    """
    original, usual = _LINE.findall(text), _line_end(text)
    before, after = (_LINE.findall(each) for each in (_line_feeds(text), edited))
    result: list[str] = []
    for kind, start, end, new_start, new_end in SequenceMatcher(None, before, after, autojunk=False).get_opcodes():
        if kind == "equal":
            result += original[start:end]
        else:
            result += [line.removesuffix("\n") + usual for line in after[new_start:new_end]]
    # A last line without an end may now be followed by others.
    last = len(result) - 1
    result = [line if line[-1:] in "\r\n" or at == last else line + usual for at, line in enumerate(result)]
    if text and text[-1] not in "\r\n":
        return "".join(result).removesuffix(usual)
    return "".join(result)


def _line_feeds(text: str) -> str:
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _line_end(text: str) -> str:
    """Return the end of the first line; a line feed without any."""
    match = re.search(r"\r\n|\r|\n", text)
    return match[0] if match else "\n"


def write(path: Path, text: str) -> None:
    """Replace the file at ``path`` atomically and keep its permissions."""
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
    """Return ruamel.yaml with the indentation of ``text``."""
    yaml = YAML()
    yaml.preserve_quotes = True
    yaml.width = 1 << 20
    step = next((len(match[1]) for match in re.finditer(r"(?m)^( +)[^\s#-]", text)), 2)
    # Offset of a dash from its key, and of the item from the dash.
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


def _edit(data: CommentedMap, options: IngressEdit, overlay: str) -> None:
    base = _map(data.get("ingress"))
    environments = _map(data.get("environments"))
    over = _map(_map(environments.get(overlay)).get("ingress")) if overlay else {}
    # Merged like overlays: lists are replaced, maps merged by key.
    current: dict[str, Any] = {**base, **over, "tls": {**_map(base.get("tls")), **_map(over.get("tls"))}}
    fields: dict[str, Any] = {}
    hosts = [host.lower() for host in options.hosts] or list(map(str, _list(current.get("hosts"))))
    if not hosts:
        say = NextAction("give the hosts", "devopsellence ingress set --host app.example.com")
        message = "the configuration has no ingress yet, so --host is required"
        raise CliError("missing_option", message, exit_code=2, next_actions=[say])
    if options.hosts or not current.get("hosts"):
        fields["hosts"] = list(dict.fromkeys(hosts))
    if options.hosts or options.rule or not current.get("rules"):
        fields["rules"] = list(_rules(data, _list(current.get("rules")), list(dict.fromkeys(hosts)), options))
    for name in ("redirect_http", "drain_timeout"):
        if getattr(options, name) is not None:
            fields[name] = getattr(options, name)
    tls_options = {"mode": options.tls, "email": options.email, "ca_directory_url": options.ca_directory_url}
    tls = {key: value for key, value in tls_options.items() if value is not None and current["tls"].get(key) != value}
    changed = {key: value for key, value in fields.items() if current.get(key) != value}
    if not changed and not tls:
        return
    section = _section(data, *(("environments", overlay) if overlay else ()), "ingress")
    for key, value in changed.items():
        section[key] = _replaced(section.get(key), value)
    if tls:
        _section(section, "tls").update(tls)


def _rules(data: Mapping[str, Any], rules: Sequence[Any], hosts: Sequence[str], options: IngressEdit) -> Iterator[Any]:
    """Yield the new rules: existing rules of remaining hosts, and a rule for the path of every host without one."""
    path = options.path or "/"
    target: dict[str, str] | None = None
    if options.service is not None or options.port is not None:
        target = _target(data, options)
    # /api and /api/ are the same to a router.
    same = path.rstrip("/")
    existing: set[tuple[str, str]] = set()
    for rule in rules:
        match = _map(_map(rule).get("match"))
        host, prefix = str(match.get("host", "")).lower(), str(match.get("path_prefix", "/")).rstrip("/")
        if host not in hosts:
            continue
        existing.add((host, prefix))
        if target is not None and prefix == same and _map(rule).get("target") != target:
            rule = {"match": match, "target": target}
        yield rule
    for host in hosts:
        # A host with rules keeps the rules; a new rule is added only for a new path.
        has = any(each == host for each, _ in existing)
        if (host, same) not in existing and (not has or options.path is not None):
            match = {"host": host} if path == "/" else {"host": host, "path_prefix": path}
            yield {"match": match, "target": target or _target(data, options)}


def _target(data: Mapping[str, Any], options: IngressEdit) -> dict[str, str]:
    """Return the given service and port, else the only possible ones."""
    services = {str(name): _map(service) for name, service in _map(data.get("services")).items()}
    ports = {
        name: [str(_map(port).get("name")) for port in _list(service.get("ports"))]
        for name, service in services.items()
    }
    service = options.service
    if service is None:
        web = [
            n
            for n, service_config in services.items()
            if is_web(n, ports[n], healthcheck=service_config.get("healthcheck") is not None)
        ]
        service = "web" if "web" in web else web[0] if len(web) == 1 else ""
    if not service:
        raise _missing_option("service", "the service for the requests is not clear", sorted(services))
    port = options.port
    if port is None:
        known = ports.get(service, [])
        port = HTTP if HTTP in known or not known else known[0] if len(known) == 1 else ""
    if not port:
        raise _missing_option("port", f"service {service} has several ports", ports[service])
    return {"service": service, "port": port}


def _missing_option(option: str, why: str, known: Sequence[str]) -> CliError:
    actions = [NextAction("choose", f"devopsellence ingress set --{option} {value}") for value in known[:5]]
    return CliError("missing_option", f"{why}: --{option} is required", exit_code=2, next_actions=actions)


def _section(data: CommentedMap, *path: str) -> CommentedMap:
    """Return the map at ``path``; create missing maps."""
    for key in path:
        if not isinstance(data.get(key), CommentedMap):
            data[key] = CommentedMap()
        data = data[key]
    return data


def _replaced(before: Any, value: Any) -> Any:
    """Return ``value`` as replacement of ``before``; lists are edited in place to keep comments."""
    if not isinstance(value, list):
        return value
    if not isinstance(before, CommentedSeq):
        return CommentedSeq([_block(item) for item in value])
    for index in reversed(range(len(before))):
        if before[index] not in value:
            del before[index]
    for index, item in enumerate(value):
        if index >= len(before) or before[index] != item:
            if item in before:
                before.remove(item)
            before.insert(index, _block(item))
    return before


def _block(value: Any) -> Any:
    """Return ``value`` in block style, with copied maps."""
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
    """Apply the changes between ``plain`` and ``changed`` to ``text``; ``plain`` is ``text`` in ruamel.yaml's layout.

    Unchanged lines are taken from ``text``. Comments and empty lines are never dropped; added lines go before comments
    with less indentation, which belong to the following section. Pure.
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
    """Yield ranges of lines of ``plain`` (from, to) with the matching lines of ``original``, as small as possible."""
    for kind, start, end, new_start, new_end in SequenceMatcher(None, original, plain, autojunk=False).get_opcodes():
        if kind == "equal" or end - start == new_end - new_start:
            yield from ((new_start + at, new_start + at + 1, [original[start + at]]) for at in range(end - start))
        else:
            yield new_start, new_end, original[start:end]


def _as_written(
    pieces: Sequence[tuple[int, int, Sequence[str]]], start: int, end: int, otherwise: Sequence[str]
) -> Iterator[str]:
    """Yield the original lines for lines ``start`` to ``end`` of the plain text.

    A piece only partly in the range is taken from ``otherwise``.
    """
    for first, last, lines in pieces:
        if first == last:
            # Lines missing from the plain text stay with the line before.
            yield from lines if start < first <= end or start == first == 0 else ()
        elif start <= first and last <= end:
            yield from lines
        elif first < end and last > start:
            yield from otherwise[max(first, start) - start : min(last, end) - start]


def _place(result: Sequence[str], added: Sequence[str]) -> int:
    """Return the position for ``added``: the end of ``result``, before trailing comments with less indentation."""
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
