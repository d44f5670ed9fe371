"""``config``: validate devopsellence.yml and show the configuration of an environment."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from devopsellence.cli import context
from devopsellence.cli.groups import CommandGroup
from devopsellence.cli.options import environment_option
from devopsellence.cli.output import Output, pass_output

if TYPE_CHECKING:
    from devopsellence.config import Config

_STDIN: Final = Path("-")
_FILE = click.argument("file", type=click.Path(path_type=Path), required=False)


@click.group(cls=CommandGroup)
def config() -> None:
    """Validate and show the configuration.

    The configuration of a project is the file devopsellence.yml.

    \b
    Example:
      devopsellence config validate
      devopsellence config resolve --env staging
    """


@config.command()
@_FILE
@pass_output
def validate(output: Output, file: Path | None) -> None:
    """Validate devopsellence.yml with all its environments.

    Prints all problems at once, with line numbers. The exit code is 2 if there are any.

    \b
    Example:
      devopsellence config validate
      devopsellence config validate other/devopsellence.yml
      devopsellence config validate - < devopsellence.yml
    """
    loaded, path = _load(file)
    environments = list(dict.fromkeys([loaded.default_environment, *loaded.environments]))
    services = [service.name for service in loaded.resolve(loaded.default_environment).services]
    output.result(
        "config validate",
        f"{path} is valid: services {', '.join(services)}; environments {', '.join(environments)}",
        file=str(path),
        organization=loaded.organization,
        project=loaded.project,
        services=services,
        environments=environments,
    )


@config.command()
@_FILE
@environment_option
@pass_output
@click.pass_context
def resolve(ctx: click.Context, output: Output, file: Path | None) -> None:
    """Show the effective configuration of an environment.

    Defaults are filled in and the overlay of the environment is merged.

    \b
    Example:
      devopsellence config resolve --env staging
      devopsellence config resolve -o json
    """
    from devopsellence.config.export import to_document

    loaded, _ = _load(file)
    ref = context.environment_from_config(ctx, loaded.organization, loaded.project, loaded.default_environment)
    document = to_document(loaded.resolve(ref.environment))
    output.result(
        "config resolve",
        None if output.json else _yaml(document).rstrip(),
        environment=ref.environment,
        config=document,
    )


def _load(file: Path | None) -> tuple[Config, Path]:
    """Load the configuration from the given file, from stdin for ``-``, else from the file of the project.

    Raises:
        ConfigError: the configuration is missing or not valid.
        CliError: ``config_missing``: no file is given, and the project has none.
    """
    from devopsellence import config
    from devopsellence.config.file import MAX_BYTES, decode

    if file != _STDIN:
        path = file or context.require_config()
        return config.load(path), path
    path = Path("stdin")
    return config.parse(decode(str(path), sys.stdin.buffer.read(MAX_BYTES + 1)), path), path


def _yaml(document: dict[str, Any]) -> str:
    import io

    from ruamel.yaml import YAML

    yaml = YAML()
    yaml.default_flow_style = False
    yaml.width = 4096
    stream = io.StringIO()
    yaml.dump(document, stream)
    return stream.getvalue()
