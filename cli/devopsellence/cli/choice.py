"""Choice of the cluster: of a token, else of flags, else of variables, else of a context, else the local cluster."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Final

import click

from devopsellence.cli.options import CONTEXT, global_flags
from devopsellence.cli.output import CliError, NextAction

if TYPE_CHECKING:
    from devopsellence.cli.access_token import TokenSettings
    from devopsellence.store.settings import Settings

#: Variable with the name of a context.
VARIABLE: Final = "DEVOPSELLENCE_CONTEXT"
_META: Final = "devopsellence.token"


class Source(StrEnum):
    """Origin of the connection, also in JSON."""

    TOKEN = "token"  # noqa: S105 - a word
    FLAGS = "flags"
    VARIABLES = "variables"
    CONTEXT = "context"
    LOCAL = "local"


@dataclass(frozen=True)
class Choice:
    """Connection of a command, where it comes from, and the reason as a clause; ``context``: its name, or ""."""

    source: Source
    settings: Settings
    why: str
    context: str = ""

    def __str__(self) -> str:
        return f"{_WORDS[self.source]}{f' {self.context}' if self.context else ''}, because {self.why}"


_WORDS: Final = {
    Source.TOKEN: "the cluster of the token",
    Source.FLAGS: "the cluster of the options",
    Source.VARIABLES: "the cluster of the variables",
    Source.CONTEXT: "context",
    Source.LOCAL: "the local cluster",
}


def choose(ctx: click.Context) -> Choice:
    """Return the cluster of a command.

    Raises:
        CliError: ``settings_invalid``, ``token_invalid``, ``context_unknown``, ``contexts_unusable`` (exit code 2), or
            ``etcd_unavailable`` without any settings.
    """
    from devopsellence.cli.access_token import TOKEN, TOKEN_FILE
    from devopsellence.store.settings import ENDPOINTS, PREFIX, Settings, SettingsError

    flags = connection_flags(ctx)
    if (token := token_settings(ctx)) is not None:
        _refuse_context_beside(ctx, "a token")
        given = TOKEN_FILE if flags.get(TOKEN_FILE) or os.environ.get(TOKEN_FILE) else TOKEN
        return Choice(Source.TOKEN, token, f"{given} is set")
    try:
        settings = Settings.from_environ({**os.environ, **flags})
    except SettingsError as error:
        raise CliError("settings_invalid", str(error), exit_code=2) from error
    if settings is not None and flags.get(ENDPOINTS):
        _refuse_context_beside(ctx, "--etcd-endpoints")
        return Choice(Source.FLAGS, settings, "--etcd-endpoints is given")
    if settings is not None:
        _refuse_context_beside(ctx, ENDPOINTS)
        return Choice(Source.VARIABLES, settings, f"{ENDPOINTS} is set")
    if flags.keys() - {PREFIX}:
        _refuse_context_beside(ctx, "the etcd flags")
        message = "--etcd-endpoints (or DEVOPSELLENCE_ETCD_ENDPOINTS) is missing; the other etcd flags need it"
        raise CliError("settings_invalid", message, exit_code=2)
    choice = _of_context(ctx) or _local()
    if choice is None:
        raise _no_cluster()
    prefix = flags.get(PREFIX) or os.environ.get(PREFIX)
    try:
        return replace(choice, settings=replace(choice.settings, prefix=prefix)) if prefix else choice
    except SettingsError as error:
        raise CliError("settings_invalid", str(error), exit_code=2) from error


def chosen_context(ctx: click.Context) -> tuple[str, str]:
    """Return the context that flag or variable name, and the reason; ("", "") for none."""
    if (flag := global_flags(ctx).get(CONTEXT)) is not None:
        return flag, "--context is given"
    if variable := os.environ.get(VARIABLE):
        return variable, f"{VARIABLE} is set"
    return "", ""


def context_settings(ctx: click.Context) -> Settings | None:
    """Return the settings of the context that is chosen or in use; None without one.

    A damaged file counts only if flag or variable name a context.

    Raises:
        CliError: ``context_unknown``, ``contexts_unusable`` (exit code 2).
    """
    try:
        choice = _of_context(ctx)
    except CliError:
        if chosen_context(ctx)[0]:
            raise
        return None
    return choice.settings if choice is not None else None


def token_settings(ctx: click.Context) -> TokenSettings | None:
    """Return the settings of the token of this process, read once; None without one.

    Raises:
        CliError: ``settings_invalid``, ``token_invalid`` (exit code 2).
    """
    from devopsellence.cli import access_token

    if _META not in ctx.meta:
        ctx.meta[_META] = access_token.take(connection_flags(ctx), os.environ)
    token: TokenSettings | None = ctx.meta[_META]
    return token


def connection_flags(ctx: click.Context) -> dict[str, str]:
    """Return the etcd flags of the command line, by environment variable."""
    return {name: value for name, value in global_flags(ctx).items() if name.startswith("DEVOPSELLENCE_")}


def _of_context(ctx: click.Context) -> Choice | None:
    from devopsellence.cli.contexts import file

    name, why = chosen_context(ctx)
    is_chosen = bool(why)
    contexts = file.load()
    if not is_chosen:
        name, why = contexts.current, f"devopsellence context use {contexts.current} chose it"
    if not name and not is_chosen:
        return None
    return Choice(Source.CONTEXT, contexts.get(name).settings, why, name)


def _local() -> Choice | None:
    from devopsellence.cli.dev import state

    settings = state.settings()
    return Choice(Source.LOCAL, settings, "no context is in use") if settings is not None else None


def _refuse_context_beside(ctx: click.Context, other: str) -> None:
    """Refuse ``--context`` beside another choice: the command would run on a cluster that its line does not name."""
    if CONTEXT in global_flags(ctx):
        message = f"--context cannot be given beside {other}, which names a cluster itself; leave one of them out"
        raise CliError("settings_invalid", message, exit_code=2)


def _no_cluster() -> CliError:
    actions = [
        NextAction("start a local cluster", "devopsellence dev up"),
        NextAction("or use a cluster that has a name", "devopsellence context add --help"),
        NextAction("or set the address of etcd", "export DEVOPSELLENCE_ETCD_ENDPOINTS=host:2379"),
    ]
    return CliError("etcd_unavailable", "no cluster is configured", next_actions=actions)
