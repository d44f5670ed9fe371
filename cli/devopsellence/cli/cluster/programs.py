"""Command lines and environment variables of etcd members, controllers and agents. Pure.

Paths are those on the machines with the copied bundles.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping
from typing import Final

from devopsellence.agent_identity import API_PORT
from devopsellence.api.v1.stored_pb2 import Node
from devopsellence.certificates.subjects import MEMBER_COMMON_NAME
from devopsellence.cli.util.addresses import is_ip, with_port
from devopsellence.store.settings import CA_CERT, CERT, ENDPOINTS, ETCD_CLIENT_NAME, KEY, PREFIX
from devopsellence.store.settings_file import client_variables, prefix_variable

CLIENT_PORT: Final = 2379
PEER_PORT: Final = 2380
GATEWAY_PORT: Final = 2381
#: Folders for the bundles of a controller and an etcd member; not an agent's, because a machine may run all three.
CONTROLLER_HOME: Final = "/etc/devopsellence-controller"
ETCD_HOME: Final = "/etc/etcd/devopsellence"
#: Maximum size of etcd's database: beyond, etcd refuses writes. A member maps the database into memory.
QUOTA_BYTES: Final = 2 * 1024**3
AGENT_STATE: Final = "/var/lib/devopsellence"
#: Variable with the address of a controller's gateway: every interface, because each call needs a certificate.
GATEWAY_LISTEN: Final = "DEVOPSELLENCE_GATEWAY_LISTEN"
_FLAGS: Final = {
    ENDPOINTS: "--etcd-endpoints",
    CA_CERT: "--etcd-ca-cert",
    CERT: "--etcd-cert",
    KEY: "--etcd-key",
    PREFIX: "--prefix",
}


def endpoints(members: Mapping[str, str]) -> str:
    """Return the addresses of etcd's members in the form of ``DEVOPSELLENCE_ETCD_ENDPOINTS``."""
    return ",".join(with_port(address, CLIENT_PORT) for address in members.values())


def gateways(controllers: Iterable[str]) -> str:
    """Return the addresses of the gateways on controllers' machines in the form of ``DEVOPSELLENCE_ETCD_ENDPOINTS``."""
    return ",".join(with_port(address, GATEWAY_PORT) for address in controllers)


def member_variables(name: str, members: Mapping[str, str]) -> dict[str, str]:
    """Return the etcd variables of the member ``name``, named like etcd's flags (etcd, "Configuration options").

    Every port requires a certificate of the cluster: from clients that of a controller or root, from peers a member's.
    """
    address = members[name]
    client, peer = (f"https://{with_port(address, port)}" for port in (CLIENT_PORT, PEER_PORT))
    # A host name is not an address to listen on.
    bound = address if is_ip(address) else "0.0.0.0"  # noqa: S104 - every client needs a certificate of the CA
    files = {"TRUSTED_CA_FILE": "ca.crt", "CERT_FILE": "tls.crt", "KEY_FILE": "tls.key"}
    return {
        "ETCD_NAME": name,
        "ETCD_DATA_DIR": "/var/lib/etcd/devopsellence",
        "ETCD_LISTEN_CLIENT_URLS": f"https://{with_port(bound, CLIENT_PORT)}",
        "ETCD_ADVERTISE_CLIENT_URLS": client,
        "ETCD_LISTEN_PEER_URLS": f"https://{with_port(bound, PEER_PORT)}",
        "ETCD_INITIAL_ADVERTISE_PEER_URLS": peer,
        "ETCD_INITIAL_CLUSTER": ",".join(
            f"{member}=https://{with_port(host, PEER_PORT)}" for member, host in members.items()
        ),
        "ETCD_INITIAL_CLUSTER_TOKEN": "devopsellence",
        "ETCD_CLIENT_CERT_AUTH": "true",
        "ETCD_PEER_CLIENT_CERT_AUTH": "true",
        **{f"ETCD_{kind}": f"{ETCD_HOME}/{file}" for kind, file in files.items()},
        **{f"ETCD_PEER_{kind}": f"{ETCD_HOME}/{file}" for kind, file in files.items()},
        # Nodes and operators use the gateways: etcd knows no limits for them, and no rules about values.
        "ETCD_CLIENT_CERT_ALLOWED_HOSTNAME": ETCD_CLIENT_NAME,
        "ETCD_PEER_CERT_ALLOWED_CN": MEMBER_COMMON_NAME,
        # Names as users and the HTTP gateway exclude each other (etcd, "Role-based access control").
        "ETCD_ENABLE_GRPC_GATEWAY": "false",
        "ETCD_AUTO_COMPACTION_MODE": "periodic",
        "ETCD_AUTO_COMPACTION_RETENTION": "1h",
        # etcd's defaults (the snapshot count: 3.6's). Explicit, so that every version of etcd uses the same values, and
        # so that they are easy to change for slow disks, a slow network or a large cluster.
        "ETCD_QUOTA_BACKEND_BYTES": str(QUOTA_BYTES),
        "ETCD_SNAPSHOT_COUNT": "10000",
        "ETCD_HEARTBEAT_INTERVAL": "100",
        "ETCD_ELECTION_TIMEOUT": "1000",
    }


