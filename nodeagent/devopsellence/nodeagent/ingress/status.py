"""How the router fares with each environment: what Envoy was seen to use, and what is in the way. Pure.

What was confirmed once stays confirmed while a change of it is under way, for a while: a cutover is nothing that has to
be told.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from devopsellence.nodeagent.envoy.admin import Expected, Seen, listeners, routes
from devopsellence.nodeagent.envoy.model import IngressOptions, RouterStatus, Routing, Site
from devopsellence.nodeagent.envoy.routes import HTTP
from devopsellence.nodeagent.envoy.tls import served
from devopsellence.store.keys import EnvironmentRef

NOT_YET = "the router has yet to take it over"


class Standing:
    """Told by the router of all it learns. ``conflicts``: by environment; ``ports``: problems by port."""

    def __init__(self, options: IngressOptions) -> None:
        self.conflicts: Mapping[EnvironmentRef, str] = {}
        self.ports: Mapping[int, str] = {}
        self._options = options
        self._routing = Routing()
        self._told: Mapping[EnvironmentRef, str] = {}
        self._running = False
        self._problem = ""
        self._failed = False
        self._refused = ""
        self._silent = ""
        self._unused: frozenset[str] | None = None
        self._listening: frozenset[int] = frozenset()
        self._served: frozenset[EnvironmentRef] = frozenset()
        self._versions_known: frozenset[EnvironmentRef] = frozenset()
        self._serials: dict[str, str] = {}
        self._tokens: frozenset[str] = frozenset()

    def wrote(self, routing: Routing, told: Mapping[EnvironmentRef, str]) -> None:
        """Envoy's files hold this now. ``told``: of environments that they do not hold as they should."""
        self._routing, self._told, self._unused = routing, told, None
        there = {site.env for site in routing.sites}
        self._served &= there
        wanted = {host: each.serial for site in routing.sites for host, each in site.certificates.items()}
        self._serials = {host: serial for host, serial in self._serials.items() if wanted.get(host) == serial}
        self._tokens &= _tokens(routing)

    def restarted(self) -> None:
        """Envoy has begun anew: it has to be looked at."""
        self._unused = None

    def envoy(self, *, running: bool, problem: str, failed: bool) -> None:
        """How its container is."""
        self._running, self._problem, self._failed = running, problem, failed
        if not running:
            self._served, self._tokens, self._serials, self._listening = frozenset(), frozenset(), {}, frozenset()
            self._silent = self._refused = ""

    def saw(self, seen: Seen, files: Mapping[str, Expected]) -> frozenset[str]:
        """Envoy has answered. The files that it does not use (yet)."""
        unused = {statistic for statistic, each in files.items() if seen.versions.get(statistic) != each.version}
        self._unused = frozenset(files[statistic].path for statistic in unused)
        self._silent = ""
        self._listening = seen.ports
        if not self._unused:
            self._refused = ""
        if listeners() in files and listeners() not in unused:
            self._serials = {host: each.serial for site in self._routing.sites for host, each in served(site).items()}
        if (name := routes(HTTP)) in files and name not in unused:
            self._tokens = _tokens(self._routing)
        return self._unused

    def placed(self, unplaced: frozenset[EnvironmentRef]) -> None:
        """After :meth:`saw`: Envoy has all endpoints but those of these environments."""
        if not self._unused:
            self._served |= {site.env for site in self._routing.sites} - unplaced

    def refused(self, details: str) -> None:
        """Envoy does not take what it was given, and says this."""
        self._refused = f"Envoy does not take its configuration: {details}"

    def silent(self, problem: str) -> None:
        """Envoy has not answered for a while."""
        self._silent = problem

    def trouble(self, problem: str) -> None:
        """Nothing can be written."""
        self._refused = problem

    def unsettled(self, files: Mapping[str, Expected]) -> bool:
        """Whether Envoy has yet to be seen to use all files."""
        return bool(files) and (self._unused is None or bool(self._unused))

    def listens(self, port: int) -> bool:
        """Whether Envoy was seen to listen there."""
        return bool(port) and self._running and port in self._listening

    def of(self, site: Site | None) -> RouterStatus:
        """How it fares with an environment."""
        if site is None:
            return RouterStatus(failed=True, reason="nothing is routed")
        http, https = self._options.http_port, self._options.https_port
        http = http if self.listens(http) else 0
        https = https if site.tls and self.listens(https) else 0
        serving = self._running and site.env in self._served and bool(http or https)
        wrong = list(self._wrong(site))
        reason = "; ".join(wrong) or self._problem or ("" if serving else NOT_YET)
        tokens = _tokens(Routing((site,)))
        return RouterStatus(
            serving=serving,
            failed=bool(wrong),
            reason=reason,
            http_port=http,
            https_port=https,
            certificates={host: self._serials[host] for host in sorted(site.hosts) if host in self._serials and https},
            challenges=frozenset(tokens & self._tokens) if http else frozenset(),
        )

    def _wrong(self, site: Site) -> Iterable[str]:
        """What will not come by itself, or not soon."""
        if not (self._options.http_port or self._options.https_port):
            yield "this agent was started without ports for requests: give --ingress-http-port and --ingress-https-port"
        if self._failed and self._problem:
            yield self._problem
        if site.env in self.conflicts:
            yield self.conflicts[site.env]
        if site.env in self._told:
            yield self._told[site.env]
        for port in (self._options.http_port, self._options.https_port if site.tls else 0):
            if port in self.ports:
                yield self.ports[port]
        yield from filter(None, (self._silent, self._refused))


def _tokens(routing: Routing) -> frozenset[str]:
    return frozenset(
        token for site in routing.sites for challenges in site.challenges.values() for token, _ in challenges
    )
