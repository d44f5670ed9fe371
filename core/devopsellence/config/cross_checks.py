"""Checks across sections of the configuration: service kinds, references, duplicates, dependency cycles.

The checks read the plain document, valid or not, so that a misspelt port does not hide a missing health check. Values
of the wrong type are skipped, because field validation reports them.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator
from datetime import timedelta
from itertools import chain, islice
from typing import Any, Final

from devopsellence.config import quantities, scalars
from devopsellence.config.problems import MAX_PROBLEMS, ConfigProblem, DocPath, did_you_mean, dotted, printable, quoted
from devopsellence.config.yaml_tree import Plain

HTTP: Final = "http"
WEB: Final = "web"
DEFAULT_PORT: Final = 3000
# Kinds of readiness probe, by their keys; a readiness has exactly one kind.
PROBES: Final = (frozenset({"command"}), frozenset({"tcp"}), frozenset({"path", "port"}))


def is_web(name: str, port_names: Iterable[object], *, healthcheck: bool) -> bool:
    """Return True for a service of kind web: named web, with a port named http, or with a health check."""
    return name == WEB or healthcheck or HTTP in port_names


def cross_check(document: dict[str, Plain]) -> list[ConfigProblem]:
    """Return the problems of a document found by cross checks, at most :data:`MAX_PROBLEMS`."""
    services = _Services(document.get("services"))
    problems = chain(
        _services(services),
        _case_only(document),
        _dependencies(services),
        _tasks(_map(document.get("tasks")), services),
        _ingress(document.get("ingress"), services),
        _registry(_map(document.get("registry"))),
        _limits(document.get("deploy"), services),
    )
    return list(islice(problems, MAX_PROBLEMS))


class _Services:
    """Readable services of a document."""

    def __init__(self, written: Plain) -> None:
        self.names = dict.fromkeys(_map(written))
        # Services that are maps; a service without a value has all defaults.
        self.readable = {name: _map(value) for name, value in _map(written).items() if value is None or _is_map(value)}
        # Services that are to complete, with a service that waits for that.
        self.completing = {
            other: name
            for name, service in self.readable.items()
            for other, long in _map(service.get("depends_on")).items()
            if _map(long).get("condition") == "service_completed_successfully"
        }

    def missing(self, name: str) -> str:
        """Return the problem of a reference to a missing service; "" if the service exists, or none is readable."""
        if not self.names or name in self.names:
            return ""
        return f"{quoted(name)} not found in services{did_you_mean(name, [*self.names])}"


def _services(services: _Services) -> Iterator[ConfigProblem]:
    for name, service in services.readable.items():
        path: DocPath = ("services", name)
        yield from _kind(path, name, service)
        yield from _twice(path, service, "ports", "name")
        yield from _twice(path, service, "secret_refs", "name")
        yield from _twice(path, service, "volumes", "target")
        yield from _env_sizes(path, service)
        if _is_map(service.get("readiness")):
            yield from _readiness((*path, "readiness"), service)


def _kind(path: DocPath, name: str, service: dict[str, Plain]) -> Iterator[ConfigProblem]:
    ports, healthcheck = service.get("ports"), service.get("healthcheck") is not None
    if ports is not None and not isinstance(ports, list):
        return
    names = _port_names(service)
    if is_web(name, names, healthcheck=healthcheck):
        if HTTP not in names:
            yield ConfigProblem(path, "must expose an http port (an entry of ports with name: http)")
        if not healthcheck:
            yield ConfigProblem((*path, "healthcheck"), "is required")


def _twice(path: DocPath, service: dict[str, Plain], field: str, key: str) -> Iterator[ConfigProblem]:
    values = [(index, item.get(key)) for index, item in enumerate(_list(service.get(field))) if _is_map(item)]
    yield from _repeated(((*path, field, index, key), value) for index, value in values)


def _repeated(values: Iterable[tuple[DocPath, object]]) -> Iterator[ConfigProblem]:
    seen: dict[Hashable, str] = {}
    for path, value in values:
        if not isinstance(value, str):
            continue
        compared = scalars.normal_path(value) if path[-1] == "target" else value
        if compared in seen:
            same = f" of {quoted(seen[compared])}, the same path" if seen[compared] != value else ""
            yield ConfigProblem(path, f"{quoted(value)} is a duplicate{same}")
        seen.setdefault(compared, value)


def _env_sizes(path: DocPath, owner: dict[str, Plain]) -> Iterator[ConfigProblem]:
    """Report variables that are too long only together with their name: Linux counts ``NAME=value``."""
    for name, value in _map(owner.get("env")).items():
        if not isinstance(value, str) or (size := len(value.encode())) > scalars.MAX_TEXT:
            continue
        if (whole := len(name.encode()) + 1 + size) > scalars.MAX_TEXT:
            yield ConfigProblem(
                (*path, "env", name),
                f"has {whole} bytes with its name and =, and Linux passes at most {scalars.MAX_TEXT} to a program: "
                "shorten it, or put it into a file of the image",
            )


def _case_only(document: dict[str, Plain]) -> Iterator[ConfigProblem]:
    """Report names that differ in case only: DNS and the names of Docker's volumes are all in lower case."""
    for section, consequence in (
        ("services", "DNS does not tell them apart"),
        ("tasks", "the names of their containers do not tell them apart"),
        ("environments", "the names of their containers do not tell them apart"),
    ):
        names = [((section, name), name) for name in _map(document.get(section))]
        yield from _differing_in_case(names, f"{consequence}: rename one", on_key=True)
    environments = [(("environments", name), name) for name in _map(document.get("environments"))]
    if isinstance(default := document.get("default_environment", "production"), str):
        # Each is compared with the first of its kind, so the default comes last.
        chosen = [(("default_environment",), str(default))]
        same = [entry for entry in environments if entry[1].lower() == default.lower()][:1]
        yield from _differing_in_case([*same, *chosen], "they are two environments: write both alike")
    sources: list[tuple[DocPath, str]] = []
    for name, service in _map(document.get("services")).items():
        for index, volume in enumerate(_list(_map(service).get("volumes"))):
            if isinstance(source := _map(volume).get("source"), str):
                sources.append((("services", name, "volumes", index, "source"), str(source)))
    yield from _differing_in_case(sources, "Docker would use one volume for both: write both alike, or rename one")