def controller_variables(members: Mapping[str, str], prefix: str) -> dict[str, str]:
    """Return the environment variables of the controllers' systemd unit."""
    any_address = "[::]" if any(":" in address for address in members.values()) else "0.0.0.0"  # noqa: S104 - see GATEWAY_LISTEN
    listen = {GATEWAY_LISTEN: f"{any_address}:{GATEWAY_PORT}"}
    return {**client_variables(endpoints(members), prefix, CONTROLLER_HOME), **listen}


def etcdctl_variables(members: Mapping[str, str], home: str) -> dict[str, str]:
    """Return the variables of etcdctl (etcd, "etcdctl") for etcd itself, with root's bundle in ``home``."""
    return {
        "ETCDCTL_API": "3",
        "ETCDCTL_ENDPOINTS": ",".join(f"https://{with_port(address, CLIENT_PORT)}" for address in members.values()),
        "ETCDCTL_CACERT": f"{home}/ca.crt",
        "ETCDCTL_CERT": f"{home}/tls.crt",
        "ETCDCTL_KEY": f"{home}/tls.key",
    }


def agent_arguments(node: Node) -> list[str]:
    """Return the arguments of the agent of ``node``, without those for etcd."""
    any_address = "[::]" if ":" in node.address else "0.0.0.0"  # noqa: S104 - the API accepts only operators
    arguments = [*_identity_arguments(node), "--api-listen", f"{any_address}:{API_PORT}"]
    return [*arguments, *(["--api-advertise", with_port(node.address, API_PORT)] if node.address else [])]


def agent_command(node: Node, variables: Mapping[str, str]) -> str:
    """Return the full shell command of the agent, with ``variables`` from ``client_variables``."""
    return shlex.join(["devopsellence-agent", *agent_arguments(node), *_flags(variables)])


def bare_agent_command(node: Node, where: str, prefix: str) -> str:
    """Return the shell command of an agent in a cluster without certificates, where agents have no API."""
    variables = {ENDPOINTS: where, **prefix_variable(prefix)}
    return shlex.join(["devopsellence-agent", *_identity_arguments(node), *_flags(variables)])


def exports(variables: Mapping[str, str]) -> Iterable[str]:
    """Return ``variables`` as export lines for a shell."""
    return (f"export {name}={shlex.quote(value)}" for name, value in variables.items())


def _identity_arguments(node: Node) -> list[str]:
    return ["--node", node.name, "--node-uid", node.uid, "--state-dir", AGENT_STATE]


def _flags(variables: Mapping[str, str]) -> list[str]:
    return [text for name, flag in _FLAGS.items() if name in variables for text in (flag, variables[name])]
