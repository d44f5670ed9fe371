"""``cluster certificates``: the certificates of the cluster, their ends and who renews them."""

from __future__ import annotations

import click

from devopsellence.cli import context
from devopsellence.cli.options import pki_option
from devopsellence.cli.output import NextAction, Output, pass_output


@click.command()
@pki_option
@click.option("--all", "expired", is_flag=True, help="Also show expired certificates that nobody is seen to use.")
@pass_output
@click.pass_context
def certificates(ctx: click.Context, output: Output, pki: str | None, expired: bool) -> None:
    """Show the certificates of the cluster.

    Shows those that agents and controllers use, those that gateways have signed, and those in files on this machine:
    your own, the authorities, the members of etcd. Those that need attention come first. Certificates that gateways
    have signed are shown to root and to operators with the role admin.

    \b
    Example:
      devopsellence cluster certificates
      devopsellence cluster certificates -o json
    """
    from datetime import UTC, datetime

    from devopsellence.certificates.life import CertificateState
    from devopsellence.cli.cluster.certificates import RENEWED_BY_INIT, known_certificates, read_facts
    from devopsellence.cli.cluster.folder import ClusterFolder
    from devopsellence.cli.util.text import columns

    folder = ClusterFolder.chosen(pki)
    facts, problems = context.run(ctx, lambda etcd: read_facts(etcd, folder))
    for problem in problems:
        output.warning(f"{problem.key} is {problem.reason}; it is left out")
    known = [
        certificate
        for certificate in known_certificates(facts, datetime.now(UTC))
        if expired or certificate.used_by or certificate.state is not CertificateState.EXPIRED
    ]
    header = ("STATE", "IDENTITY", "USED BY", "EXPIRES", "RENEWED BY", "SERIAL")
    rows = [
        [
            certificate.state,
            certificate.identity,
            certificate.used_by or "-",
            f"{certificate.expires:%Y-%m-%d %H:%M} UTC",
            certificate.renewed_by,
            certificate.serial or "-",
        ]
        for certificate in known
    ]
    is_due = any(
        certificate.renewed_by == RENEWED_BY_INIT and certificate.state is not CertificateState.OK
        for certificate in known
    )
    init = NextAction(
        "renew, on the machine with the cluster's CA, then copy the folders to their machines",
        "devopsellence cluster init",
    )
    output.result(
        "cluster certificates",
        columns(header, rows) if rows else "No certificate is known: this cluster has none.",
        next_actions=[init] if is_due else [],
        certificates=[certificate.document() for certificate in known],
    )
