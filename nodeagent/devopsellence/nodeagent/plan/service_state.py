"""What is known about one assigned service at one moment, put in the words that the plan is written in. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from devopsellence.clock import Now
from devopsellence.nodeagent.docker.model import Container, ContainerState, Health, Network, Observed, ProbeVerdict
from devopsellence.nodeagent.plan.actions import Action, ActionKind, RestartHistories
from devopsellence.nodeagent.plan.history import GIVE_UP, NO_HISTORY, RESET_SECONDS, STABLE_SECONDS, RestartHistory
from devopsellence.nodeagent.plan.spec import DesiredService

#: A container without a health check counts as running after this long, so that one which ends at once is not taken
#: for one that runs.
SETTLE_SECONDS: Final = 0.3


@dataclass(frozen=True, slots=True)
class ServiceState:
    """``mine``: the container of the assigned spec. ``fallback``: an older one that serves until ``mine`` has proved
    itself. ``surplus``: what is neither."""

    wanted: DesiredService
    network_name: str
    network: Network | None
    mine: Container | None
    fallback: Container | None
    surplus: tuple[Container, ...]
    health: Health
    memory: RestartHistory
    memories: RestartHistories
    now: Now
    #: As in :attr:`model.Observed.held`.
    held: Mapping[str, str]

    @property
    def others(self) -> tuple[Container, ...]:
        return (*((self.fallback,) if self.fallback else ()), *self.surplus)

    @property
    def ready(self) -> bool:
        """A container of the assigned spec is up at this moment, and nothing is wrong with it."""
        mine = self.mine
        if mine is None or mine.state is not ContainerState.RUNNING:
            return False
        if self.wanted.probes:
            return self.health.verdict is ProbeVerdict.HEALTHY
        return self.now.mono >= mine.running_since + SETTLE_SECONDS

    @property
    def running(self) -> bool:
        """The assigned spec runs as it should, at this moment; one that is to complete never just runs."""
        return self.ready and not self.wanted.completes

    @property
    def completed(self) -> bool:
        """It was to complete, and has: its container has ended well, and not because the agent stopped it."""
        mine = self.mine
        if not self.wanted.completes or mine is None or mine.state is not ContainerState.EXITED:
            return False
        return mine.exit_code == 0 and self.memory.stopped != mine.id

    @property
    def proved(self) -> bool:
        """The assigned spec has run as it should in this very container: nothing older is needed any more."""
        if self.running or self.completed:
            return True
        return self.mine is not None and self.memory.proved == self.mine.id

    @property
    def lapsed(self) -> bool:
        """It was healthy (since it is checked, before that, or one that this one was made in place of), and is not any
        more."""
        if (
            self.mine is None
            or self.mine.state is not ContainerState.RUNNING
            or self.health.verdict is not ProbeVerdict.UNHEALTHY
        ):
            return False
        return not self.health.overdue or self.memory.proved == self.mine.id or self.memory.lapses > 0

    @property
    def lapse_at(self) -> float:
        """When a container that has lapsed may be replaced: the first at once, each further one later after its
        start (monotonic)."""
        if self.mine is None or not self.memory.lapses:
            return 0.0
        return self.mine.running_since + self.memory.lapse_wait(f"{self.mine.env}/{self.mine.service}")

    @property
    def lasting_at(self) -> float | None:
        """When former lapses are forgotten, if it stays as it is (monotonic); None if there are none."""
        if not self.memory.lapses or not self.running:
            return None
        return self.health.since.mono + RESET_SECONDS

    @property
    def cleanup(self) -> Cleanup:
        return Cleanup(self.wanted.service.name, self.memories, self.now)

    @property
    def overdue(self) -> bool:
        return self.mine is not None and self.mine.up and bool(self.wanted.probes) and self.health.overdue

    @property
    def stable_at(self) -> float:
        return self.mine.running_since + STABLE_SECONDS if self.mine else 0.0

    @property
    def failed(self) -> bool:
        """Reason enough to give up on the rollout; what is tried goes on, and this clears when it succeeds."""
        memory = self.memory
        if self.wanted.obstacle or memory.refusals >= GIVE_UP:
            return True
        if self.completed:
            return False
        if self.wanted.completes and memory.crashes >= GIVE_UP:
            return True
        if not self.running and memory.lapses >= GIVE_UP:
            return True
        if not self.running and (memory.unhealthy > 0 or (self.overdue and not memory.proved)):
            return True
        return memory.unstable >= GIVE_UP and not (self.running and self.now.mono >= self.stable_at)

    @property
    def waits(self) -> bool:
        return self.memory.waits(self.now.mono)

    def action(self, kind: ActionKind, reason: str, *, unhealthy: bool = False, lapsed: bool = False) -> Action:
        """An action on the container of the assigned spec, whether it is there or not."""
        container = self.mine.id if self.mine else ""
        wanted = self.wanted
        return Action(kind, reason, wanted.service.name, wanted.hash, container, wanted.name, unhealthy, lapsed)


def service_state(
    network_name: str,
    wanted: DesiredService,
    containers: Sequence[Container],
    seen: Observed,
    memories: RestartHistories,
    now: Now,
) -> ServiceState:
    mine = max((container for container in containers if container.hash == wanted.hash), key=rank, default=None)
    others = [container for container in containers if container is not mine]

    def proved(each: Container) -> bool:
        memory = memories.get((each.service, each.hash), NO_HISTORY)
        return memory.proved == each.id and memory.stopped != each.id

    usable = [each for each in others if each.up or (each.state is ContainerState.EXITED and proved(each))]
    fallback = max(usable, key=lambda each: (each.up, proved(each) or each.id in seen.held, rank(each)), default=None)
    return ServiceState(
        wanted=wanted,
        network_name=network_name,
        network=seen.network,
        mine=mine,
        fallback=fallback,
        surplus=tuple(each for each in others if each is not fallback),
        health=seen.health.get(mine.id if mine else "", Health(ProbeVerdict.CHECKING)),
        memory=memories.get((wanted.service.name, wanted.hash), NO_HISTORY),
        memories=memories,
        now=now,
        held=seen.held,
    )


@dataclass(frozen=True, slots=True)
class Cleanup:
    """Stopping and removing what a service has left, unless that failed a moment ago."""

    service: str
    memories: RestartHistories
    now: Now

    @property
    def memory(self) -> RestartHistory:
        return self.memories.get((self.service, ""), NO_HISTORY)

    @property
    def wake(self) -> float | None:
        return self.memory.retry if self.memory.waits(self.now.mono) else None

    def of(self, containers: Iterable[Container], why: str) -> tuple[Action, ...]:
        """Stop and remove ``containers``, in a fixed order."""
        if self.memory.waits(self.now.mono):
            return ()
        actions: list[Action] = []
        for container in sorted(containers, key=rank):
            if container.up:
                actions.append(action_on(ActionKind.STOP, why, container))
            if container.state is not ContainerState.REMOVING:
                actions.append(action_on(ActionKind.REMOVE, why, container))
        return tuple(actions)


def rank(container: Container) -> tuple[bool, bool, int, str, str]:
    """Orders containers: what runs above what does not, newer above older, and no two alike."""
    return (container.up, container.state is ContainerState.EXITED, container.release, container.name, container.id)


def action_on(kind: ActionKind, reason: str, container: Container) -> Action:
    return Action(kind, reason, container.service, container.hash, container.id, container.name)
