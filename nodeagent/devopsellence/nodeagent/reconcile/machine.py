"""The machine below the reconcile loop: container engine, probe calls, image pulls from peers, router."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeAlias, TypeVar

from devopsellence.api.v1.stored_pb2 import Peer
from devopsellence.nodeagent.docker.interface import ContainerEngine
from devopsellence.nodeagent.health.probe import ProbeCall
from devopsellence.nodeagent.ingress.interface import NoRouter, RouterInterface
from devopsellence.nodeagent.plan.probe_spec import Probe

#: Pull an image by its id from one of these nodes; the callback gets progress sentences.
PullFromPeers: TypeAlias = Callable[[str, Sequence[Peer], Callable[[str], None]], Awaitable[None]]
#: Return the call for a probe of a container (id) at an address.
ProbeCallOf: TypeAlias = Callable[[Probe, str, str], ProbeCall]
R_co = TypeVar("R_co", bound=ContainerEngine, covariant=True)


@dataclass(frozen=True)
class Machine(Generic[R_co]):
    """Engine, probes, peers and router of one agent: real ones, or those of the hollow fleet (bench/hollow)."""

    engine: R_co
    probe_call: ProbeCallOf
    #: None: images come from registries only.
    pull_from_peers: PullFromPeers | None = None
    router: RouterInterface = field(default_factory=NoRouter)
