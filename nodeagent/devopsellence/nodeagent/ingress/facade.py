"""Ingress as the reconcile loop sees it: routing of an environment in, held containers and ingress status out."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import replace

from devopsellence.api.v1 import stored_pb2
from devopsellence.clock import Now
from devopsellence.nodeagent.ingress.interface import RouterInterface
from devopsellence.nodeagent.ingress.node_ingress import NodeIngressMirror
from devopsellence.nodeagent.ingress.routing import ingress_status, plan_routing, with_former_inputs
from devopsellence.nodeagent.plan.actions import Action, ActionKind, ServicePlan
from devopsellence.nodeagent.plan.spec import Desired
from devopsellence.store.keys import EnvironmentRef


class IngressFacade:
    """Router and node ingress mirror together. Lives on the event loop; ``clock`` reads the time."""

    def __init__(self, router: RouterInterface, mirror: NodeIngressMirror, clock: Callable[[], Now]) -> None:
        self._router = router
        self._mirror = mirror
        self._clock = clock

    def held(self, ref: EnvironmentRef) -> Mapping[str, str]:
        """Return the containers that must not be stopped yet: reason by container id."""
        return self._router.held(ref)

    def follow(
        self, desired: Desired, services: Iterable[ServicePlan], busy: Collection[Action]
    ) -> stored_pb2.IngressStatus | None:
        """Route an environment according to its plan; return the ingress status, None without an ingress here.

        ``busy``: actions in progress.
        """
        ref = desired.ref
        hosts = [host.lower() for host in desired.ingress.hosts] if desired.ingress is not None else ()
        self._mirror.prune(ref, hosts)
        inputs = self._mirror.inputs(ref)
        stopping = {action.container for action in busy if action.kind is ActionKind.STOP}
        routing = plan_routing(desired, services, inputs, stopping, self._clock())
        if routing.config is not None and self._mirror.is_incomplete(ref):
            routing = replace(routing, config=with_former_inputs(routing.config, self._router.routing(ref)))
        self._router.set_routing(ref, routing.config)
        return ingress_status(routing, inputs, self._router.status(ref))

    def unassigned(self, ref: EnvironmentRef) -> None:
        """Drop everything deleted in etcd, of an environment without a known assignment; routing stays as it is."""
        self._mirror.prune(ref, ())

    def forget(self, ref: EnvironmentRef) -> None:
        """Forget an environment that left this node."""
        self._mirror.forget(ref)
