"""Global flags, accepted before and after the name of a command.

``devopsellence status -o json`` and ``devopsellence -o json status`` mean the same, so the flags are added to every
command on loading. Their values go to the ``Output`` of the process and to :func:`global_flags`, never into the
arguments of a command. The help of a command lists ``--output``, and ``--env`` if declared by
:func:`environment_option`; the root help lists all global flags.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from devopsellence.cli.output import Output

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

F = TypeVar("F", bound=Callable[..., Any])
_META: Final = "devopsellence.global_flags"
#: Name of ``--context`` in :func:`global_flags`.
CONTEXT: Final = "context"
#: Longest note of a release, in characters. It is stored with the release and shown in one cell of a table.
LONGEST_MESSAGE: Final = 500
# Control characters, such as newline and escape; lone surrogates; separators of lines and paragraphs.
_NOT_IN_A_LINE: Final = frozenset({"Cc", "Cs", "Zl", "Zp"})
_GLOBAL_OPTIONS: Final = "Global options, such as --quiet, --no-color and --etcd-endpoints: devopsellence --help"
_ENVIRONMENT_HELP: Final = "Environment: a name or organization/project/environment.  [env: DEVOPSELLENCE_ENVIRONMENT]"

# Flag, metavar, help, environment variable of the same meaning.
CONNECTION_FLAGS: Final = (
    ("--etcd-endpoints", "HOST:PORT,…", "Addresses of etcd's members.", "DEVOPSELLENCE_ETCD_ENDPOINTS"),
    ("--etcd-ca-cert", "FILE", "CA certificate of etcd (PEM).", "DEVOPSELLENCE_ETCD_CA_CERT"),
    ("--etcd-cert", "FILE", "Client certificate (PEM).", "DEVOPSELLENCE_ETCD_CERT"),
    ("--etcd-key", "FILE", "Private key of the client certificate (PEM).", "DEVOPSELLENCE_ETCD_KEY"),
    (
        "--etcd-server-name",
        "NAME",
        "Server name to expect in etcd's certificates.",
        "DEVOPSELLENCE_ETCD_SERVER_NAME",
    ),
    ("--etcd-username", "NAME", "etcd user, for login without a certificate.", "DEVOPSELLENCE_ETCD_USERNAME"),
    ("--etcd-password-file", "FILE", "File with the password of the etcd user.", "DEVOPSELLENCE_ETCD_PASSWORD_FILE"),
    ("--prefix", "PREFIX", "Prefix of all keys in etcd.", "DEVOPSELLENCE_PREFIX"),
    (
        "--token-file",
        "FILE",
        "File with a token, instead of all settings above; its text can be in DEVOPSELLENCE_TOKEN.",
        "DEVOPSELLENCE_TOKEN_FILE",
    ),
)


def global_flags(ctx: click.Context) -> dict[str, str]:
    """Return the global flags on the command line, by name (``environment``) or by environment variable."""
    flags: dict[str, str] = ctx.meta.setdefault(_META, {})
    return flags


def _store(name: str) -> Callable[[click.Context, click.Parameter, str | None], None]:
    def callback(ctx: click.Context, _param: click.Parameter, value: str | None) -> None:
        if value is not None:
            global_flags(ctx)[name] = value

    return callback


def _format(ctx: click.Context, _param: click.Parameter, value: str | None) -> None:
    output = ctx.ensure_object(Output)
    # Called for every command of the chain, the innermost last: so the operation is that of the innermost command.
    output.operation = ctx.command_path.partition(" ")[2]
    if value is not None:
        output.json = value == "json"


def _switch(attribute: str) -> Callable[[click.Context, click.Parameter, bool], None]:
    def callback(ctx: click.Context, _param: click.Parameter, value: bool) -> None:
        if value:
            setattr(ctx.ensure_object(Output), attribute, True)

    return callback


class AliasedOption(click.Option):
    """Option with further names, as other tools call it; the help shows only its own names."""

    def __init__(self, *arguments: Any, aliases: Sequence[str], **attributes: Any) -> None:
        super().__init__(*arguments, **attributes)
        self._shown = list(self.opts)
        self.opts += aliases

    def get_help_record(self, ctx: click.Context) -> tuple[str, str] | None:
        accepted, self.opts = self.opts, self._shown
        try:
            return super().get_help_record(ctx)
        finally:
            self.opts = accepted


def completion(name: str) -> Callable[[click.Context, click.Parameter, str], list[CompletionItem]]:
    """Return the function ``name`` of ``commands.complete``, imported on use: completing needs the store."""

    def complete(ctx: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
        function = getattr(import_module("devopsellence.cli.commands.complete"), name)
        items: list[CompletionItem] = function(ctx, parameter, incomplete)
        return items

    return complete


def environment_option(command: F, *, text: str = _ENVIRONMENT_HELP) -> F:
    """Declare ``--env`` on a command about one environment, so the help lists the option."""
    decorate: Callable[[F], F] = click.option(
        "--env",
        cls=AliasedOption,
        aliases=["--environment"],
        metavar="ENV",
        help=text,
        expose_value=False,
        callback=_store("environment"),
        shell_complete=completion("complete_environments"),
    )
    return decorate(command)


def message_option(command: F) -> F:
    """Declare ``--message``, the note of a release: one line of at most :data:`LONGEST_MESSAGE` characters."""
    decorate: Callable[[F], F] = click.option(
        "--message", "-m", default="", metavar="TEXT", callback=_note, help="Note to store with the release."
    )
    return decorate(command)


def _note(_ctx: click.Context, _param: click.Parameter, value: str) -> str:
    if problem := note_problem(value):
        raise click.BadParameter(problem)
    return value


def note_problem(text: str) -> str:
    """Return why ``text`` cannot be the note of a release, as a clause; "" if it can be. Pure."""
    if len(text) > LONGEST_MESSAGE:
        return f"it has {len(text)} characters; a note has at most {LONGEST_MESSAGE}"
    wrong = next((character for character in text if unicodedata.category(character) in _NOT_IN_A_LINE), "")
    return f"it has the control character U+{ord(wrong):04X}; a note is one line of text" if wrong else ""


def duration_seconds(_ctx: click.Context, _param: click.Parameter, value: str | None) -> float:
    """Parse the value of an option such as ``5m``, at least one second; 0 for an absent option."""
    if value is None:
        return 0.0
    from datetime import timedelta

    from devopsellence.config.quantities import duration
    from devopsellence.config.scalars import Unfit

    try:
        return duration(timedelta(seconds=1))(value).total_seconds()
    except Unfit as error:
        raise click.BadParameter(str(error)) from error


def global_options(*, hidden: bool) -> list[click.Option]:
    """Create the global flags; ``hidden`` keeps all but ``--output`` out of the help."""
    # Eager, so that errors in other arguments are printed in the requested format.
    common: dict[str, Any] = {"expose_value": False, "is_eager": True}
    options = [
        click.Option(
            ["-o", "--output"],
            type=click.Choice(["text", "json"]),
            help="Output format.",
            callback=_format,
            **common,
        ),
        click.Option(
            ["-q", "--quiet"],
            is_flag=True,
            help="Print only results, warnings and errors.",
            callback=_switch("quiet"),
            hidden=hidden,
            **common,
        ),
        AliasedOption(
            ["--env"],
            aliases=["--environment"],
            metavar="ENV",
            help=_ENVIRONMENT_HELP,
            callback=_store("environment"),
            shell_complete=completion("complete_environments"),
            hidden=hidden,
            **common,
        ),
        click.Option(
            ["--context"],
            metavar="NAME",
            help="Context of the cluster, see devopsellence context.  [env: DEVOPSELLENCE_CONTEXT]",
            callback=_store(CONTEXT),
            shell_complete=completion("complete_contexts"),
            hidden=hidden,
            **common,
        ),
        click.Option(
            ["--no-color"],
            is_flag=True,
            help="Print no colours.  [env: NO_COLOR]",
            callback=_switch("no_color"),
            hidden=hidden,
            **common,
        ),
        click.Option(
            ["--debug"],
            is_flag=True,
            help="Print tracebacks of errors.",
            callback=_switch("debug"),
            hidden=hidden,
            **common,
        ),
    ]
    for flag, metavar, text, variable in CONNECTION_FLAGS:
        help_text = f"{text}  [env: {variable}]"
        options.append(
            click.Option([flag], metavar=metavar, help=help_text, callback=_store(variable), hidden=hidden, **common)
        )
    return options


def add_global_options(command: click.Command) -> None:
    """Add the global flags to ``command`` and its subcommands, except for flags already declared there."""
    declared = {text for param in command.params for text in (*param.opts, *param.secondary_opts)}
    command.params += [option for option in global_options(hidden=True) if declared.isdisjoint(option.opts)]
    command.epilog = command.epilog or _GLOBAL_OPTIONS
    if isinstance(command, click.Group):
        for child in command.commands.values():
            add_global_options(child)


pki_option = click.option(
    "--pki", metavar="DIR", help="Folder of the cluster's CA.  [default: cluster/ in the state folder]"
)


def passphrase_options(command: F) -> F:
    """Declare ``--passphrase-file`` and ``--no-passphrase``, for the key of the cluster's CA."""
    no_passphrase = click.option("--no-passphrase", is_flag=True, help="Do not encrypt the key of a new CA.")
    file = click.option(
        "--passphrase-file",
        type=click.Path(dir_okay=False, path_type=Path),
        help="File with the passphrase of the CA's key, in its first line.  [default: ask on the terminal]",
    )
    return file(no_passphrase(command))
