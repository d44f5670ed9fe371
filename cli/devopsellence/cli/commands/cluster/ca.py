"""``cluster ca``: replace the root authority of the cluster."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from devopsellence.cli import context
from devopsellence.cli.choice import connection_flags
from devopsellence.cli.commands.complete import complete_nodes
from devopsellence.cli.confirm import confirm, destroys
from devopsellence.cli.groups import CommandGroup
from devopsellence.cli.options import passphrase_options, pki_option
from devopsellence.cli.output import CliError, NextAction, Output, pass_output

if TYPE_CHECKING:
    from devopsellence.cli.cluster.authority import Passphrase
    from devopsellence.cli.cluster.init import InitResult
    from devopsellence.cli.rotation.rotation import Rotation

_OPERATION: Final = "cluster ca rotate"


@click.group(cls=CommandGroup)
def ca() -> None:
    """Replace the cluster's certificate authority (CA).

    \b
    Example:
      devopsellence cluster ca rotate
    """


@ca.command()
@destroys("ends the access of whoever has no certificate of the new CA", late=True)
@pki_option
@passphrase_options
@click.option(
    "--leave-out",
    "left_out",
    multiple=True,
    metavar="NODE",
    shell_complete=complete_nodes,
    help="Do not wait for this node (repeatable); afterwards it has to join again.",
)
@click.option(
    "--timeout",
    "seconds",
    type=click.FloatRange(min=0),
    default=60,
    show_default=True,
    metavar="SECONDS",
    help="Longest wait for gateways, agents and routers in a step.",
)
@click.option("--abandon", is_flag=True, help="Give the rotation up; possible until the new CA signs.")
@pass_output
@click.pass_context
def rotate(
    ctx: click.Context,
    output: Output,
    pki: str | None,
    passphrase_file: Path | None,
    no_passphrase: bool,
    left_out: tuple[str, ...],
    seconds: float,
    abandon: bool,
) -> None:
    """Replace the CA of the cluster, step by step.

    Nothing is interrupted. Run the command, do what it prints, and run it again, until it says that the rotation is
    complete. First everybody trusts the new CA beside the present one. Then the new CA signs all certificates. At last
    nobody trusts the former one. Each step checks that all gateways, agents and routers have followed.

    \b
    Example:
      devopsellence cluster ca rotate
      devopsellence cluster ca rotate --leave-out prod-7
    """
    from devopsellence.cli.cluster.folder import ClusterFolder
    from devopsellence.cli.cluster.passphrase import passphrase_from
    from devopsellence.cli.rotation.rotation import Rotation
    from devopsellence.cli.rotation.stages import Stage
    from devopsellence.store.keys import DEFAULT_PREFIX
    from devopsellence.store.settings import PREFIX

    flags = connection_flags(ctx)
    prefix = flags.get(PREFIX) or os.environ.get(PREFIX) or DEFAULT_PREFIX
    rotation = Rotation(ClusterFolder.chosen(pki), prefix, flags, os.environ, left_out, seconds, output)
    passphrase = passphrase_from(output, passphrase_file, unencrypted=no_passphrase)
    match rotation.stage():
        case stage if abandon:
            _abandon(ctx, output, rotation, stage)
        case Stage.NONE:
            _introduce(ctx, output, rotation, passphrase)
        case Stage.INTRODUCED:
            _switch(ctx, output, rotation)
        case Stage.SWITCHED:
            _retire(ctx, output, rotation)


def _introduce(ctx: click.Context, output: Output, rotation: Rotation, passphrase: Passphrase) -> None:
    # Before anything is changed: the gateways have to answer.
    context.run(ctx, rotation.check_gateways, settings=rotation.settings())
    files = rotation.introduce(passphrase)
    context.run(ctx, rotation.announce, settings=rotation.settings())
    text = (
        "Step 1 of 3: there is a new CA. Nodes trust it from now on beside the present one, operators after their next "
        "command: ask them to run one, such as `devopsellence node list`."
    )
    _result(output, "introduced", text, files, restart_members=True)


def _switch(ctx: click.Context, output: Output, rotation: Rotation) -> None:
    unheard = context.run(ctx, rotation.wait_trusting, settings=rotation.settings())
    if unheard:
        confirm(
            ctx,
            f"These operators have run no command since step 1: {', '.join(unheard)}. They will not connect until they "
            f"replace their ca.crt by {rotation.folder.root_operator.authority}, which is not secret.",
        )
    text = "Step 2 of 3: the new CA signs certificates from now on."
    _result(output, "switched", text, rotation.switch(), restart_members=False, operators_unheard=unheard)


def _retire(ctx: click.Context, output: Output, rotation: Rotation) -> None:
    left = context.run(ctx, rotation.wait_renewed, settings=rotation.settings())
    if left:
        names = ", ".join(left)
        confirm(
            ctx,
            f"No gateway has signed a certificate of the new CA for {names}: any command of theirs has it signed. "
            "Operators without one lose access until you issue one: devopsellence cluster issue operator <name>.",
        )
    context.run(ctx, rotation.announce_new, settings=rotation.settings())
    text = "Step 3 of 3: the rotation is complete. Only the new CA is trusted, on these machines after a restart."
    _result(output, "none", text, rotation.retire(), restart_members=True, operators_without=left)


def _abandon(ctx: click.Context, output: Output, rotation: Rotation, stage: str) -> None:
    if stage != "introduced":
        message = "there is no rotation to give up" if stage == "none" else "the new CA signs already; go on instead"
        raise CliError("rotation_stage", message)
    context.run(ctx, rotation.announce_only, settings=rotation.settings())
    text = "The rotation is given up. Files with the new CA do no harm; copying these folders again removes it."
    _result(output, "none", text, rotation.abandon(), restart_members=True)


def _result(output: Output, stage: str, text: str, files: InitResult, *, restart_members: bool, **data: Any) -> None:
    members = [files.folder.member(name) for name in files.control_plane.members]
    restart = " --restart" if restart_members else ""
    lines = [text, ""]
    if members:
        lines.append("Copy each of these folders to its machine, and run there, one machine after the other:")
        lines += [f"  {bundle.root}: sudo etcd.sh install ./{bundle.root.name}{restart}" for bundle in members]
    lines.append(
        f"Copy {files.folder.controller.root} to each controller's machine, and run there, one after the other:"
    )
    lines.append("  sudo systemctl restart devopsellence-controller")
    actions = [] if stage == "none" else [NextAction("go on, once this is done", f"devopsellence {_OPERATION}")]
    lines += [f"Then {action.label}: {action.command}" for action in actions]
    output.result(
        _OPERATION,
        "\n".join(lines),
        next_actions=actions,
        stage=stage,
        folders=[str(issued.bundle.root) for _, issued in files.issued],
        restart_members=restart_members,
        **data,
    )
