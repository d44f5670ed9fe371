"""What is known about one assigned service at one moment, put in the words that the plan is written in. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from devopsellence.nodeagent.action import Action, Kind, Memories
from devopsellence.nodeagent.memory import GIVE_UP, NO_MEMORY, STABLE_SECONDS, Memory
from devopsellence.nodeagent.model import Container, Health, Network, Now, Observed, State, Verdict
from devopsellence.nodeagent.spec import Wanted

#: A container without a health check counts as running after this long, so that one which ends at once is not taken
#: for one that runs.
SETTLE_SECONDS: Final = 0.3


@dataclass(frozen=True, slots=True)
class Case:
    """``mine``: the container of the assigned spec. ``fallback``: an older one that serves until ``mine`` has proved
    itself. ``surplus``: what is neither."""

    wanted: Wanted
    network_name: str
    network: Network | None
    mine: Container | None
    fallback: Container | None
    surplus: tuple[Container, ...]
    health: Health
    memory: Memory
    memories: Memories
    now: Now

    @property
    def others(self) -> tuple[Container, ...]:
        return (*((self.fallback,) if self.fallback else ()), *self.surplus)

    @property
    def running(self) -> bool:
        """The assigned spec runs as it should, at this moment."""
        mine = self.mine
        if mine is None or mine.state is not State.RUNNING:
            return False
        if self.wanted.check is not None:
            return self.health.verdict is Verdict.HEALTHY
        return self.now.mono >= mine.running_since + SETTLE_SECONDS

    @property
    def proved(self) -> bool:
        """The assigned spec has run as it should in this very container: nothing older is needed any more."""
        return self.running or (self.mine is not None and self.memory.proved == self.mine.id)

    @property
    def cleanup(self) -> Cleanup:
        return Cleanup(self.wanted.service.name, self.memories, self.now)

    @property
    def overdue(self) -> bool:
        return self.mine is not None and self.mine.up and self.wanted.check is not None and self.health.overdue

    @property
    def stable_at(self) -> float:
        return self.mine.running_since + STABLE_SECONDS if self.mine else 0.0

    @property
    def failed(self) -> bool:
        """Reason enough to give up on the rollout; what is tried goes on, and this clears when it succeeds."""
        memory = self.memory
        if self.wanted.obstacle or memory.refusals >= GIVE_UP:
            return True
        if not self.running and (memory.unhealthy > 0 or (self.overdue and not memory.proved)):
            return True
        return memory.unstable >= GIVE_UP and not (self.running and self.now.mono >= self.stable_at)

    @property
    def waits(self) -> bool:
        return self.memory.waits(self.now.mono)

    def action(self, kind: Kind, reason: str, *, unhealthy: bool = False) -> Action:
        """An action on the container of the assigned spec, whether it is there or not."""
        container = self.mine.id if self.mine else ""
        return Action(kind, reason, self.wanted.service.name, self.wanted.hash, container, self.wanted.name, unhealthy)


def case_of(
    network_name: str,
    wanted: Wanted,
    containers: Sequence[Container],
    seen: Observed,
    memories: Memories,
    now: Now,
) -> Case:
    mine = max((each for each in containers if each.hash == wanted.hash), key=rank, default=None)
    others = [each for each in containers if each is not mine]

    def proved(each: Container) -> bool:
        memory = memories.get((each.service, each.hash), NO_MEMORY)
        return memory.proved == each.id and memory.stopped != each.id

    usable = [each for each in others if each.up or (each.state is State.EXITED and proved(each))]
    fallback = max(usable, key=lambda each: (each.up, proved(each), rank(each)), default=None)
    return Case(
        wanted=wanted,
        network_name=network_name,
        network=seen.network,
        mine=mine,
        fallback=fallback,
        surplus=tuple(each for each in others if each is not fallback),
        health=seen.health.get(mine.id if mine else "", Health(Verdict.CHECKING)),
        memory=memories.get((wanted.service.name, wanted.hash), NO_MEMORY),
        memories=memories,
        now=now,
    )


@dataclass(frozen=True, slots=True)
class Cleanup:
    """Stopping and removing what a service has left, unless that failed a moment ago."""

    service: str
    memories: Memories
    now: Now

    @property
    def memory(self) -> Memory:
        return self.memories.get((self.service, ""), NO_MEMORY)

    @property
    def wake(self) -> float | None:
        return self.memory.retry if self.memory.waits(self.now.mono) else None

    def of(self, containers: Iterable[Container], why: str) -> tuple[Action, ...]:
        """Stop and remove ``containers``, in a fixed order."""
        if self.memory.waits(self.now.mono):
            return ()
        actions: list[Action] = []
        for each in sorted(containers, key=rank):
            if each.up:
                actions.append(act(Kind.STOP, why, each))
            if each.state is not State.REMOVING:
                actions.append(act(Kind.REMOVE, why, each))
        return tuple(actions)


def rank(container: Container) -> tuple[bool, bool, int, str, str]:
    """Orders containers: what runs above what does not, newer above older, and no two alike."""
    return (container.up, container.state is State.EXITED, container.release, container.name, container.id)


def act(kind: Kind, reason: str, container: Container) -> Action:
    return Action(kind, reason, container.service, container.hash, container.id, container.name)
