"""Fake router: routes without Envoy, and holds containers until a test ends their requests."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from devopsellence.nodeagent.envoy.model import RouterStatus, RoutingConfig
from devopsellence.store.keys import EnvironmentRef


class FakeRouter:
    """Fake of :class:`devopsellence.nodeagent.ingress.interface.RouterInterface`.

    The state outlives an agent, as a router's files do: give the same fake to the next agent, with a new ``changed``.
    ``configs``: the newest routing configurations. Requests are under way on every container ever routed to, until
    :meth:`end_requests`.
    """

    def __init__(self) -> None:
        self.changed: Callable[[EnvironmentRef], None] = lambda ref: None
        self.configs: dict[EnvironmentRef, RoutingConfig | None] = {}
        self._draining: dict[EnvironmentRef, set[str]] = {}

    async def load(self) -> None:
        pass

    async def run(self) -> None:
        pass

    def set_routing(self, ref: EnvironmentRef, config: RoutingConfig | None) -> None:
        before, self.configs[ref] = self.routed(ref), config
        draining = self._draining.setdefault(ref, set())
        draining |= before - self.routed(ref)
        draining -= self.routed(ref)

    def routing(self, ref: EnvironmentRef) -> RoutingConfig | None:
        return self.configs.get(ref)

    def held(self, ref: EnvironmentRef) -> Mapping[str, str]:
        draining = dict.fromkeys(self._draining.get(ref, ()), "1 request is under way")
        return draining | dict.fromkeys(self.routed(ref), "serves")

    def status(self, ref: EnvironmentRef) -> RouterStatus:
        config = self.configs.get(ref)
        if config is None:
            return RouterStatus()
        return RouterStatus(
            serving=True,
            http_port=80,
            https_port=443,
            certificates={host: certificate.serial for host, certificate in config.certificates.items()},
            challenges=frozenset(token for challenges in config.challenges.values() for token, _ in challenges),
        )

    def routed(self, ref: EnvironmentRef) -> set[str]:
        """Return the ids of the containers that get new requests."""
        config = self.configs.get(ref)
        if config is None:
            return set()
        return {endpoint.container for backend in config.backends for endpoint in backend.endpoints}

    def draining(self, ref: EnvironmentRef) -> set[str]:
        """Return the ids of the containers that get no new requests, and have requests under way."""
        return set(self._draining.get(ref, ()))

    def end_requests(self, ref: EnvironmentRef) -> None:
        """End all requests on draining containers."""
        self._draining.pop(ref, None)
        self.changed(ref)
