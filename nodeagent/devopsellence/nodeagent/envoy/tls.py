"""TLS for Envoy: host certificates inside the listener, and the node's own certificate for traffic between routers.

Host certificates are not files of their own (SDS), although a renewal would then touch nothing else: Envoy uses an
inotify instance for every such file and aborts when the kernel has none left. A user has 128 by default
(``fs.inotify.max_user_instances``).
"""

from __future__ import annotations

from typing import Final

from devopsellence.nodeagent.envoy.model import ListenerConfig, PeerTls, RoutingConfig, TlsCertificate
from devopsellence.nodeagent.envoy.resources import Message, response, source

KIND: Final = "envoy.extensions.transport_sockets.tls.v3.Secret"
#: Secrets with the node's own certificate, and with the certificate authority of peers' certificates.
PEER: Final = "peer"
_PEER_CA: Final = "peer-ca"
#: Common suffix of the DNS names in nodes' certificates (``devopsellence.agent_identity.server_name``).
_NODES: Final = ".node.devopsellence.internal"


def https_hosts(config: RoutingConfig, listen: ListenerConfig) -> list[str]:
    """Return the hosts served by HTTPS: TLS is on, a port listens, and there is a certificate. Sorted."""
    return sorted(served_certificates(config)) if listen.https_port else []


def served_certificates(config: RoutingConfig) -> dict[str, TlsCertificate]:
    """Return the certificates in use, by host: none while TLS is off."""
    return (
        {host: config.certificates[host] for host in config.hosts if host in config.certificates} if config.tls else {}
    )


def secret_path(name: str) -> str:
    """Return the path of a secret's file."""
    return f"sds/{name}.json"


def secret_source(name: str, folder: str) -> Message:
    """Return the reference of a TLS context to a secret."""
    return {"name": name, "sds_config": source(folder, secret_path(name))}


def peer_validation(folder: str) -> Message:
    """Return the reference of a TLS context to the certificate authority of peers."""
    return secret_source(_PEER_CA, folder)


def node_names() -> list[Message]:
    """Return the matcher for certificates of nodes: the DNS name must be a node's."""
    return [{"san_type": "DNS", "matcher": {"suffix": _NODES}}]


def certificate_and_key(certificate: TlsCertificate) -> Message:
    """Return a host's certificate and key for a TLS context."""
    return {
        "certificate_chain": {"inline_string": certificate.chain_pem},
        "private_key": {"inline_string": certificate.key_pem},
    }


def peer_files(tls: PeerTls) -> dict[str, bytes]:
    """Return the secrets of the node's own certificate, by path in the folder.

    Secrets refer to the PEM files; Envoy reads the PEM files again when replaced by rename.
    """
    own = {"certificate_chain": {"filename": tls.cert}, "private_key": {"filename": tls.key}}
    return {
        secret_path(PEER): response(KIND, [{"name": PEER, "tls_certificate": own}]),
        secret_path(_PEER_CA): response(
            KIND, [{"name": _PEER_CA, "validation_context": {"trusted_ca": {"filename": tls.ca}}}]
        ),
    }