def _differing_in_case(
    names: Iterable[tuple[DocPath, str]], consequence: str, *, on_key: bool = False
) -> Iterator[ConfigProblem]:
    first: dict[str, tuple[DocPath, str]] = {}
    for path, name in names:
        place, other = first.setdefault(name.lower(), (path, name))
        if name != other:
            at = f" ({dotted(place)})" if place[:-1] != path[:-1] else ""
            yield ConfigProblem(
                path, f"{quoted(name)} differs from {quoted(other)}{at} in case only, and {consequence}", on_key
            )


def _readiness(path: DocPath, service: dict[str, Plain]) -> Iterator[ConfigProblem]:
    written = {key for key, value in _map(service["readiness"]).items() if value is not None and value != []}
    used = [probe for probe in PROBES if probe & written]
    if len(used) != 1:
        yield ConfigProblem(path, "must have exactly one of command, tcp, or path (with or without port)")
    elif "port" in written and "path" not in written:
        yield ConfigProblem((*path, "path"), "is required; for a TCP connection check use tcp")
    elif "path" in written and "port" not in written and HTTP not in _port_names(service):
        yield ConfigProblem((*path, "port"), "is required, because the service has no port named http")


def _dependencies(services: _Services) -> Iterator[ConfigProblem]:
    graph: dict[str, list[str]] = {}
    for name, service in services.readable.items():
        depends_on = service.get("depends_on")
        path: DocPath = ("services", name, "depends_on")
        graph[name] = []
        for step, other in _named(depends_on):
            on_key = isinstance(step, str)
            if other == name:
                yield ConfigProblem((*path, step), f"{quoted(other)} is the service itself", on_key)
            elif missing := services.missing(other):
                yield ConfigProblem((*path, step), missing, on_key)
            elif other in services.readable:
                graph[name].append(other)
                yield from _condition((*path, step), _map(depends_on).get(other), other, services.readable[other])
        yield from _repeated(((*path, step), other) for step, other in _named(depends_on))
    for cycle in _cycles(graph):
        yield ConfigProblem(
            ("services", cycle[0], "depends_on"),
            f"is a dependency cycle: {printable(' -> '.join([*cycle, cycle[0]]))}",
        )


