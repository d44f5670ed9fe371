"""Settings that were changed by hand with ``docker update``: set back to those of the spec.

A restart policy above all: the engine would restart what the agent counts, backs off, replaces and removes.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from devopsellence.nodeagent.docker.model import Container, ContainerState
from devopsellence.nodeagent.plan.actions import Action, ActionKind
from devopsellence.nodeagent.plan.container_config import changed_settings
from devopsellence.nodeagent.plan.service_state import action_on
from devopsellence.nodeagent.plan.spec import DesiredService

_GOING: Final = frozenset({ContainerState.REMOVING, ContainerState.DEAD})


def settings_back(containers: Iterable[Container], assigned: DesiredService | None = None) -> tuple[Action, ...]:
    """Return the actions that set settings back. ``assigned``: the spec of the containers with its hash; the specs of
    others are not known, so only their restart policy is."""
    actions = []
    for container in containers:
        is_assigned = assigned is not None and container.hash == assigned.hash and not container.task
        spec = assigned.spec if assigned is not None and is_assigned else None
        changed = changed_settings(spec, container.settings)
        if changed and container.state not in _GOING:
            reason = f"changed by hand: {', '.join(changed)}"
            actions.append(action_on(ActionKind.UPDATE, reason, container))
    return tuple(actions)
