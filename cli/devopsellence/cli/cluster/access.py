"""Access to the cluster with the certificate of root."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from devopsellence import input_file
from devopsellence.cli import reach
from devopsellence.cli.cluster.folder import ClusterFolder
from devopsellence.cli.cluster.programs import gateways
from devopsellence.cli.output import CliError, NextAction
from devopsellence.store.settings import CA_CERT, CERT, ENDPOINTS, KEY, PREFIX, SERVER_NAME, Settings, SettingsError

# The shell may have the certificate variables of another operator; the address is the same for all operators.
_FROM_ENVIRONMENT: Final = (ENDPOINTS, SERVER_NAME, PREFIX)


def root_settings(
    folder: ClusterFolder, flags: Mapping[str, str], environ: Mapping[str, str], way: Settings | None = None
) -> Settings:
    """Return the settings of root; the address comes from flags, variables, the context or ``cluster init``.

    ``way``: settings of a context. If it is one of this cluster, root reaches the gateways as the context does.

    Raises:
        CliError: ``settings_invalid`` (exit code 2); ``etcd_unavailable``: no address.
    """
    bundle = folder.root_operator
    is_given = bool(flags.get(ENDPOINTS) or environ.get(ENDPOINTS))
    if way is None or is_given or not is_of_cluster(folder, way):
        way, place = None, {ENDPOINTS: gateways(folder.control_plane().controllers)}
    else:
        place = {ENDPOINTS: ",".join(way.endpoints), SERVER_NAME: way.server_name, PREFIX: way.prefix}
    values = {
        **place,
        CA_CERT: str(bundle.authority),
        CERT: str(bundle.certificate),
        KEY: str(bundle.key),
        **{name: environ[name] for name in _FROM_ENVIRONMENT if environ.get(name)},
        **flags,
    }
    try:
        settings = Settings.from_environ(values)
    except SettingsError as error:
        raise CliError("settings_invalid", str(error), exit_code=2) from error
    if settings is None:
        actions = [
            NextAction("set the members of etcd", "devopsellence cluster init --etcd <name>=<address>"),
            NextAction("or give the address", "--etcd-endpoints <host:port,…>"),
        ]
        raise CliError("etcd_unavailable", "the address of etcd is not known", next_actions=actions)
    return reach.through(settings, reach.ssh_host(way)) if way is not None else settings


def is_of_cluster(folder: ClusterFolder, settings: Settings) -> bool:
    """Return True if settings trust an authority that the folder of a cluster trusts."""
    return bool(_authorities(folder.root_operator.authority) & _authorities(settings.ca_cert))


def _authorities(path: Path | None) -> set[bytes]:
    """Return the certificates in a file; during a rotation there are two."""
    try:
        text = input_file.read(path) if path is not None else b""
    except OSError:
        return set()
    return {b"".join(part.split()) for part in text.split(b"-----END CERTIFICATE-----") if part.strip()}