def _named(depends_on: Plain) -> Iterator[tuple[str | int, str]]:
    if isinstance(depends_on, list):
        yield from ((index, str(other)) for index, other in enumerate(depends_on) if isinstance(other, str))
    else:
        yield from ((other, other) for other in _map(depends_on))


def _condition(path: DocPath, long: Plain, other: str, service: dict[str, Plain]) -> Iterator[ConfigProblem]:
    """Report ``service_healthy`` on a service without probes: the wait would never end (Compose fails as well)."""
    checked = service.get("healthcheck") is not None or service.get("readiness") is not None
    if _map(long).get("condition") == "service_healthy" and not checked:
        yield ConfigProblem(
            (*path, "condition"),
            f"service_healthy requires {dotted(('services', other))} to have a healthcheck or readiness",
        )


def _cycles(graph: dict[str, list[str]]) -> Iterator[list[str]]:
    """Find dependency cycles, one per strongly connected group; a service appears in at most one cycle."""
    done: set[str] = set()
    for start in graph:
        trail: dict[str, Iterator[str]] = {}
        current: str | None = start if start not in done else None
        while current is not None:
            successor = next(trail.setdefault(current, iter(graph[current])), None)
            if successor is None:
                done.add(current)
                del trail[current]
                current = next(reversed(trail), None)
            elif successor in trail:
                names = list(trail)
                yield (cycle := names[names.index(successor) :])
                done.update(cycle)
                for name in cycle:
                    del trail[name]
                current = next(reversed(trail), None)
            elif successor not in done:
                current = successor


def _tasks(tasks: dict[str, Plain], services: _Services) -> Iterator[ConfigProblem]:
    for name, task in tasks.items():
        path: DocPath = ("tasks", name)
        if not _is_map(task):
            continue
        service = task.get("service")
        if isinstance(service, str) and service and (missing := services.missing(service)):
            yield ConfigProblem((*path, "service"), missing)
        if not task.get("command") and not task.get("args"):
            yield ConfigProblem(path, "needs command or args")
        yield from _env_sizes(path, task)


def _ingress(ingress: Plain, services: _Services) -> Iterator[ConfigProblem]:
    if not _is_map(ingress):
        return
    for field, entry in (("hosts", "host"), ("rules", "rule")):
        if ingress.get(field) is None:
            yield ConfigProblem(("ingress", field), "is required")
        elif ingress[field] == []:
            yield ConfigProblem(("ingress", field), f"needs at least one {entry}")
    hosts = [(index, host.lower()) for index, host in enumerate(_list(ingress.get("hosts"))) if isinstance(host, str)]
    yield from _repeated((("ingress", "hosts", index), host) for index, host in hosts)
    yield from _routes(_list(ingress.get("rules")), {host for _, host in hosts}, services)
    mode = _map(ingress.get("tls")).get("mode")
    if mode == "off" and ingress.get("redirect_http") is True:
        yield ConfigProblem(
            ("ingress", "redirect_http"), "must not be true while ingress.tls.mode is off: nothing serves HTTPS"
        )


