"""``init``: a first devopsellence.yml."""

from __future__ import annotations

import getpass
import sys
from pathlib import Path

import click

from devopsellence.cli.commands.start.template import (
    DEFAULT_HEALTH_PATH,
    DEFAULT_PORT,
    InitAnswers,
    as_name,
    exposed_port,
    render,
)
from devopsellence.cli.output import CliError, NextAction, Output, pass_output
from devopsellence.config import FILE_NAME, InvalidName, check_name


@click.command()
@click.option("--organization", metavar="NAME", help="Who it belongs to.")
@click.option("--project", metavar="NAME", help="The app's name.  [default: this folder's name]")
@click.option("--environment", metavar="NAME", default="production", show_default=True, help="Where deploy goes.")
@click.option("--port", type=click.IntRange(1, 65535), help="Where it listens.  [default: the Dockerfile's, or 3000]")
@click.option("--health-path", metavar="PATH", help=f"Answers 200 when it is well.  [default: {DEFAULT_HEALTH_PATH}]")
@click.option("--dockerfile", default="Dockerfile", show_default=True, help="What the app image is built from.")
@pass_output
def init(
    output: Output,
    organization: str | None,
    project: str | None,
    environment: str,
    port: int | None,
    health_path: str | None,
    dockerfile: str,
) -> None:
    """Write a devopsellence.yml for the app in this folder: asks on a terminal, takes the flags otherwise.

    An existing file is never touched.

    \b
    Example:
      devopsellence init
      devopsellence init --organization acme --project shop --port 8080
    """
    path = Path.cwd() / FILE_NAME
    if path.exists() or path.is_symlink():
        raise _exists(path)
    asking = sys.stdin.isatty() and sys.stdout.isatty() and not output.json
    folder = as_name(Path.cwd().name) or "app"
    guessed_port = _guess_port(Path.cwd() / dockerfile)
    answers = InitAnswers(
        organization=_name("organization", organization, as_name(_user()), asking=asking, required=True),
        project=_name("project", project, folder, asking=asking),
        environment=_name("environment", environment, environment, asking=False),
        dockerfile=dockerfile,
        port=port or (_ask_port(guessed_port) if asking else guessed_port),
        health_path=_health_path(health_path, asking=asking),
    )
    _write(path, render(answers))
    missing = "" if (Path.cwd() / dockerfile).exists() else f"There is no {dockerfile} yet, which the build needs.\n"
    text = f"Wrote {path}.\n{missing}Next: devopsellence config validate, then devopsellence deploy."
    output.result("init", text, file=str(path), organization=answers.organization, project=answers.project)


def _write(path: Path, text: str) -> None:
    try:
        # "x": it may have appeared since we looked.
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError as error:
        raise _exists(path) from error


def _exists(path: Path) -> CliError:
    action = NextAction("check it", "devopsellence config validate")
    return CliError("config_exists", f"{path} is there already and stays as it is", next_actions=[action])


def _name(what: str, given: str | None, default: str, *, asking: bool, required: bool = False) -> str:
    if given is None and not asking:
        if required:
            action = NextAction("say it", f"devopsellence init --{what} NAME")
            message = f"--{what} is needed where nobody can be asked"
            raise CliError("missing_option", message, exit_code=2, next_actions=[action])
        given = default
    if given is not None:
        return check_name(what, given)
    return str(click.prompt(what.capitalize(), default=default or None, value_proc=lambda text: _checked(what, text)))


def _checked(what: str, text: str) -> str:
    try:
        return check_name(what, text.strip())
    except InvalidName as error:
        raise click.BadParameter(str(error)) from error


def _ask_port(default: int) -> int:
    return int(click.prompt("Port it listens on", default=default, type=click.IntRange(1, 65535)))


def _health_path(given: str | None, *, asking: bool) -> str:
    if given is None:
        given = str(click.prompt("Health path", default=DEFAULT_HEALTH_PATH)) if asking else DEFAULT_HEALTH_PATH
    return given if given.startswith("/") else f"/{given}"


def _guess_port(dockerfile: Path) -> int:
    try:
        return exposed_port(dockerfile.read_text(encoding="utf-8", errors="replace")) or DEFAULT_PORT
    except OSError:
        return DEFAULT_PORT


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return ""
