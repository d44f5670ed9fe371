"""Router as a protocol, for the agent's reconcile loop: implemented by ``router.Router`` and by fakes in tests."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from devopsellence.nodeagent.envoy.model import RouterStatus, RoutingConfig
from devopsellence.store.keys import EnvironmentRef


class RouterInterface(Protocol):
    """Router of one node. Lives on the event loop; no method blocks.

    Call :meth:`load` first, then :meth:`run`; all other methods may be called once :meth:`load` has returned. The
    router calls its creator back when :meth:`held` or :meth:`status` changes for an environment.
    """

    async def load(self) -> None:
        """Load the state on disk: containers of earlier routing are held from now on."""

    async def run(self) -> None:
        """Route until cancelled."""

    def set_routing(self, ref: EnvironmentRef, config: RoutingConfig | None) -> None:
        """Route an environment as in ``config`` from now on; None: do not route. Cheap if nothing changed.

        An endpoint missing from the new ``config`` drains: the router keeps the endpoint, without new requests, until
        current requests have ended or the drain limit of the configuration has passed.
        """

    def routing(self, ref: EnvironmentRef) -> RoutingConfig | None:
        """Return the routing of an environment, as set or as loaded from disk; None if there is none."""

    def held(self, ref: EnvironmentRef) -> Mapping[str, str]:
        """Return the containers that must not be stopped yet: reason by container id.

        Containers are held from :meth:`set_routing` on, while requests go to them and while they drain. A reason is the
        end of a sentence ("serves", "3 requests are under way").
        """

    def status(self, ref: EnvironmentRef) -> RouterStatus:
        """Return the status of the newest routing configuration of an environment."""


class NoRouter:
    """Router of agents without ingress: routes nothing and holds no container."""

    async def load(self) -> None:
        pass

    async def run(self) -> None:
        pass

    def set_routing(self, ref: EnvironmentRef, config: RoutingConfig | None) -> None:
        pass

    def routing(self, ref: EnvironmentRef) -> RoutingConfig | None:
        return None

    def held(self, ref: EnvironmentRef) -> Mapping[str, str]:
        return {}

    def status(self, ref: EnvironmentRef) -> RouterStatus:
        return RouterStatus(failed=True, reason="this agent routes nothing")
