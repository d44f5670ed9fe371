"""Hung containers in a plan: left alone and named, so that everything else goes on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from devopsellence.nodeagent.docker.model import Container
from devopsellence.nodeagent.plan.actions import Action

#: Time without an answer after which the container's service counts as failed.
FAIL_SECONDS: Final = 60.0


@dataclass(frozen=True, slots=True)
class HungVerdict:
    """Effect of hung containers on their service. ``wake``: time (monotonic) at which ``failed`` changes."""

    reason: str = ""
    failed: bool = False
    wake: float | None = None


def hung_containers(containers: Iterable[Container], hung: Mapping[str, float], now: float) -> HungVerdict:
    """Return what a service's containers about which the engine does not answer mean; ``now``: monotonic seconds."""
    found = [container for container in containers if container.id in hung]
    if not found:
        return HungVerdict()
    first = min(found, key=lambda container: (hung[container.id], container.name, container.id))
    reason = (
        f"the Docker Engine does not answer about container {first.name}: its containerd-shim is stopped or stuck; on "
        f"the node, run: pkill -KILL -f 'containerd-shim.* -id {first.id[:12]}'"
    )
    fails_at = hung[first.id] + FAIL_SECONDS
    failed = now >= fails_at
    return HungVerdict(reason, failed, None if failed else fails_at)


def without_hung(actions: Sequence[Action], hung: Mapping[str, float]) -> tuple[Action, ...]:
    """Return ``actions`` up to the first one on a hung container."""
    for index, action in enumerate(actions):
        if action.container in hung:
            return tuple(actions[:index])
    return tuple(actions)
