"""Identities of operators and agents in certificates, and constants shared by both ends of the agent API.

A certificate's common name is the identity of caller or server (``store.identities``), also at the gateways.
Agents are reached by address, so the server name in an agent's certificate is derived from the machine's ``uid``:
another machine with the same node name cannot impersonate the agent. No IO.
"""

from __future__ import annotations

import hashlib
from typing import Final

#: Common names of operators: that of root, or the prefix of an operator's name.
OPERATOR_ROOT: Final = "root"
OPERATOR_PREFIX: Final = "operator:"
#: Prefix of an agent's common name, followed by the machine's uid.
NODE_PREFIX: Final = "node:"
#: Prefix of a join token's common name, followed by the uid of the machine that is to join. It gives no access but one
#: call to a gateway.
JOIN_PREFIX: Final = "join:"
#: Prefix of the common name of a node's router, followed by the machine's uid. Gateways and agents admit no router.
ROUTER_PREFIX: Final = "router:"
#: Domains of the DNS names in certificates of nodes and of routers; the first label tells the machine.
NODE_DOMAIN: Final = "node.devopsellence.internal"
ROUTER_DOMAIN: Final = "router.devopsellence.internal"
#: Trailing metadata of every error from an agent; distinguishes agent errors from network errors.
REFUSED_BY: Final = "devopsellence-refused-by"
#: Initial metadata of every accepted call, sent at once: the node's name.
ACCEPTED_BY: Final = "devopsellence-taken-by"
#: Default port of the agent API.
API_PORT: Final = 7443
#: Initial metadata of an image pulled from a peer: the size in bytes, as a decimal number.
IMAGE_BYTES: Final = "devopsellence-image-bytes"
#: Bytes of a layer or image per message.
CHUNK_BYTES: Final = 1 << 20
#: Limit of message size on both sides; the largest message outside of streams is an image configuration.
MAX_MESSAGE_BYTES: Final = 8 << 20
#: Channel keepalive: a dead connection is detected within about this many seconds.
KEEPALIVE_SECONDS: Final = 20


def server_name(uid: str) -> str:
    """Return the DNS name in the certificate of the agent on machine ``uid``; hashed, as a uid may not be a DNS name.

    Raises:
        ValueError: ``uid`` is empty, and no certificate may match an unknown machine.
    """
    return f"{_label(uid)}.{NODE_DOMAIN}"


def router_name(uid: str) -> str:
    """Return the DNS name in the certificate of the router on machine ``uid``.

    Raises:
        ValueError: as :func:`server_name`.
    """
    return f"{_label(uid)}.{ROUTER_DOMAIN}"


def _label(uid: str) -> str:
    if not uid:
        raise ValueError("a machine without a uid has no server name")
    return hashlib.sha256(uid.encode()).hexdigest()[:32]


def is_operator(common_name: str) -> bool:
    """Return True if ``common_name`` is that of an operator, allowed to make every call to agents."""
    return common_name == OPERATOR_ROOT or (
        common_name.startswith(OPERATOR_PREFIX) and len(common_name) > len(OPERATOR_PREFIX)
    )


def is_node(common_name: str) -> bool:
    """Return True if ``common_name`` is that of an agent, allowed to pull images from other agents."""
    return common_name.startswith(NODE_PREFIX) and len(common_name) > len(NODE_PREFIX)


def api_address(registered: str, reported: str) -> str:
    """Return the ``host:port`` of an agent's API; empty if the agent serves none.

    The host is the ``registered`` address of the node if set, else the host ``reported`` by the heartbeat; the port is
    the reported port.
    """
    host, _, port = reported.rpartition(":")
    if not (host and port):
        return ""
    if registered:
        host = f"[{registered}]" if ":" in registered else registered
    return f"{host}:{port}"
