"""``deploy``: from the workspace to a release, and on to its end."""

from __future__ import annotations

import click

from devopsellence.cli import context
from devopsellence.cli.options import environment_option
from devopsellence.cli.output import CliError, Output, pass_output


@click.command()
@click.option("--dry-run", is_flag=True, help="Print what would happen, and why; build and write nothing.")
@click.option("--image", metavar="REF", help="Use this image instead of building the app's.")
@click.option("--detach", "-d", is_flag=True, help="Do not wait for the rollout.")
@click.option("--message", "-m", default="", metavar="TEXT", help="Why; shown with the release.")
@environment_option
@pass_output
@click.pass_context
def deploy(ctx: click.Context, output: Output, dry_run: bool, image: str | None, detach: bool, message: str) -> None:
    """Build the app image, write a release, and follow the rollout until it has settled or failed.

    \b
    Example:
      devopsellence deploy
      devopsellence deploy --env staging --message "new search"
      devopsellence deploy --image registry.example.com/shop@sha256:…
      devopsellence deploy --dry-run
    """
    from devopsellence import config
    from devopsellence.cli.deploy.deploy import Deploy
    from devopsellence.cli.deploy.deploy import deploy as perform
    from devopsellence.cli.deploy.preview import preview
    from devopsellence.cli.images.docker_cli import Docker

    if image is not None:
        _check_reference(image)
    loaded = config.load(context.require_config())
    ref = context.environment_from_config(ctx, loaded.organization, loaded.project, loaded.default_environment)
    settings = context.connection(ctx)
    dev = context.dev_node(settings)
    run = Deploy(
        ref=ref,
        config=loaded,
        resolved=loaded.resolve(ref.environment),
        settings=settings,
        docker=Docker(dev.docker_host if dev else None),
        output=output,
        image=image,
        message=message,
        default_node=dev.node if dev else "",
    )
    try:
        if dry_run:
            context.run(ctx, lambda etcd: preview(etcd, run))
        else:
            context.run(ctx, lambda etcd: perform(etcd, run, detach=detach))
    except KeyboardInterrupt as error:
        raise CliError("interrupted", f"interrupted; {run.stage}", exit_code=130) from error


def _check_reference(image: str) -> None:
    from devopsellence.cli.images.reference import InvalidReference, parse

    try:
        parse(image)
    except InvalidReference as error:
        raise CliError("invalid_image", f"--image: {error}", exit_code=2) from error
