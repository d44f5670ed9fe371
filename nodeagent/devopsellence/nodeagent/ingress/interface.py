"""What the agent's loop asks of a router, as a protocol: :class:`router.Router` is one answer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from devopsellence.nodeagent.envoy.model import RouterStatus, Site
from devopsellence.store.keys import EnvironmentRef


class Routes(Protocol):
    """Lives on the event loop; nothing here blocks. It tells whoever made it when an answer below is another.

    First :meth:`load`, then :meth:`run`; the rest may be called as soon as the first has returned.
    """

    async def load(self) -> None:
        """Take up what is on disk: the containers that were routed to are held from then on."""

    async def run(self) -> None:
        """Route until cancelled."""

    def want(self, env: EnvironmentRef, site: Site | None) -> None:
        """Route an environment so from now on, or not at all. The same again costs nothing.

        An endpoint that was routed to and is not in ``site`` any more is drained: the router keeps it, without new
        requests, until those under way have ended or the site's drain limit has passed.
        """

    def held(self, env: EnvironmentRef) -> Mapping[str, str]:
        """The containers that must not be stopped yet, by id, with the reason as the end of a sentence ("serves",
        "3 requests are under way"): those that requests still go to, and those that are being drained. One that was
        given to :meth:`want` is held from that moment on."""

    def status(self, env: EnvironmentRef) -> RouterStatus:
        """How the router fares with what it was last given for an environment."""


class NoRoutes:
    """Routes nothing and holds nothing: of agents that are no machine's ingress."""

    async def load(self) -> None:
        pass

    async def run(self) -> None:
        pass

    def want(self, env: EnvironmentRef, site: Site | None) -> None:
        pass

    def held(self, env: EnvironmentRef) -> Mapping[str, str]:
        return {}

    def status(self, env: EnvironmentRef) -> RouterStatus:
        return RouterStatus(failed=True, reason="this agent routes nothing")
