"""``init``: create devopsellence.yml."""

from __future__ import annotations

import getpass
import sys
from functools import partial
from pathlib import Path

import click

from devopsellence import input_file
from devopsellence.cli.commands.start.template import (
    DEFAULT_HEALTH_PATH,
    DEFAULT_PORT,
    InitAnswers,
    as_name,
    exposed_port,
    render,
)
from devopsellence.cli.options import AliasedOption, environment_option, global_flags
from devopsellence.cli.output import CliError, NextAction, Output, pass_output
from devopsellence.config import FILE_NAME, InvalidName, check_name


@click.command()
@click.option("--organization", cls=AliasedOption, aliases=["--org"], metavar="NAME", help="Organization of the app.")
@click.option("--project", metavar="NAME", help="Name of the app.  [default: name of this folder]")
@partial(environment_option, text="Default environment.  [default: production]")
@click.option("--port", type=click.IntRange(1, 65535), help="Port of the app.  [default: from the Dockerfile, or 3000]")
@click.option("--health-path", metavar="PATH", help=f"Path of the health check.  [default: {DEFAULT_HEALTH_PATH}]")
@click.option(
    "--dockerfile", metavar="FILE", default="Dockerfile", show_default=True, help="Dockerfile of the app image."
)
@click.option("--non-interactive", is_flag=True, help="Do not prompt; use the defaults of missing options.")
@click.option("--mode", type=click.Choice(["solo", "shared"]), hidden=True, expose_value=False)
@pass_output
@click.pass_context
def init(
    ctx: click.Context,
    output: Output,
    organization: str | None,
    project: str | None,
    port: int | None,
    health_path: str | None,
    dockerfile: str,
    non_interactive: bool,
) -> None:
    """Create a devopsellence.yml for the app in this folder.

    On a terminal, prompts for missing options. An existing file is never changed.

    \b
    Example:
      devopsellence init
      devopsellence init --organization acme --project shop --port 8080
    """
    path = Path.cwd() / FILE_NAME
    if path.exists() or path.is_symlink():
        raise _exists(path)
    interactive = not non_interactive and sys.stdin.isatty() and sys.stdout.isatty() and not output.json
    environment = global_flags(ctx).get("environment", "production")
    folder = as_name(Path.cwd().name) or "app"
    guessed_port = _guess_port(Path.cwd() / dockerfile)
    answers = InitAnswers(
        organization=_name("organization", organization, as_name(_user()), interactive=interactive, required=True),
        project=_name("project", project, folder, interactive=interactive),
        environment=_name("environment", environment, environment, interactive=False),
        dockerfile=dockerfile,
        port=port or (_ask_port(guessed_port) if interactive else guessed_port),
        health_path=_health_path(health_path, interactive=interactive),
    )
    _write(path, render(answers))
    missing = (
        "" if (Path.cwd() / dockerfile).exists() else f"{dockerfile} does not exist yet: create it before deploying.\n"
    )
    text = f"Wrote {path}.\n{missing}Next: devopsellence dev up (unless you have a cluster), then devopsellence deploy"
    output.result(
        "init",
        text,
        next_actions=[
            NextAction("start a local cluster, unless you have a cluster", "devopsellence dev up"),
            NextAction("then deploy", "devopsellence deploy"),
        ],
        file=str(path),
        organization=answers.organization,
        project=answers.project,
    )


def _write(path: Path, text: str) -> None:
    try:
        # "x": another process may have created the file since the check.
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError as error:
        raise _exists(path) from error


def _exists(path: Path) -> CliError:
    action = NextAction("validate the file", "devopsellence config validate")
    return CliError("config_exists", f"{path} already exists and was not changed", next_actions=[action])


def _name(kind: str, option: str | None, default: str, *, interactive: bool, required: bool = False) -> str:
    if option is None and not interactive:
        if required:
            action = NextAction("give the option", f"devopsellence init --{kind} NAME")
            message = f"--{kind} is required without a terminal"
            raise CliError("missing_option", message, exit_code=2, next_actions=[action])
        option = default
    if option is not None:
        return check_name(kind, option)
    return str(click.prompt(kind.capitalize(), default=default or None, value_proc=lambda text: _checked(kind, text)))


def _checked(kind: str, text: str) -> str:
    try:
        return check_name(kind, text.strip())
    except InvalidName as error:
        raise click.BadParameter(str(error)) from error


def _ask_port(default: int) -> int:
    return int(click.prompt("Port of the app", default=default, type=click.IntRange(1, 65535)))


def _health_path(option: str | None, *, interactive: bool) -> str:
    path = option
    if path is None:
        path = (
            str(click.prompt("Health check path", default=DEFAULT_HEALTH_PATH)) if interactive else DEFAULT_HEALTH_PATH
        )
    return path if path.startswith("/") else f"/{path}"


def _guess_port(dockerfile: Path) -> int:
    try:
        return exposed_port(input_file.read(dockerfile).decode(errors="replace")) or DEFAULT_PORT
    except OSError:
        return DEFAULT_PORT


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return ""
