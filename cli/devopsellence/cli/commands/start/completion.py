"""``completion``: the completion script of a shell."""

from __future__ import annotations

import click

from devopsellence.cli.output import Output, pass_output


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@pass_output
@click.pass_context
def completion(ctx: click.Context, output: Output, shell: str) -> None:
    """Print a shell completion script.

    Completes commands, options, and names: environments, services, tasks, nodes, releases, secrets and hosts. The names
    come from devopsellence.yml and from etcd, which is asked for a second at most.

    \b
    Example:
      devopsellence completion bash > ~/.local/share/bash-completion/completions/devopsellence
      devopsellence completion zsh > "${fpath[1]}/_devopsellence"
      devopsellence completion fish > ~/.config/fish/completions/devopsellence.fish
    """
    from click.shell_completion import get_completion_class

    program = ctx.find_root().info_name or "devopsellence"
    kind = get_completion_class(shell)
    if kind is None:  # the choices above are click's own
        raise click.UsageError(f"no completion for {shell}")
    script = kind(ctx.find_root().command, {}, program, f"_{program.upper().replace('-', '_')}_COMPLETE").source()
    # click's script for fish cuts a description at its first comma.
    script = script.replace('string split "," $completion', 'string split --max 1 "," $completion')
    output.result("completion", script, shell=shell, script=script)