def _routes(routes: list[Plain], hosts: set[str], services: _Services) -> Iterator[ConfigProblem]:
    seen: set[tuple[str, str]] = set()
    for index, route in enumerate(routes):
        path: DocPath = ("ingress", "rules", index)
        match, target = _map(_map(route).get("match")), _map(_map(route).get("target"))
        host, prefix = match.get("host"), match.get("path_prefix", "/")
        if isinstance(host, str) and host:
            if hosts and host.lower() not in hosts:
                yield ConfigProblem(
                    (*path, "match", "host"), f"{quoted(host)} not found in ingress.hosts{did_you_mean(host, [*hosts])}"
                )
            if isinstance(prefix, str):
                # For the router, /api and /api/ are the same prefix.
                normalized = (host.lower(), prefix.rstrip("/"))
                if normalized in seen:
                    yield ConfigProblem((*path, "match"), f"{quoted(host.lower() + prefix)} already has a rule")
                seen.add(normalized)
        yield from _target((*path, "target"), target, services)


def _target(path: DocPath, target: dict[str, Plain], services: _Services) -> Iterator[ConfigProblem]:
    name, port = target.get("service"), target.get("port")
    if not isinstance(name, str) or not name:
        return
    if missing := services.missing(name):
        yield ConfigProblem((*path, "service"), missing)
    elif name in services.completing:
        waiting = dotted(("services", services.completing[name]))
        yield ConfigProblem(
            (*path, "service"), f"{quoted(name)} serves no requests, because {waiting} waits for it to complete"
        )
    elif isinstance(port, str) and port and name in services.readable:
        names = _port_names(services.readable[name])
        known = f" (its ports: {printable(', '.join(names))})" if names else " (it has no ports)"
        if port not in names:
            yield ConfigProblem((*path, "port"), f"{quoted(port)} not found on service {quoted(name)}{known}")


def _registry(registry: dict[str, Plain]) -> Iterator[ConfigProblem]:
    for field, counterpart in (("username", "password_secret"), ("password_secret", "username")):
        if registry.get(field) and registry.get(counterpart) is None:
            yield ConfigProblem(("registry", counterpart), f"is required with {field}")


def _limits(deploy: Plain, services: _Services) -> Iterator[ConfigProblem]:
    """Report limits of probes that are longer than a rollout waits for progress."""
    written = _map(deploy).get("progress_deadline")
    deadline = quantities.DEFAULT_PROGRESS_DEADLINE if written is None else _duration(written)
    if deadline is None:
        return
    for name, service in services.readable.items():
        for probe in ("healthcheck", "readiness"):
            for field, consequence in (
                ("start_period", "a container that is still allowed to start fails the rollout"),
                ("timeout", "a rollout fails before a single check has timed out"),
            ):
                value = _map(service.get(probe)).get(field)
                limit = _duration(value)
                if limit is not None and limit > deadline:
                    yield ConfigProblem(
                        ("services", name, probe, field),
                        f"is {quantities.format_duration(limit)}, longer than deploy.progress_deadline "
                        f"({quantities.format_duration(deadline)}): {consequence}; "
                        "shorten it, or set a longer deploy.progress_deadline",
                    )


def _duration(written: Plain) -> timedelta | None:
    """Return a duration; None for a value that field validation reports."""
    try:
        return quantities.duration(timedelta(0))(written)
    except scalars.Unfit:
        return None


def _port_names(service: dict[str, Plain]) -> list[str]:
    names = [_map(port).get("name") for port in _list(service.get("ports"))]
    return [scalars.text(name) for name in names if isinstance(name, str) and len(name) < scalars.MAX_TEXT]


def _is_map(value: Plain) -> bool:
    return isinstance(value, dict)


def _map(value: Any) -> dict[str, Plain]:
    return value if isinstance(value, dict) else {}


def _list(value: Any) -> list[Plain]:
    return value if isinstance(value, list) else []
