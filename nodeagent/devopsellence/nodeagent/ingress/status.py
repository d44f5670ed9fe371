"""Router status of each environment, from Envoy's state and known problems. Pure.

A confirmed state stays confirmed while a change is in progress: a cutover is not worth a change of status.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from devopsellence.nodeagent.envoy.admin import EnvoyState, ExpectedVersion, listeners_statistic, routes_statistic
from devopsellence.nodeagent.envoy.model import IngressOptions, NodeRouting, RouterStatus, RoutingConfig
from devopsellence.nodeagent.envoy.routes import HTTP
from devopsellence.nodeagent.envoy.tls import SECRETS, served_certificates
from devopsellence.store.keys import EnvironmentRef

NOT_ROUTED_YET = "not routed yet"


class RouterStatusTracker:
    """The router's knowledge of Envoy, from which statuses follow; the router reports everything it learns here.

    ``conflicts``: host conflicts by environment. ``ports``: problems by port. ``waits``: why nothing is written now.
    """

    def __init__(self, options: IngressOptions) -> None:
        self.conflicts: Mapping[EnvironmentRef, str] = {}
        self.ports: Mapping[int, str] = {}
        self.waits = ""
        self._options = options
        self._routing = NodeRouting()
        self._left_out: Mapping[EnvironmentRef, str] = {}
        self._running = False
        self._envoy_problem = ""
        self._envoy_failed = False
        self._config_problem = ""
        self._admin_problem = ""
        self._unused_files: frozenset[str] | None = None
        self._listening: frozenset[int] = frozenset()
        self._served: frozenset[EnvironmentRef] = frozenset()
        self._serials: dict[str, str] = {}
        self._tokens: frozenset[str] = frozenset()

    def files_written(self, routing: NodeRouting, left_out: Mapping[EnvironmentRef, str]) -> None:
        """Note that Envoy's files hold ``routing``. ``left_out``: reasons of environments missing from the files."""
        self._routing, self._left_out, self._unused_files = routing, left_out, None
        self._served &= {config.ref for config in routing.configs}
        serials = {
            host: certificate.serial for config in routing.configs for host, certificate in config.certificates.items()
        }
        self._serials = {host: serial for host, serial in self._serials.items() if serials.get(host) == serial}
        self._tokens &= _tokens(routing)

    def envoy_restarted(self) -> None:
        """Note a restart of Envoy: the files in use are unknown."""
        self._unused_files = None

    def set_envoy(self, *, running: bool, problem: str, failed: bool) -> None:
        """Note the state of Envoy's container."""
        self._running, self._envoy_problem, self._envoy_failed = running, problem, failed
        if not running:
            self._served, self._tokens, self._serials, self._listening = frozenset(), frozenset(), {}, frozenset()
            self._admin_problem = self._config_problem = ""

    def observe(self, state: EnvoyState, files: Mapping[str, ExpectedVersion]) -> frozenset[str]:
        """Note Envoy's state; return the paths of the files that Envoy does not use (yet)."""
        unused = {
            statistic for statistic, expected in files.items() if state.versions.get(statistic) != expected.version
        }
        self._unused_files = frozenset(files[statistic].path for statistic in unused)
        self._admin_problem = ""
        self._listening = state.ports
        if not self._unused_files:
            self._config_problem = ""
        if listeners_statistic() in files and listeners_statistic() not in unused:
            self._serials = {
                host: certificate.serial
                for config in self._routing.configs
                for host, certificate in served_certificates(config).items()
            }
        if (statistic := routes_statistic(HTTP)) in files and statistic not in unused:
            self._tokens = _tokens(self._routing)
        return self._unused_files

    def endpoints_observed(self, unconfirmed: frozenset[EnvironmentRef]) -> None:
        """Note, after :meth:`observe`, the environments with endpoints that Envoy does not use yet."""
        if not self._unused_files:
            self._served |= {config.ref for config in self._routing.configs} - unconfirmed

    def config_rejected(self, details: str) -> None:
        """Note that Envoy rejects its configuration, with Envoy's reason."""
        self._config_problem = f"Envoy does not accept its configuration: {details}"

    def admin_unavailable(self, problem: str) -> None:
        """Note that Envoy's admin API has not responded for a while."""
        self._admin_problem = problem

    def write_failed(self, problem: str) -> None:
        """Note that Envoy's files cannot be written."""
        self._config_problem = problem

    def is_unsettled(self, files: Mapping[str, ExpectedVersion]) -> bool:
        """Return whether Envoy has not confirmed all files yet."""
        return bool(files) and (self._unused_files is None or bool(self._unused_files))

    def uses_secrets(self) -> bool:
        """Return whether Envoy uses the secrets in its files; while none runs, the next one will."""
        if not self._running:
            return True
        return self._unused_files is not None and not any(path.startswith(SECRETS) for path in self._unused_files)

    def listens_on(self, port: int) -> bool:
        """Return whether Envoy listens on a port, as last observed."""
        return bool(port) and self._running and port in self._listening

    def status(self, config: RoutingConfig | None) -> RouterStatus:
        """Return the status of an environment's routing configuration."""
        if config is None:
            return RouterStatus(failed=True, reason="nothing is routed")
        http, https = self._options.http_port, self._options.https_port
        http = http if self.listens_on(http) else 0
        https = https if config.tls and self.listens_on(https) else 0
        serving = self._running and config.ref in self._served and bool(http or https)
        problems = list(self._problems(config))
        reason = "; ".join(problems) or self._envoy_problem or ("" if serving else NOT_ROUTED_YET)
        tokens = _tokens(NodeRouting((config,)))
        return RouterStatus(
            serving=serving,
            failed=bool(problems),
            reason=reason,
            http_port=http,
            https_port=https,
            certificates={
                host: self._serials[host] for host in sorted(config.hosts) if host in self._serials and https
            },
            challenges=frozenset(tokens & self._tokens) if http else frozenset(),
            configured_ports=(self._options.http_port, self._options.https_port),
        )

    def _problems(self, config: RoutingConfig) -> Iterable[str]:
        """Yield the problems that do not go away soon by themselves."""
        if not (self._options.http_port or self._options.https_port):
            yield "this agent was started without ports for requests: give --ingress-http-port and --ingress-https-port"
        if self._envoy_failed and self._envoy_problem:
            yield self._envoy_problem
        if config.ref in self.conflicts:
            yield self.conflicts[config.ref]
        if config.ref in self._left_out:
            yield self._left_out[config.ref]
        for port in (self._options.http_port, self._options.https_port if config.tls else 0):
            if port in self.ports:
                yield self.ports[port]
        yield from filter(None, (self.waits, self._admin_problem, self._config_problem))


def _tokens(routing: NodeRouting) -> frozenset[str]:
    return frozenset(
        token for config in routing.configs for challenges in config.challenges.values() for token, _ in challenges
    )
