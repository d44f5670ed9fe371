"""``devopsellence-agent join``: make this machine a node by a join token."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final, NoReturn

import click

from devopsellence.nodeagent.util.process import protect_memory
from devopsellence.store.settings_file import AGENT_HOME

_PROGRAM: Final = "devopsellence-agent join"
_UNIT: Final = "devopsellence-agent"
#: What etcd or a gateway writes before the reason of a refusal.
_MARKS: Final = ("permission denied: ", "gateway: ")


@click.command()
@click.argument("misplaced", nargs=-1, metavar="")
@click.option(
    "--token-file",
    type=click.Path(path_type=Path, allow_dash=True),
    default="-",
    metavar="FILE",
    help="File with the token.  [default: standard input]",
)
@click.option(
    "--folder",
    type=click.Path(path_type=Path, file_okay=False),
    default=AGENT_HOME,
    show_default=True,
    help="Folder for certificate, key and settings.",
)
@click.option("--replace", is_flag=True, help="Replace the certificate of another node in the folder.")
@click.help_option("-h", "--help")
def join(misplaced: tuple[str, ...], token_file: Path, folder: Path, replace: bool) -> None:
    """Make this machine a node, by the token that devopsellence node register has printed.

    Makes a key, has it signed by a gateway, and writes ca.crt, tls.crt, tls.key and agent.env. Can be repeated after an
    interruption. Exit codes: 0 done, 1 if the cluster refuses the token or does not answer, 2 for a token or a folder
    that cannot be used.

    Example: echo devopsellence-join-1-eNp9k… | devopsellence-agent join
    """
    protect_memory()
    if misplaced:
        _fail("every user of this machine can see a token on the command line: pass it by standard input", 2)
    # Imported late, so that a wrong option is reported at once.
    from devopsellence.certificates.files import Busy
    from devopsellence.certificates.join_token import JoinToken, UnusableToken
    from devopsellence.nodeagent.certificates import join as joining
    from devopsellence.store.errors import StoreError

    try:
        token = JoinToken.parse(_read(token_file))
        done = joining.join(token, joining.NodeFolder(folder.absolute()), replace=replace)
    except UnusableToken as error:
        _fail(f"the token cannot be used: {error}", 2)
    except joining.FolderInUse as error:
        _fail(f"{error}; choose another --folder, or --replace it", 2)
    except StoreError as error:
        _fail(refusal(error), 1)
    except (joining.CertificateUnusable, Busy) as error:
        _fail(str(error), 1)
    except OSError as error:
        _fail(f"cannot write the files: {error}", 1)
    click.echo(f"This machine is node {done.name}; its certificate in {folder} is valid until {done.expires:%Y-%m-%d}.")
    click.echo(f"Next: {_next_command(folder, replaced=done.replaced)}")


def refusal(error: Exception) -> str:
    """Return the sentence about a gateway that did not sign."""
    from devopsellence.store.errors import Ambiguous, NotServed, PermissionDenied, Rejected

    reason = str(error)
    for mark in _MARKS:
        reason = reason.rpartition(mark)[2]
    match error:
        case PermissionDenied() | Rejected():
            return f"the cluster refuses the token: {reason}"
        case Ambiguous():
            return f"no gateway confirmed in time; run the same command again: {reason}"
        case NotServed():
            return "this gateway signs no certificates; copy the folder of the node instead"
        case _:
            return f"no gateway can be used: {reason}"


def _read(file: Path) -> str:
    from devopsellence import input_file
    from devopsellence.certificates.join_token import MAX_BYTES, UnusableToken

    try:
        if str(file) != "-":
            content = input_file.read(file, MAX_BYTES)
        elif sys.stdin.isatty():
            click.echo("Paste the token, then press Enter:", err=True)
            content = sys.stdin.buffer.readline(MAX_BYTES + 1)
        else:
            content = sys.stdin.buffer.read(MAX_BYTES + 1)
        return content.decode("ascii")
    except OSError as error:
        raise UnusableToken(f"cannot read {file}: {error.strerror}") from error
    except UnicodeDecodeError:
        raise UnusableToken("it is not text") from None


def _next_command(folder: Path, *, replaced: bool) -> str:
    if str(folder) != AGENT_HOME:
        return f"start devopsellence-agent with the variables in {folder / 'agent.env'}, as its unit does with its own"
    return f"systemctl {'restart' if replaced else 'enable --now'} {_UNIT}"


def _fail(message: str, code: int) -> NoReturn:
    click.echo(f"{_PROGRAM}: {message}", err=True)
    raise SystemExit(code)
