"""Choice of who signs the certificates of operators, and with which access the commands write records."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import click

from devopsellence.cli import context
from devopsellence.cli.choice import chosen_context, connection_flags, context_settings
from devopsellence.cli.output import CliError, NextAction

if TYPE_CHECKING:
    from devopsellence.cli.cluster.folder import CertificateBundle, ClusterFolder
    from devopsellence.cli.cluster.signer import Signer
    from devopsellence.store.settings import Settings


@dataclass(frozen=True)
class Signing:
    """``folder`` is for the certificates, ``connection`` for the records; a certificate alone may need none."""

    folder: ClusterFolder
    signer: Signer
    connection: Callable[[], Settings]

    @property
    def settings(self) -> Settings:
        """Return the connection.

        Raises:
            CliError: ``settings_invalid``, ``etcd_unavailable``: there is none.
        """
        return self.connection()

    def locked(self, bundle: CertificateBundle) -> AbstractContextManager[None]:
        """Lock the cluster's folder against other commands; not if nothing in it is used."""
        is_used = self.folder.has_authority or bundle.root.is_relative_to(self.folder.root)
        return self.folder.locked() if is_used else nullcontext()


def choose(ctx: click.Context, pki: str | None) -> Signing:
    """Return the cluster's authority if it is on this machine, with root's access; else a gateway, with the caller's.

    Raises:
        CliError: ``authority_missing``: neither is there; ``authority_unusable``, ``authority_expired``.
    """
    from devopsellence.cli.cluster import authority as authorities
    from devopsellence.cli.cluster import issue
    from devopsellence.cli.cluster.access import is_of_cluster, root_settings
    from devopsellence.cli.cluster.folder import ClusterFolder
    from devopsellence.cli.cluster.signer import GatewaySigner

    folder = ClusterFolder.chosen(pki)
    way = context_settings(ctx)
    # A context that the command line names may be another cluster than that of the folder.
    is_other = way is not None and bool(chosen_context(ctx)[0]) and not is_of_cluster(folder, way)
    if pki is not None or (folder.has_authority and not is_other):
        authority = authorities.load(folder, issue.now())
        return Signing(folder, authority, partial(root_settings, folder, connection_flags(ctx), os.environ, way))
    try:
        settings = context.connection(ctx)
    except CliError as error:
        if error.code != "etcd_unavailable":
            raise
        raise _no_signer(folder, "no cluster is configured") from error
    if settings.cert is None:
        raise _no_signer(folder, "the connection has no certificate of an admin")
    return Signing(folder, GatewaySigner(settings, partial(context.run, ctx, settings=settings)), lambda: settings)


@contextmanager
def after_grant(name: str) -> Iterator[None]:
    """Add to an error that the operator has access already, and that the same command completes the rest."""
    try:
        yield
    except CliError as error:
        message = f"{name} has access, but no certificate yet: {error.message}"
        actions = [*error.next_actions, NextAction("then complete it", "the same command")]
        raise CliError(error.code, message, exit_code=error.exit_code, next_actions=actions) from error


def _no_signer(folder: ClusterFolder, reason: str) -> CliError:
    actions = [
        NextAction("create the CA", "devopsellence cluster init"),
        NextAction("or use a gateway as an admin", "the same command with --etcd-endpoints and an admin's certificate"),
    ]
    message = f"there is no cluster CA in {folder.root}, and no gateway to sign: {reason}"
    return CliError("authority_missing", message, next_actions=actions)
