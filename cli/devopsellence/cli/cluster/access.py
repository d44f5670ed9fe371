"""Access to the cluster with the certificate of root."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from devopsellence.cli.cluster.folder import ClusterFolder
from devopsellence.cli.cluster.programs import gateways
from devopsellence.cli.output import CliError, NextAction
from devopsellence.store.settings import CA_CERT, CERT, ENDPOINTS, KEY, PREFIX, SERVER_NAME, Settings, SettingsError

# The shell may have the certificate variables of another operator; the address is the same for all operators.
_FROM_ENVIRONMENT: Final = (ENDPOINTS, SERVER_NAME, PREFIX)


def root_settings(folder: ClusterFolder, flags: Mapping[str, str], environ: Mapping[str, str]) -> Settings:
    """Return the settings of root; the address of the gateways comes from flags, variables or ``cluster init``.

    Raises:
        CliError: ``settings_invalid`` (exit code 2); ``etcd_unavailable``: no address.
    """
    bundle = folder.root_operator
    values = {
        ENDPOINTS: gateways(folder.control_plane().controllers),
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
    return settings
