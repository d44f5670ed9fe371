"""Certificates for Envoy: each host's, which stand in its listener, and the node's own for the traffic between routers.

A host's is no file of its own ("SDS"), although renewing it would then touch nothing else: Envoy takes one of the
machine's inotify instances for every such file, of which a user has 128 unless told otherwise
(``fs.inotify.max_user_instances``), and aborts when there is none left.
"""

from __future__ import annotations

from typing import Final

from devopsellence.nodeagent.envoy.model import Listen, PeerTls, Site, TlsCertificate
from devopsellence.nodeagent.envoy.resources import Message, response, source

KIND: Final = "envoy.extensions.transport_sockets.tls.v3.Secret"
#: The node's own certificate, and the authority that peers' certificates must come from.
PEER: Final = "peer"
_PEER_CA: Final = "peer-ca"
#: What the name in every node's certificate ends with (``devopsellence.peers.server_name``).
_NODES: Final = ".node.devopsellence.internal"


def secure_hosts(site: Site, listen: Listen) -> list[str]:
    """The hosts of a site that are served by HTTPS: it is to be, something listens, and there is a certificate."""
    return sorted(served(site)) if listen.https_port else []


def served(site: Site) -> dict[str, TlsCertificate]:
    """The certificates of a site that is to be served by HTTPS, by host."""
    return {host: site.certificates[host] for host in site.hosts if host in site.certificates} if site.tls else {}


def secret_path(name: str) -> str:
    """The file of a secret."""
    return f"sds/{name}.json"


def secret_source(name: str, folder: str) -> Message:
    """Where a TLS context finds a secret."""
    return {"name": name, "sds_config": source(folder, secret_path(name))}


def peer_validation(folder: str) -> Message:
    """Where a TLS context finds the authority of nodes' certificates."""
    return secret_source(_PEER_CA, folder)


def node_names() -> list[Message]:
    """A certificate must carry a node's name."""
    return [{"san_type": "DNS", "matcher": {"suffix": _NODES}}]


def pair(certificate: TlsCertificate) -> Message:
    """A host's certificate and key, for its TLS context."""
    return {
        "certificate_chain": {"inline_string": certificate.chain_pem},
        "private_key": {"inline_string": certificate.key_pem},
    }


def peer_files(tls: PeerTls) -> dict[str, bytes]:
    """The node's own certificate, by reference: Envoy follows the files it names when they are replaced by rename."""
    own = {"certificate_chain": {"filename": tls.cert}, "private_key": {"filename": tls.key}}
    return {
        secret_path(PEER): response(KIND, [{"name": PEER, "tls_certificate": own}]),
        secret_path(_PEER_CA): response(
            KIND, [{"name": _PEER_CA, "validation_context": {"trusted_ca": {"filename": tls.ca}}}]
        ),
    }
