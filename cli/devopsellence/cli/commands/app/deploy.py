"""``deploy``: build, publish a release, follow the rollout."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from devopsellence.cli import context
from devopsellence.cli.options import environment_option, message_option
from devopsellence.cli.output import CliError, Output, pass_output

if TYPE_CHECKING:
    from devopsellence.cli.deploy.deploy import DeployRun


@click.command()
@click.option("--dry-run", is_flag=True, help="Show the planned changes; do not build or write anything.")
@click.option("--image", metavar="REF", help="Deploy this image instead of building the app image.")
@click.option("--detach", "-d", is_flag=True, help="Return without waiting for the rollout.")
@message_option
@environment_option
@pass_output
@click.pass_context
def deploy(ctx: click.Context, output: Output, dry_run: bool, image: str | None, detach: bool, message: str) -> None:
    """Build the app image, create a release, follow the rollout.

    The command waits until the rollout has settled or failed. Interrupting it with Ctrl-C does not stop the rollout.

    \b
    Example:
      devopsellence deploy
      devopsellence deploy --env staging --message "new search"
      devopsellence deploy --image registry.example.com/shop@sha256:…
      devopsellence deploy --dry-run
    """
    from devopsellence.cli import errors

    begun: list[DeployRun] = []
    try:
        _deploy(ctx, output, begun, dry_run=dry_run, image=image, detach=detach, message=message)
    except KeyboardInterrupt as error:
        stage = begun[0].stage if begun else "nothing was written"
        raise errors.interrupted(error, stage) from error


def _deploy(
    ctx: click.Context,
    output: Output,
    begun: list[DeployRun],
    *,
    dry_run: bool,
    image: str | None,
    detach: bool,
    message: str,
) -> None:
    """Deploy, or show the plan; the run goes into ``begun`` for the message after an interrupt."""
    from devopsellence import config
    from devopsellence.cli.deploy.deploy import DeployRun
    from devopsellence.cli.deploy.deploy import deploy as run_deploy
    from devopsellence.cli.deploy.preview import preview
    from devopsellence.cli.images.docker_cli import DockerCli

    if image is not None:
        _check_reference(image)
    loaded = config.load(context.require_config())
    ref = context.environment_from_config(ctx, loaded.organization, loaded.project, loaded.default_environment)
    settings = context.connection(ctx)
    dev = context.dev_node(settings)
    run = DeployRun(
        ref=ref,
        config=loaded,
        resolved=loaded.resolve(ref.environment),
        settings=settings,
        docker=DockerCli(dev.docker_host if dev else None),
        output=output,
        image=image,
        message=message,
        default_node=dev.node if dev else "",
    )
    begun.append(run)
    if dry_run:
        context.run(ctx, lambda etcd: preview(etcd, run))
    else:
        context.run(ctx, lambda etcd: run_deploy(etcd, run, detach=detach))


def _check_reference(image: str) -> None:
    from devopsellence.cli.images.reference import InvalidReference, parse_reference

    try:
        parse_reference(image)
    except InvalidReference as error:
        raise CliError("invalid_image", f"--image: {error}", exit_code=2) from error
