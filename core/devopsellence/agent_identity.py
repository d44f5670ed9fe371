"""Who is who between operators and agents: names in certificates, and what both ends of the agent's API agree on.

A certificate's common name is an etcd user (``store.access``) and here the caller's or the server's identity as well.
Agents are reached by address, so the name that their certificate must carry follows from their machine's uid: another
machine that has, or had, the same node name cannot answer for it. No IO.
"""

from __future__ import annotations

import hashlib
from typing import Final

#: What a person's certificate is called: etcd's root user, or an operator by name.
OPERATOR_ROOT: Final = "root"
OPERATOR_PREFIX: Final = "operator:"
#: What an agent's certificate is called, followed by its machine's uid.
NODE_PREFIX: Final = "node:"
#: Trailing metadata of every refusal by an agent itself, which tells it from one by the network.
REFUSED_BY: Final = "devopsellence-refused-by"
#: Initial metadata of every call that an agent has taken: the node's name. It comes at once.
ACCEPTED_BY: Final = "devopsellence-taken-by"
#: Where agents answer, unless told otherwise.
API_PORT: Final = 7443
#: Initial metadata of an image that one agent sends to another: how large it is, in bytes, as a decimal number.
IMAGE_BYTES: Final = "devopsellence-image-bytes"
#: How much of a layer, or of an image, goes into one message.
CHUNK_BYTES: Final = 1 << 20
#: Messages are bounded on both sides: an image's configuration is the largest that is not a stream.
MAX_MESSAGE_BYTES: Final = 8 << 20
#: Channel keepalive: a peer that has gone without a word is found within about this many seconds.
KEEPALIVE_SECONDS: Final = 20


def server_name(uid: str) -> str:
    """The DNS name in the certificate of the machine ``uid``'s agent; of its hash, because a uid may be no DNS name.

    Raises:
        ValueError: it is empty: there is no such machine, and no certificate must do for it.
    """
    if not uid:
        raise ValueError("a machine without a uid has no server name")
    return f"{hashlib.sha256(uid.encode()).hexdigest()[:32]}.node.devopsellence.internal"


def is_operator(common_name: str) -> bool:
    """Whether a certificate with this common name is a person's, who may ask agents for everything."""
    return common_name == OPERATOR_ROOT or (
        common_name.startswith(OPERATOR_PREFIX) and len(common_name) > len(OPERATOR_PREFIX)
    )


def is_node(common_name: str) -> bool:
    """Whether a certificate with this common name is an agent's, who may ask other agents for images."""
    return common_name.startswith(NODE_PREFIX) and len(common_name) > len(NODE_PREFIX)


def api_address(registered: str, said: str) -> str:
    """Where an agent's API answers, as ``host:port``: at the address that its node is registered with (may be empty),
    and otherwise where it says itself; empty if it has none."""
    host, _, port = said.rpartition(":")
    if not (host and port):
        return ""
    if registered:
        host = f"[{registered}]" if ":" in registered else registered
    return f"{host}:{port}"
