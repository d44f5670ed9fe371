"""Scale: a controller and an etcd with a thousand nodes; hollow agents, or plain records without agents.

The same through two gateways, with the certificate of each node, up to five thousand nodes.
"""

from __future__ import annotations

from typing import Final

from bench.report import Figure
from bench.scale import action, changes, delivery, gateway_delivery, gateway_rollout, rollout

#: Nodes with a watch each.
_WATCHED: Final = (300, 1000, 3000, 5000)
#: Nodes with a hollow agent each, of which thousands need more than two cores.
_WITH_AGENTS: Final = (300, 1000)


async def all_figures(runs: int) -> list[Figure]:
    """Measure rollout to a thousand nodes, idle cost, cost of a status change, and reaction time of a node."""
    parts = (delivery.figures, rollout.figures, changes.figures, action.figures)
    return [figure for part in parts for figure in await part(runs)]


async def gateway_figures(runs: int) -> list[Figure]:
    """Measure delivery, rollout and idle cost through two gateways."""
    delivered = await gateway_delivery.figures(runs, sizes=_WATCHED)
    return [*delivered, *await gateway_rollout.figures(runs, sizes=_WITH_AGENTS)]
