"""The flags that every command takes, before or after the command's name.

People type ``devopsellence status -o json`` as well as ``devopsellence -o json status``, so the flags are added to
every command when it is loaded. What they say goes to the ``Output`` of the process and to :func:`said`, never into a
command's arguments. On a command they are not listed in its help, unless the command declares them itself with
:func:`environment_option`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, TypeVar

import click

from devopsellence.cli.output import Output

F = TypeVar("F", bound=Callable[..., Any])
_META: Final = "devopsellence.said"
_ENVIRONMENT_HELP: Final = "A name, or organization/project/environment.  [env: DEVOPSELLENCE_ENVIRONMENT]"

# flag, what stands for its value in the help, help, the variable that says the same
CONNECTION_FLAGS: Final = (
    ("--etcd-endpoints", "HOST:PORT,…", "Where etcd answers.", "DEVOPSELLENCE_ETCD_ENDPOINTS"),
    ("--etcd-ca-cert", "FILE", "The authority of etcd's certificates.", "DEVOPSELLENCE_ETCD_CA_CERT"),
    ("--etcd-cert", "FILE", "Our certificate.", "DEVOPSELLENCE_ETCD_CERT"),
    ("--etcd-key", "FILE", "Our key.", "DEVOPSELLENCE_ETCD_KEY"),
    ("--etcd-server-name", "NAME", "A name that all etcd certificates carry.", "DEVOPSELLENCE_ETCD_SERVER_NAME"),
    ("--etcd-username", "NAME", "Where certificates are not the credential.", "DEVOPSELLENCE_ETCD_USERNAME"),
    ("--etcd-password-file", "FILE", "The password of that user.", "DEVOPSELLENCE_ETCD_PASSWORD_FILE"),
    ("--prefix", "PREFIX", "What all keys begin with.", "DEVOPSELLENCE_PREFIX"),
)


def global_flags(ctx: click.Context) -> dict[str, str]:
    """What the global flags said, by name (``environment``) or by the variable that says the same; only those given."""
    found: dict[str, str] = ctx.meta.setdefault(_META, {})
    return found


def _store(name: str) -> Callable[[click.Context, click.Parameter, str | None], None]:
    def callback(ctx: click.Context, _param: click.Parameter, value: str | None) -> None:
        if value is not None:
            global_flags(ctx)[name] = value

    return callback


def _format(ctx: click.Context, _param: click.Parameter, value: str | None) -> None:
    output = ctx.ensure_object(Output)
    # This runs for every command on the way, the innermost last: a good moment to note who speaks.
    output.operation = ctx.command_path.partition(" ")[2]
    if value is not None:
        output.json = value == "json"


def _switch(attribute: str) -> Callable[[click.Context, click.Parameter, bool], None]:
    def callback(ctx: click.Context, _param: click.Parameter, value: bool) -> None:
        if value:
            setattr(ctx.ensure_object(Output), attribute, True)

    return callback


def environment_option(command: F) -> F:
    """Declares ``--env`` on a command that is about one environment, so that its help lists it."""
    decorate: Callable[[F], F] = click.option(
        "--env", metavar="ENV", help=_ENVIRONMENT_HELP, expose_value=False, callback=_store("environment")
    )
    return decorate(command)


def duration_seconds(_ctx: click.Context, _param: click.Parameter, value: str | None) -> float:
    """The callback of an option that takes a time such as ``5m``, of a second at least; 0 where it is not given."""
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
    """The flags, made anew; ``hidden`` keeps them out of the help, but for ``--output``."""
    # Eager, so that also an error in the other arguments is printed in the right form.
    common: dict[str, Any] = {"expose_value": False, "is_eager": True}
    options = [
        click.Option(
            ["-o", "--output"],
            type=click.Choice(["text", "json"]),
            help="Text (default), or JSON of one shape.",
            callback=_format,
            **common,
        ),
        click.Option(
            ["-q", "--quiet"],
            is_flag=True,
            help="Only results and errors.",
            callback=_switch("quiet"),
            hidden=hidden,
            **common,
        ),
        click.Option(
            ["--env"],
            metavar="ENV",
            help=_ENVIRONMENT_HELP,
            callback=_store("environment"),
            hidden=hidden,
            **common,
        ),
        click.Option(
            ["--debug"],
            is_flag=True,
            help="Show a traceback with an error.",
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
    """Give ``command`` and everything under it the flags that it does not declare itself."""
    taken = {text for param in command.params for text in (*param.opts, *param.secondary_opts)}
    command.params += [option for option in global_options(hidden=True) if taken.isdisjoint(option.opts)]
    if isinstance(command, click.Group):
        for child in command.commands.values():
            add_global_options(child)
