"""TLS for Envoy: host certificates inside the listener, and the certificate of this node's router for other routers.

Host certificates are not files of their own (SDS), although a renewal would then touch nothing else: Envoy uses an
inotify instance for every such file and aborts when the kernel has none left. A user has 128 by default
(``fs.inotify.max_user_instances``).
"""

from __future__ import annotations

from typing import Final

from devopsellence.agent_identity import NODE_DOMAIN, ROUTER_DOMAIN
from devopsellence.nodeagent.envoy.model import ListenerConfig, PeerTls, RoutingConfig, TlsCertificate
from devopsellence.nodeagent.envoy.resources import Message, response, source

KIND: Final = "envoy.extensions.transport_sockets.tls.v3.Secret"
#: Folder of the secrets.
SECRETS: Final = "sds/"
#: Secrets with the router's own certificate, and with the authorities of peers' certificates.
PEER: Final = "peer"
_PEER_CA: Final = "peer-ca"


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
    return f"{SECRETS}{name}.json"


def secret_source(name: str, folder: str) -> Message:
    """Return the reference of a TLS context to a secret."""
    return {"name": name, "sds_config": source(folder, secret_path(name))}


def peer_validation(folder: str) -> Message:
    """Return the reference of a TLS context to the authorities of peers."""
    return secret_source(_PEER_CA, folder)


def router_names() -> list[Message]:
    """Return the matchers for certificates of routers.

    Without a gateway that signs these, and in earlier versions, a router has the certificate of its node.
    """
    return [{"san_type": "DNS", "matcher": {"suffix": f".{domain}"}} for domain in (ROUTER_DOMAIN, NODE_DOMAIN)]


def certificate_and_key(certificate: TlsCertificate) -> Message:
    """Return a host's certificate and key for a TLS context."""
    return _chain_and_key(certificate.chain_pem, certificate.key_pem)


def peer_files(tls: PeerTls) -> dict[str, bytes]:
    """Return the secrets for traffic between routers, by path in the folder.

    Certificate and key are in one file, so Envoy never sees one of them without the other.
    """
    own = _chain_and_key(tls.certificate, tls.key)
    trusted = {"trusted_ca": {"inline_string": tls.authorities}}
    return {
        secret_path(PEER): response(KIND, [{"name": PEER, "tls_certificate": own}]),
        secret_path(_PEER_CA): response(KIND, [{"name": _PEER_CA, "validation_context": trusted}]),
    }


def _chain_and_key(chain: str, key: str) -> Message:
    return {"certificate_chain": {"inline_string": chain}, "private_key": {"inline_string": key}}
