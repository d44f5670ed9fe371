"""Certificates for Envoy: a file for each host, which can be replaced without anything else being read again, and the
node's own certificate for the traffic between routers."""

from __future__ import annotations

from typing import Final

from devopsellence.nodeagent.ingress.model import Listen, PeerTls, Site, TlsCertificate
from devopsellence.nodeagent.ingress.resources import Message, file_name, response, source

KIND: Final = "envoy.extensions.transport_sockets.tls.v3.Secret"
#: The node's own certificate, and the authority that peers' certificates must come from.
PEER: Final = "peer"
_PEER_CA: Final = "peer-ca"
#: What the name in every node's certificate ends with (``devopsellence.peers.server_name``).
_NODES: Final = ".node.devopsellence.internal"


def secure_hosts(site: Site, listen: Listen) -> list[str]:
    """The hosts of a site that are served by HTTPS: it is to be, something listens, and there is a certificate."""
    if not (site.tls and listen.https_port):
        return []
    return sorted(host for host in site.hosts if host in site.certificates)


def host_secret(host: str) -> str:
    """What a host's certificate is called."""
    return f"host/{host}"


def secret_path(name: str) -> str:
    """The file of a secret."""
    return f"sds/{file_name(name.removeprefix('host/'), name)}"


def secret_source(name: str, folder: str) -> Message:
    """Where a TLS context finds a secret."""
    return {"name": name, "sds_config": source(folder, secret_path(name))}


def peer_validation(folder: str) -> Message:
    """Where a TLS context finds the authority of nodes' certificates."""
    return secret_source(_PEER_CA, folder)


def node_names() -> list[Message]:
    """A certificate must carry a node's name."""
    return [{"san_type": "DNS", "matcher": {"suffix": _NODES}}]


def host_file(host: str, certificate: TlsCertificate) -> bytes:
    """A host's certificate and key, as PEM inside the file."""
    pair = {
        "certificate_chain": {"inline_string": certificate.chain_pem},
        "private_key": {"inline_string": certificate.key_pem},
    }
    return response(KIND, [{"name": host_secret(host), "tls_certificate": pair}])


def peer_files(tls: PeerTls) -> dict[str, bytes]:
    """The node's own certificate, by reference: Envoy follows the files it names when they are replaced by rename."""
    pair = {"certificate_chain": {"filename": tls.cert}, "private_key": {"filename": tls.key}}
    return {
        secret_path(PEER): response(KIND, [{"name": PEER, "tls_certificate": pair}]),
        secret_path(_PEER_CA): response(
            KIND, [{"name": _PEER_CA, "validation_context": {"trusted_ca": {"filename": tls.ca}}}]
        ),
    }
