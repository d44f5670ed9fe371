"""State of one assigned service on this node, as the planner reads it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from devopsellence.clock import Now
from devopsellence.nodeagent.docker.model import Container, ContainerState, Health, Network, Observed, ProbeVerdict
from devopsellence.nodeagent.plan.actions import Action, ActionKind, RestartHistories
from devopsellence.nodeagent.plan.history import (
    GIVE_UP,
    NO_HISTORY,
    RESET_SECONDS,
    STABLE_SECONDS,
    TRIAL_SECONDS,
    RestartHistory,
)
from devopsellence.nodeagent.plan.spec import DesiredService

#: Time after which a container without probes is ready: longer than a container that exits at once.
SETTLE_SECONDS: Final = 0.3


@dataclass(frozen=True, slots=True)
class ServiceState:
    """Assignment, containers, probes and restart history of one service."""

    assigned: DesiredService
    network_name: str
    network: Network | None
    #: Container of the assigned spec.
    container: Container | None
    #: Older container, serving until ``container`` has been ready.
    fallback: Container | None
    #: All other containers of the service.
    surplus: tuple[Container, ...]
    #: Probe results of ``container``.
    health: Health
    #: History of the assigned spec.
    history: RestartHistory
    histories: RestartHistories
    now: Now
    #: As in ``Observed.held`` and ``Observed.hung``.
    held: Mapping[str, str]
    hung: Mapping[str, float]

    @property
    def others(self) -> tuple[Container, ...]:
        return (*((self.fallback,) if self.fallback else ()), *self.surplus)

    def shares_volumes(self, other: Container) -> bool:
        """Return True if ``other`` must not run beside the container of the assigned spec: they share a volume.

        Before the creation, an image is taken to declare volumes (``VOLUME``) if that of ``other`` does.
        """
        if self.assigned.stateful:
            return True
        if self.container is None:
            return bool(other.volumes)
        return not set(self.container.volumes.values()).isdisjoint(other.volumes.values())

    @property
    def ready(self) -> bool:
        """Return True if the container of the assigned spec runs now and passes its probes."""
        container = self.container
        if container is None or container.state is not ContainerState.RUNNING:
            return False
        if self.assigned.probes:
            return self.health.verdict is ProbeVerdict.HEALTHY
        return self.now.mono >= container.running_since + SETTLE_SECONDS

    @property
    def running(self) -> bool:
        """Return True if the service is ready now; never for a service that is to complete."""
        return self.ready and not self.assigned.completes

    @property
    def completed(self) -> bool:
        """Return True if the service was to complete and has: exit code 0, and not because the agent stopped it."""
        container = self.container
        if not self.assigned.completes or container is None or container.state is not ContainerState.EXITED:
            return False
        return container.exit_code == 0 and self.history.stopped_container != container.id

    @property
    def has_been_ready(self) -> bool:
        """Return True if this very container is or was ready or completed: older containers are no longer needed."""
        if self.running or self.completed:
            return True
        return self.container is not None and self.history.ready_container == self.container.id

    @property
    def became_unhealthy(self) -> bool:
        """Return True if the container was healthy and is not now.

        "Was healthy" counts also for the time before the agent started, and for a container replaced by this container
        for the same reason.
        """
        container = self.container
        if container is None or container.state is not ContainerState.RUNNING:
            return False
        if self.health.verdict is not ProbeVerdict.UNHEALTHY:
            return False
        return (
            not self.health.past_start_deadline
            or self.history.ready_container == container.id
            or self.history.lapses > 0
        )

    @property
    def replace_at(self) -> float:
        """Earliest time (monotonic) to replace a container that became unhealthy.

        The first replacement is immediate; later ones wait ever longer after the start of the container.
        """
        if self.container is None or not self.history.lapses:
            return 0.0
        container = f"{self.container.environment}/{self.container.service}"
        return self.container.running_since + self.history.lapse_wait(container)

    @property
    def lapses_expire_at(self) -> float | None:
        """Time (monotonic) at which former lapses are forgotten if the service stays healthy; None without lapses."""
        if not self.history.lapses or not self.running:
            return None
        return self.health.since.mono + RESET_SECONDS

    @property
    def cleanup(self) -> Cleanup:
        return Cleanup(self.assigned.spec.name, self.histories, self.now)

    @property
    def past_start_deadline(self) -> bool:
        """Return True if the container is up, never passed its probes, and its start deadline is over."""
        container = self.container
        return container is not None and container.up and bool(self.assigned.probes) and self.health.past_start_deadline

    @property
    def is_output_unread(self) -> bool:
        """Return True if probes fail and the output of the container is not noted yet.

        It is read first of all: it says why, and is gone with the container. Until then the failure is not reported.
        """
        container = self.container
        if container is None or container.state is not ContainerState.RUNNING:
            return False
        return self.health.verdict is ProbeVerdict.UNHEALTHY and not self.history.is_noted_unhealthy(container)

    @property
    def stable_at(self) -> float:
        """Time (monotonic) from which the running container counts as stable."""
        return self.container.running_since + self.history.stable_seconds if self.container else 0.0

    @property
    def lasts_at(self) -> float:
        """Time (monotonic) from which the spec has lasted if its container still runs."""
        return self.container.running_since + TRIAL_SECONDS if self.container else 0.0

    @property
    def lasted(self) -> bool:
        """Return True if a container of the assigned spec has run for a minute, now or before, or has completed."""
        if self.history.lasted or self.completed:
            return True
        return self.running and self.now.mono >= self.lasts_at

    @property
    def trusted_at(self) -> float:
        """Time (monotonic) from which a container without probes counts as settled.

        After an exit soon after a start, the next container has to run for twice as long as the one before, at most for
        ``STABLE_SECONDS``. Otherwise a crash loop would settle between two exits.
        """
        history = self.history
        if self.container is None or self.assigned.probes or not history.unstable or history.last_end is None:
            return 0.0
        return self.container.running_since + min(STABLE_SECONDS, 2 * history.last_end.ran)

    @property
    def failed(self) -> bool:
        """Return True if the rollout should give up on the service.

        Attempts go on all the same, and this becomes False when an attempt succeeds.
        """
        history = self.history
        if self.assigned.problem or history.refusals >= GIVE_UP:
            return True
        if self.completed:
            return False
        if self.assigned.completes and history.crashes >= GIVE_UP:
            return True
        if not self.running and history.lapses >= GIVE_UP:
            return True
        never_healthy = self.past_start_deadline and not history.ready_container and not self.is_output_unread
        if not self.running and (history.unhealthy > 0 or never_healthy):
            return True
        return history.unstable >= GIVE_UP and not (self.running and self.now.mono >= self.stable_at)

    @property
    def waits(self) -> bool:
        """Return True during the backoff before the next attempt."""
        return self.history.waits(self.now.mono)

    def action(
        self, kind: ActionKind, reason: str, *, unhealthy: bool = False, became_unhealthy: bool = False
    ) -> Action:
        """Return an action on the container of the assigned spec, present or not."""
        container = self.container.id if self.container else ""
        assigned = self.assigned
        return Action(
            kind, reason, assigned.spec.name, assigned.hash, container, assigned.name, unhealthy, became_unhealthy
        )


def service_state(
    network_name: str,
    assigned: DesiredService,
    containers: Sequence[Container],
    observed: Observed,
    histories: RestartHistories,
    now: Now,
) -> ServiceState:
    """Return the state of an assigned service; ``containers`` are all containers of the service."""
    current = max((container for container in containers if container.hash == assigned.hash), key=rank, default=None)
    others = [container for container in containers if container is not current]

    def has_been_ready(container: Container) -> bool:
        history = histories.get((container.service, container.hash), NO_HISTORY)
        return history.ready_container == container.id and history.stopped_container != container.id

    def preference(container: Container) -> tuple[bool, bool, tuple[bool, bool, int, str, str]]:
        return container.up, has_been_ready(container) or container.id in observed.held, rank(container)

    usable = [
        container
        for container in others
        if container.up or (container.state is ContainerState.EXITED and has_been_ready(container))
    ]
    fallback = max(usable, key=preference, default=None)
    return ServiceState(
        assigned=assigned,
        network_name=network_name,
        network=observed.network,
        container=current,
        fallback=fallback,
        surplus=tuple(container for container in others if container is not fallback),
        health=observed.health.get(current.id if current else "", Health(ProbeVerdict.CHECKING)),
        history=histories.get((assigned.spec.name, assigned.hash), NO_HISTORY),
        histories=histories,
        now=now,
        held=observed.held,
        hung=observed.hung,
    )


@dataclass(frozen=True, slots=True)
class Cleanup:
    """Stop and removal of unneeded containers of a service, with a backoff of its own."""

    service: str
    histories: RestartHistories
    now: Now

    @property
    def history(self) -> RestartHistory:
        return self.histories.get((self.service, ""), NO_HISTORY)

    @property
    def wake(self) -> float | None:
        """Time (monotonic) of the next attempt; None if the next attempt is due."""
        return self.history.retry if self.history.waits(self.now.mono) else None

    def of(self, containers: Iterable[Container], reason: str) -> tuple[Action, ...]:
        """Return the actions to stop and remove ``containers``, in a fixed order."""
        if self.history.waits(self.now.mono):
            return ()
        actions: list[Action] = []
        for container in sorted(containers, key=rank):
            if container.up:
                actions.append(action_on(ActionKind.STOP, reason, container))
            if container.state is not ContainerState.REMOVING:
                actions.append(action_on(ActionKind.REMOVE, reason, container))
        return tuple(actions)


def rank(container: Container) -> tuple[bool, bool, int, str, str]:
    """Sort key of containers, unique: up above exited above the rest, then newer releases above older."""
    return (container.up, container.state is ContainerState.EXITED, container.release, container.name, container.id)


def action_on(kind: ActionKind, reason: str, container: Container) -> Action:
    """Return an action on a container of a service."""
    return Action(kind, reason, container.service, container.hash, container.id, container.name)
