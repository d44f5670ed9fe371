"""Settings of the programs for their systemd units: variables, and the files that hold them. Pure."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from typing import Final

from devopsellence.store.keys import DEFAULT_PREFIX
from devopsellence.store.settings import CA_CERT, CERT, ENDPOINTS, KEY, PREFIX

#: Folder of the agent's certificate and settings.
AGENT_HOME: Final = "/etc/devopsellence"
#: Variable with the agent's arguments in agent.env, for the systemd unit.
AGENT_ARGUMENTS: Final = "DEVOPSELLENCE_AGENT_ARGUMENTS"


def client_variables(where: str, prefix: str, home: str) -> dict[str, str]:
    """Return the variables of a client of gateways or of etcd at ``where``, with its certificate in ``home``."""
    files = {CA_CERT: f"{home}/ca.crt", CERT: f"{home}/tls.crt", KEY: f"{home}/tls.key"}
    return {ENDPOINTS: where, **files, **prefix_variable(prefix)}


def prefix_variable(prefix: str) -> dict[str, str]:
    """Return the variable for a prefix of all keys; none for the usual one."""
    return {PREFIX: prefix} if prefix != DEFAULT_PREFIX else {}


def agent_variables(arguments: Sequence[str], client: Mapping[str, str]) -> dict[str, str]:
    """Return the variables of an agent's systemd unit, with those of :func:`client_variables`."""
    return {AGENT_ARGUMENTS: shlex.join(arguments), **client}


def settings_file(variables: Mapping[str, str]) -> bytes:
    """Return ``variables`` in the format of systemd's ``EnvironmentFile=`` (systemd.exec(5))."""
    quoted = {name: value.replace("\\", "\\\\").replace('"', '\\"') for name, value in variables.items()}
    return "".join(f'{name}="{value}"\n' for name, value in quoted.items()).encode()
