"""What the reconciler knows of ingress: what requests go to is given to the router, and how that fares comes back."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping

from devopsellence.api.v1 import stored_pb2
from devopsellence.nodeagent.docker.model import Now
from devopsellence.nodeagent.ingress.interface import Routes
from devopsellence.nodeagent.ingress.node_ingress import Parts
from devopsellence.nodeagent.ingress.site import sited, status
from devopsellence.nodeagent.plan.actions import Action, Kind, ServicePlan
from devopsellence.nodeagent.plan.spec import Desired
from devopsellence.store.keys import EnvironmentRef


class Ingress:
    """Lives on the event loop. ``clock`` tells the time."""

    def __init__(self, routes: Routes, parts: Parts, clock: Callable[[], Now]) -> None:
        self._routes = routes
        self._parts = parts
        self._clock = clock

    def held(self, env: EnvironmentRef) -> Mapping[str, str]:
        """As :attr:`model.Observed.held`."""
        return self._routes.held(env)

    def follow(
        self, want: Desired, services: Iterable[ServicePlan], busy: Collection[Action]
    ) -> stored_pb2.IngressStatus | None:
        """Have an environment routed as its plan has it; how that fares, None if it has no ingress here. ``busy``: the
        actions under way."""
        env = want.env
        self._parts.keep(env, [host.lower() for host in want.ingress.hosts] if want.ingress is not None else ())
        given = self._parts.of(env)
        stopping = {each.container for each in busy if each.kind is Kind.STOP}
        found = sited(want, services, given, stopping, self._clock())
        self._routes.want(env, found.site)
        return status(found, given, self._routes.status(env))

    def unassigned(self, env: EnvironmentRef) -> None:
        """No assignment of it is known: what is routed stays, but nothing is kept that etcd has no more."""
        self._parts.keep(env, ())

    def forget(self, env: EnvironmentRef) -> None:
        """The environment left this node."""
        self._parts.forget(env)
