"""With what etcd's members, controllers and agents are started: command lines and variables. Pure.

The paths are those on the machines that the bundles are copied to.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping
from typing import Final

from devopsellence.agent_identity import API_PORT
from devopsellence.api.v1.stored_pb2 import Node
from devopsellence.cli.certificates.subjects import MEMBER_COMMON_NAME
from devopsellence.cli.util.addresses import is_ip, with_port
from devopsellence.store.keys import DEFAULT_PREFIX
from devopsellence.store.settings import CA_CERT, CERT, ENDPOINTS, KEY, PREFIX

CLIENT_PORT: Final = 2379
PEER_PORT: Final = 2380
#: Where a machine keeps the bundle of its agent, of a controller, of a member of etcd: all three may be on one.
AGENT_HOME: Final = "/etc/devopsellence"
CONTROLLER_HOME: Final = "/etc/devopsellence-controller"
ETCD_HOME: Final = "/etc/etcd/devopsellence"
#: More than that and etcd takes no more writes; a member maps it into memory.
QUOTA_BYTES: Final = 2 * 1024**3
AGENT_STATE: Final = "/var/lib/devopsellence"
#: In the settings file of an agent: its arguments, for the systemd unit.
AGENT_ARGUMENTS: Final = "DEVOPSELLENCE_AGENT_ARGUMENTS"
_FLAGS: Final = {
    ENDPOINTS: "--etcd-endpoints",
    CA_CERT: "--etcd-ca-cert",
    CERT: "--etcd-cert",
    KEY: "--etcd-key",
    PREFIX: "--prefix",
}


def endpoints(members: Mapping[str, str]) -> str:
    """Where etcd answers, as in ``DEVOPSELLENCE_ETCD_ENDPOINTS``."""
    return ",".join(with_port(address, CLIENT_PORT) for address in members.values())


def member_variables(name: str, members: Mapping[str, str]) -> dict[str, str]:
    """etcd's own variables for one of ``members``: each is the flag of that name (etcd, "Configuration options").

    Clients and peers need a certificate of the cluster, on every port.
    """
    address = members[name]
    client, peer = (f"https://{with_port(address, port)}" for port in (CLIENT_PORT, PEER_PORT))
    # One cannot listen on a name.
    bound = address if is_ip(address) else "0.0.0.0"  # noqa: S104 - whoever has no certificate of ours is turned away
    files = {"TRUSTED_CA_FILE": "ca.crt", "CERT_FILE": "tls.crt", "KEY_FILE": "tls.key"}
    return {
        "ETCD_NAME": name,
        "ETCD_DATA_DIR": "/var/lib/etcd/devopsellence",
        "ETCD_LISTEN_CLIENT_URLS": f"https://{with_port(bound, CLIENT_PORT)}",
        "ETCD_ADVERTISE_CLIENT_URLS": client,
        "ETCD_LISTEN_PEER_URLS": f"https://{with_port(bound, PEER_PORT)}",
        "ETCD_INITIAL_ADVERTISE_PEER_URLS": peer,
        "ETCD_INITIAL_CLUSTER": ",".join(
            f"{each}=https://{with_port(where, PEER_PORT)}" for each, where in members.items()
        ),
        "ETCD_INITIAL_CLUSTER_TOKEN": "devopsellence",
        "ETCD_CLIENT_CERT_AUTH": "true",
        "ETCD_PEER_CLIENT_CERT_AUTH": "true",
        **{f"ETCD_{kind}": f"{ETCD_HOME}/{file}" for kind, file in files.items()},
        **{f"ETCD_PEER_{kind}": f"{ETCD_HOME}/{file}" for kind, file in files.items()},
        # Otherwise a node's certificate would do to speak as a peer, past all users and roles.
        "ETCD_PEER_CERT_ALLOWED_CN": MEMBER_COMMON_NAME,
        # Names as users and the HTTP gateway exclude each other (etcd, "Role-based access control").
        "ETCD_ENABLE_GRPC_GATEWAY": "false",
        "ETCD_AUTO_COMPACTION_MODE": "periodic",
        "ETCD_AUTO_COMPACTION_RETENTION": "1h",
        # etcd's defaults, but for the count (3.6's): said here, so that they are the same in every version, and so that
        # whoever has slow disks, a slow network or a large installation finds where to change them.
        "ETCD_QUOTA_BACKEND_BYTES": str(QUOTA_BYTES),
        "ETCD_SNAPSHOT_COUNT": "10000",
        "ETCD_HEARTBEAT_INTERVAL": "100",
        "ETCD_ELECTION_TIMEOUT": "1000",
    }


def client_variables(where: str, prefix: str, home: str) -> dict[str, str]:
    """How a client reaches etcd at the endpoints ``where``, with the bundle in ``home``."""
    files = {CA_CERT: f"{home}/ca.crt", CERT: f"{home}/tls.crt", KEY: f"{home}/tls.key"}
    return {ENDPOINTS: where, **files, **_prefix(prefix)}


def agent_arguments(node: Node) -> list[str]:
    """What the agent of ``node`` is told on its command line, besides where etcd is."""
    everywhere = "[::]" if ":" in node.address else "0.0.0.0"  # noqa: S104 - it turns away whoever is no operator
    arguments = [*_who(node), "--api-listen", f"{everywhere}:{API_PORT}"]
    return [*arguments, *(["--api-advertise", with_port(node.address, API_PORT)] if node.address else [])]


def agent_command(node: Node, variables: Mapping[str, str]) -> str:
    """The agent's whole command line, as typed in a shell, with ``variables`` as in :func:`client_variables`."""
    return shlex.join(["devopsellence-agent", *agent_arguments(node), *_flags(variables)])


def bare_agent_command(node: Node, where: str, prefix: str) -> str:
    """The same in a cluster without certificates, where agents have no API."""
    variables = {ENDPOINTS: where, **_prefix(prefix)}
    return shlex.join(["devopsellence-agent", *_who(node), *_flags(variables)])


def agent_variables(node: Node, variables: Mapping[str, str]) -> dict[str, str]:
    """The same as variables, for the agent's systemd unit."""
    return {AGENT_ARGUMENTS: shlex.join(agent_arguments(node)), **variables}


def settings_file(variables: Mapping[str, str]) -> bytes:
    """``variables`` as a file that systemd's ``EnvironmentFile=`` reads (systemd.exec(5))."""
    quoted = {name: value.replace("\\", "\\\\").replace('"', '\\"') for name, value in variables.items()}
    return "".join(f'{name}="{value}"\n' for name, value in quoted.items()).encode()


def exports(variables: Mapping[str, str]) -> Iterable[str]:
    """``variables`` as lines for a shell."""
    return (f"export {name}={shlex.quote(value)}" for name, value in variables.items())


def _who(node: Node) -> list[str]:
    return ["--node", node.name, "--node-uid", node.uid, "--state-dir", AGENT_STATE]


def _flags(variables: Mapping[str, str]) -> list[str]:
    return [text for name, flag in _FLAGS.items() if name in variables for text in (flag, variables[name])]


def _prefix(prefix: str) -> dict[str, str]:
    return {PREFIX: prefix} if prefix != DEFAULT_PREFIX else {}
