"""The command ``devopsellence-etcd-renew``: renew the certificate of this machine's etcd member.

For machines that run a controller beside the member: the issuing authority is there. Started every day by a timer. etcd
reads its certificate for every connection, so it is not restarted.
"""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Final

import click

from devopsellence.certificates.authority import request_like
from devopsellence.certificates.files import Busy, finish_replacement
from devopsellence.certificates.issuing import IssuingFiles
from devopsellence.certificates.pem import CertificateError, load_certificate
from devopsellence.certificates.renewal import RenewalFailed, install, read_certificate
from devopsellence.certificates.subjects import MEMBER_COMMON_NAME
from devopsellence.server_certificate import CertificateFiles

_HOME: Final = Path("/etc/etcd/devopsellence")
_CONTROLLER_HOME: Final = Path("/etc/devopsellence-controller")
_FOLDER: Final = click.Path(file_okay=False, path_type=Path)


@click.command()
@click.option("--folder", type=_FOLDER, default=_HOME, show_default=True, help="Folder of the member's files.")
@click.option(
    "--controller-folder",
    type=_FOLDER,
    default=_CONTROLLER_HOME,
    show_default=True,
    help="Folder with the issuing authority.",
)
@click.help_option("-h", "--help")
def main(folder: Path, controller_folder: Path) -> None:
    """Renew the certificate of this machine's etcd member, if two thirds of its life are over.

    A certificate of another authority than the controller's is renewed, too. Needs root; etcd is not restarted.

    \b
    Example:
      sudo devopsellence-etcd-renew
    """
    files = CertificateFiles(folder / "ca.crt", folder / "tls.crt", folder / "tls.key")
    issuing = IssuingFiles(controller_folder / "issuing.crt", controller_folder / "issuing.key", files.authority)
    try:
        click.echo(renew(files, issuing, datetime.datetime.now(datetime.UTC)))
    except (RenewalFailed, CertificateError, Busy, OSError) as error:
        raise click.ClickException(str(error)) from error


def renew(files: CertificateFiles, issuing: IssuingFiles, now: datetime.datetime) -> str:
    """Renew a member's certificate if it is due; return a sentence about it. Blocks.

    Raises:
        CertificateError: it is no member's, or the authority cannot sign. RenewalFailed: nothing was replaced. Busy:
            another process is replacing it. OSError: a file cannot be read or written.
    """
    finish_replacement(files.certificate, files.key)
    installed = load_certificate(files.certificate)
    request = request_like(installed)
    if request.common_name != MEMBER_COMMON_NAME:
        raise CertificateError(f"{files.certificate} is a certificate of {request.common_name!r}, not of etcd")
    authority = issuing.load()
    why = authority.why_renew(installed, request, now)
    if not why:
        return f"The certificate is valid until {installed.not_valid_after_utc:%Y-%m-%d}."
    install(files, authority.issue(request, now), read_certificate(files))
    renewed = load_certificate(files.certificate)
    return f"The certificate was renewed ({why}); it is valid until {renewed.not_valid_after_utc:%Y-%m-%d}."


if __name__ == "__main__":
    main(prog_name="devopsellence-etcd-renew")
