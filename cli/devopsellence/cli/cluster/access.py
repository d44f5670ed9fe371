"""How root reaches the etcd of a cluster that is being set up: with the folder's own certificate."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from devopsellence.cli.cluster.folder import ClusterFolder
from devopsellence.cli.cluster.programs import endpoints
from devopsellence.cli.output import CliError, NextAction
from devopsellence.store.settings import CA_CERT, CERT, ENDPOINTS, KEY, PREFIX, SERVER_NAME, Settings, SettingsError

# A person's shell may hold another operator's certificate; which etcd is meant is the same for all of them.
_FROM_ENVIRONMENT: Final = (ENDPOINTS, SERVER_NAME, PREFIX)


def root_settings(folder: ClusterFolder, flags: Mapping[str, str], environ: Mapping[str, str]) -> Settings:
    """The flags, else the variables that say where etcd is, else the members that ``cluster init`` was told.

    Raises:
        CliError: ``settings_invalid`` (exit code 2); ``etcd_unavailable``: nothing says where etcd is.
    """
    bundle = folder.root_operator
    values = {
        ENDPOINTS: endpoints(folder.members()),
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
            NextAction("say which members it has", "devopsellence cluster init --etcd <name>=<address>"),
            NextAction("or where it answers", "--etcd-endpoints <host:port,…>"),
        ]
        raise CliError("etcd_unavailable", "nothing says where etcd is", next_actions=actions)
    return settings
