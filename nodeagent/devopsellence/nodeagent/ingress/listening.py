"""Where Envoy may be told to listen, what is wrong with other ports, and the certificate for other nodes' routers."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from functools import partial
from typing import Final

import structlog

from devopsellence.nodeagent.envoy.container import FOLDER
from devopsellence.nodeagent.envoy.files import AUTHORITY, CERTIFICATE, KEY, NODE_FOLDER, EnvoyFolder
from devopsellence.nodeagent.envoy.model import Listen, PeerTls, Routing
from devopsellence.nodeagent.envoy.options import IngressOptions
from devopsellence.nodeagent.ingress.ports import has_ipv6, why_not
from devopsellence.nodeagent.tls import Files
from devopsellence.nodeagent.util.threads import Pool

RETRY_FIRST: Final = 1.0
RETRY_CAP: Final = 30.0
#: The node's own certificate is looked at so often.
FOLLOW_SECONDS: Final = 60.0
_log = structlog.get_logger()


class Listening:
    """``open``: ports that may be listened on, because they were free or are Envoy's already. ``problems``: why not, of
    others. ``any``: whether there is any port for requests from outside in the options."""

    def __init__(
        self,
        options: IngressOptions,
        folder: EnvoyFolder,
        disk: Pool,
        certificate: Files | None,
        check: Callable[[int, str], str] = why_not,
    ) -> None:
        self.open: frozenset[int] = frozenset()
        self.problems: dict[int, str] = {}
        self.any = bool(options.http_port or options.https_port)
        self._options = options
        self._names = {
            options.http_port: "--ingress-http-port",
            options.https_port: "--ingress-https-port",
            options.peer_port: "--ingress-peer-port",
        }
        self._folder = folder
        self._disk = disk
        self._certificate = certificate
        self._check = check
        self._ipv6 = has_ipv6()
        self._attempts = 0
        self._again = 0.0
        self._follow_at = 0.0
        self._followed = False

    def ours(self, ports: Iterable[int]) -> None:
        """Envoy listens on these, and on no others."""
        self.open = frozenset(ports)

    async def look(self, routing: Routing) -> Listen:
        """Where Envoy is to listen for these sites. Ports that could not be had are tried again when it is time."""
        wanted = self._wanted(routing)
        await self._look_at(wanted - self.open)
        if self._certificate is not None and self._options.peer_port in wanted:
            await self._follow(self._certificate)
        ports = wanted & self.open
        options = self._options
        # Envoy is told of other nodes once the certificate for them is there.
        names = (f"{FOLDER}/{NODE_FOLDER}/{name}" for name in (AUTHORITY, CERTIFICATE, KEY))
        return Listen(
            http_port=options.http_port if options.http_port in ports else 0,
            https_port=options.https_port if options.https_port in ports else 0,
            peer_port=options.peer_port if options.peer_port in ports and self._followed else 0,
            peer_tls=PeerTls(*names) if self._followed else None,
            ipv6=self._ipv6,
        )

    def next_look(self, routing: Routing) -> float | None:
        """When (monotonic) there is something to look at again for these sites."""
        wanted = self._wanted(routing)
        moments = [self._again] if wanted - self.open else []
        if self._options.peer_port in wanted:
            moments.append(self._follow_at)
        return min(moments, default=None)

    def _wanted(self, routing: Routing) -> frozenset[int]:
        if not routing.sites:
            return frozenset()
        options = self._options
        https = options.https_port if any(site.tls for site in routing.sites) else 0
        peer = options.peer_port if self._certificate is not None else 0
        return frozenset({options.http_port, https, peer} - {0})

    async def _look_at(self, missing: frozenset[int]) -> None:
        now = time.monotonic()
        if now < self._again and missing <= self.problems.keys():
            return
        found = {port: await self._disk.run(partial(self._check, port, self._names[port])) for port in sorted(missing)}
        self.problems = {port: problem for port, problem in found.items() if problem}
        self.open |= found.keys() - self.problems.keys()
        self._attempts = self._attempts + 1 if self.problems else 0
        self._again = now + min(RETRY_CAP, RETRY_FIRST * 2.0**self._attempts)

    async def _follow(self, certificate: Files) -> None:
        """Give Envoy the node's own certificate as it is now."""
        if time.monotonic() < self._follow_at:
            return
        self._follow_at = time.monotonic() + FOLLOW_SECONDS
        try:
            await self._disk.run(partial(self._folder.follow, certificate))
        except OSError as error:
            _log.warning("the node's certificate cannot be given to the router", error=str(error))
        else:
            self._followed = True
