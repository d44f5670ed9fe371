"""A router without Envoy: it routes nowhere, and holds containers for as long as the test says."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from devopsellence.nodeagent.envoy.model import RouterStatus, RoutingConfig
from devopsellence.store.keys import EnvironmentRef


class FakeRouter:
    """Answers as :class:`devopsellence.nodeagent.ingress.interface.Routes`. What it routes to outlives an agent, as a
    router's files do: give the same one to the next, with another ``changed``.

    ``sites`` is what was asked for last. Requests are under way on every container that was ever routed to, until
    :meth:`end_requests`.
    """

    def __init__(self) -> None:
        self.changed: Callable[[EnvironmentRef], None] = lambda env: None
        self.sites: dict[EnvironmentRef, RoutingConfig | None] = {}
        self._draining: dict[EnvironmentRef, set[str]] = {}

    async def load(self) -> None:
        pass

    async def run(self) -> None:
        pass

    def want(self, env: EnvironmentRef, site: RoutingConfig | None) -> None:
        before, self.sites[env] = self.routed(env), site
        draining = self._draining.setdefault(env, set())
        draining |= before - self.routed(env)
        draining -= self.routed(env)

    def held(self, env: EnvironmentRef) -> Mapping[str, str]:
        draining = dict.fromkeys(self._draining.get(env, ()), "1 request is under way")
        return draining | dict.fromkeys(self.routed(env), "serves")

    def status(self, env: EnvironmentRef) -> RouterStatus:
        site = self.sites.get(env)
        if site is None:
            return RouterStatus()
        return RouterStatus(
            serving=True,
            http_port=80,
            https_port=443,
            certificates={host: each.serial for host, each in site.certificates.items()},
            challenges=frozenset(token for challenge in site.challenges.values() for token, _ in challenge),
        )

    def routed(self, env: EnvironmentRef) -> set[str]:
        """The containers (ids) that new requests go to."""
        site = self.sites.get(env)
        return {one.container for backend in site.backends for one in backend.endpoints} if site is not None else set()

    def draining(self, env: EnvironmentRef) -> set[str]:
        """Those that get no new ones, and have some under way."""
        return set(self._draining.get(env, ()))

    def end_requests(self, env: EnvironmentRef) -> None:
        """No request is under way any more where no new ones go."""
        self._draining.pop(env, None)
        self.changed(env)
