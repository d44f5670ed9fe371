"""Shell completion of names, from devopsellence.yml, from the file of contexts and from etcd.

Silent and quick whatever happens: errors are ignored, nothing reaches stderr, and etcd has :data:`SECONDS` to answer.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click
from click.shell_completion import CompletionItem

from devopsellence.cli import context

if TYPE_CHECKING:
    from devopsellence.store.etcd import Etcd
    from devopsellence.store.keys import EnvironmentRef

#: Time limit for etcd: somebody waits at the prompt.
SECONDS: Final = 1.0


def complete_services(ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Return the matching services: of the configuration, else of the running release."""
    return _matching(incomplete, _section("services") or _stored_in(ctx, "services"))


def complete_tasks(ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Return the matching tasks: of the configuration, else of the running release."""
    configured = _section("tasks")
    task = _document().get("release_task")
    configured += [str(task["name"])] if isinstance(task, dict) and "name" in task else []
    return _matching(incomplete, configured or _stored_in(ctx, "tasks"))


def complete_nodes(ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Return the matching registered nodes."""
    from devopsellence.cli.store import names

    return _matching(incomplete, _stored(ctx, names.nodes))


def complete_contexts(_ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Return the matching contexts."""
    from devopsellence.cli.contexts import file
    from devopsellence.cli.output import CliError

    try:
        return _matching(incomplete, file.load().by_name)
    except CliError:
        return []


def complete_operators(ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Return the matching operators with access."""
    from devopsellence.cli.store import names

    return _matching(incomplete, _stored(ctx, names.operators))


def complete_recipients(ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Return the matching age recipients of operators."""
    from devopsellence.cli.store import names

    return _matching(incomplete, _stored(ctx, names.recipients))


def complete_patterns(ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Return the matching patterns of environments."""
    from devopsellence.cli.store import names

    stored: list[EnvironmentRef] = _stored(ctx, names.environments)
    wider = [pattern for ref in stored for pattern in (f"{ref.organization}/*", f"{ref.organization}/{ref.project}/*")]
    return _matching(incomplete, ["*", *sorted(wider), *map(str, stored)])


def complete_subjects(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Return the matching nodes for a certificate of a node."""
    return complete_nodes(ctx, param, incomplete) if ctx.params.get("kind") == "node" else []


def complete_labels(_ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Return the labels that continue a list such as ``web,wor``."""
    from devopsellence.placement import LABELS

    before, comma, last = incomplete.rpartition(",")
    taken = before.split(",")
    return [
        CompletionItem(f"{before}{comma}{label}")
        for label in LABELS.values()
        if label.startswith(last) and label not in taken
    ]


def complete_environments(ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Return the matching environments: by name within the project of the configuration, else by their full path."""
    from devopsellence.cli.store import names

    document = _document()
    project = (document.get("organization"), document.get("project"))
    known = [str(document.get("default_environment") or "production"), *_section("environments")] if document else []
    stored: list[EnvironmentRef] = _stored(ctx, names.environments)
    known += [ref.environment if (ref.organization, ref.project) == project else str(ref) for ref in stored]
    return _matching(incomplete, known)


def complete_releases(ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Return the matching release numbers of the environment, newest first."""
    return _matching(incomplete, map(str, _stored_in(ctx, "releases")))


def complete_secrets(ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Return the matching secrets of the service, else of all services: those set, and those of the configuration."""
    from devopsellence.store.keys import REGISTRY

    service = REGISTRY if ctx.params.get("registry") else ctx.params.get("service")
    pairs: list[tuple[str, str]] = [*_configured_secrets(), *_stored_in(ctx, "secrets")]
    return _matching(incomplete, (name for owner, name in pairs if service in (None, owner)))


def complete_hosts(ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Return the matching hosts of the ingress: of the configuration, else of the running release."""
    document = _document()
    overlays = document.get("environments")
    parts = [document, *(overlays.values() if isinstance(overlays, dict) else ())]
    hosts = [str(host) for part in parts for host in _items(part, "ingress", "hosts")]
    return _matching(incomplete, hosts or _stored_in(ctx, "ingress_hosts"))


def complete_certificate_hosts(ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Return the matching hosts with a certificate."""
    return _matching(incomplete, _stored_in(ctx, "certificate_hosts"))


def complete_commands(ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Return the matching commands below the words before."""
    group = ctx.find_root()
    for word in ctx.params.get("command") or ():
        command = group.command.get_command(group, word) if isinstance(group.command, click.Group) else None
        if command is None:
            return []
        group = click.Context(command, parent=group, info_name=command.name)
    return group.command.shell_complete(group, incomplete) if isinstance(group.command, click.Group) else []


def _matching(incomplete: str, names: Iterable[str]) -> list[CompletionItem]:
    # The shell prints the names as they are, so one with control characters is left out.
    return [CompletionItem(n) for n in dict.fromkeys(names) if n.startswith(incomplete) and n.isprintable()]


def _document() -> dict[str, Any]:
    """Return the configuration as plain data; empty without a readable one."""
    from devopsellence import config
    from devopsellence.config import file, yaml_parser
    from devopsellence.config.yaml_tree import plain

    try:
        path = config.find(Path.cwd())
        document = plain(yaml_parser.parse(str(path), file.read_file(path))[0]) if path is not None else None
    except (config.ConfigError, OSError):
        return {}
    return document if isinstance(document, dict) else {}


def _section(name: str) -> list[str]:
    entries = _document().get(name)
    return [str(entry) for entry in entries] if isinstance(entries, dict) else []


def _configured_secrets() -> list[tuple[str, str]]:
    """Return service and name of the secrets in the configuration."""
    from devopsellence.store.keys import REGISTRY

    document = _document()
    services = document.get("services")
    found = [
        (str(service), str(reference["secret"]))
        for service, settings in (services.items() if isinstance(services, dict) else ())
        for reference in _items(settings, "secret_refs")
        if isinstance(reference, dict) and "secret" in reference
    ]
    registries = document.get("registries")
    logins = [document.get("registry"), *(registries.values() if isinstance(registries, dict) else ())]
    passwords = [login.get("password_secret") for login in logins if isinstance(login, dict)]
    return [*found, *((REGISTRY, str(password)) for password in passwords if password)]


def _items(node: Any, *path: str) -> list[Any]:
    """Return the list at ``path`` in plain data; empty for data of another form."""
    for key in path:
        node = node.get(key) if isinstance(node, dict) else None
    return node if isinstance(node, list) else []


def _stored_in(ctx: click.Context, what: str) -> list[Any]:
    """Return the names of a kind (a function of ``store.names``) in the environment of the command line."""
    from devopsellence.cli.store import names

    async def query(etcd: Etcd) -> Iterable[Any]:
        ref: EnvironmentRef = await context.environment(ctx, etcd)
        found: Iterable[Any] = await getattr(names, what)(etcd, ref)
        return found

    return _stored(ctx, query)


def _stored(ctx: click.Context, query: Callable[[Etcd], Awaitable[Iterable[Any]]]) -> list[Any]:
    """Return the result of ``query``; an empty list without a cluster, or if etcd does not answer in time."""
    # Read when gRPC is loaded: its core writes to stderr by itself.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    try:
        with _no_stderr():
            return asyncio.run(asyncio.wait_for(_ask(ctx, query), SECONDS))
    except Exception:  # noqa: BLE001 (no error is worth a message in the middle of a command line)
        return []


async def _ask(ctx: click.Context, query: Callable[[Etcd], Awaitable[Iterable[Any]]]) -> list[Any]:
    from devopsellence.store.etcd import Etcd

    async with Etcd(context.connection(ctx), timeout=SECONDS) as etcd:
        return list(await query(etcd))


@contextmanager
def _no_stderr() -> Iterator[None]:
    """Discard what this process writes to the file descriptor of stderr."""
    kept = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)
