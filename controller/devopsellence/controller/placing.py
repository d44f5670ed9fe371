"""Which services of a release each attached node is to run. Pure.

The rule itself is ``devopsellence.placement``, which the command line asks as well; here it is given what only the
controller knows: what runs where now, since when a node has been silent, and which nodes are being drained.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from devopsellence.api.v1 import stored_pb2 as pb
from devopsellence.controller.world import Moment, World
from devopsellence.placement import placed_on


@dataclass(frozen=True, slots=True)
class Placing:
    """What :func:`place` answers.

    ``services`` are names by node: of a node that takes part, what it is to run of the release; of one that is being
    drained, what it may go on running of what it has. A node that is not here is left at what it has.
    """

    services: Mapping[str, frozenset[str]] = field(default_factory=dict)
    # When to look again if nothing changes, in seconds; None: never.
    recheck_after: float | None = None


def place(world: World, attached: frozenset[str], release: pb.Release, now: Moment) -> Placing:
    """Where the services of ``release`` are to run, on the ``attached`` nodes of ``world``."""
    del now
    services: dict[str, frozenset[str]] = {}
    for view in world.nodes:
        node = view.node.message if view.node is not None else None
        if view.name in attached and node is not None:
            services[view.name] = frozenset(service.name for service in placed_on(node, release.services))
    return Placing(services)
