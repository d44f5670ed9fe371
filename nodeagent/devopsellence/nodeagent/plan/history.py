"""What is remembered of the attempts to run one spec of one service: counters, backoff, the last end. Pure.

A :class:`RestartHistory` is frozen; each thing that happens is a method that returns the next one. It is about one spec
(service and hash): a changed spec starts with a fresh one. It is kept on disk (``state``), so that neither a backoff
nor a counter is lost when the agent restarts.
"""

from __future__ import annotations

import enum
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

from devopsellence.clock import Now
from devopsellence.nodeagent.docker.model import Container, ContainerExit

#: The first start after an end is immediate; then 1 s, doubling.
CRASH_FIRST: Final = 1.0
#: Refusals by the engine that cost nothing to try again: an image that is not there, a command that cannot be run.
REFUSAL_FIRST: Final = 1.0
#: What costs to try again: pulls, a full disk, a container that does not become healthy.
COSTLY_FIRST: Final = 10.0
BACKOFF_CAP: Final = 300.0
#: A container that ran this long has proved that it can (an end after that does not count towards ``failed``).
STABLE_SECONDS: Final = 10.0
#: A container that ran this long starts counting crashes anew.
RESET_SECONDS: Final = 600.0
#: Refusals, or ends in a row, after which the spec is reported as failed.
GIVE_UP: Final = 3
#: Backoffs are stretched by up to this share, by service and attempt, so that services which fail together do not all
#: come back in the same instant. Worked out, not random: a plan has the same answer for the same input.
SPREAD: Final = 0.1


class FailureCause(enum.StrEnum):
    """Why the last attempt did not lead to a running, healthy container."""

    NONE = ""
    CRASHED = "crashed"
    REFUSED = "refused"
    IMAGE = "image"
    PULL = "pull"
    NAME_TAKEN = "name_taken"
    DISK_FULL = "disk_full"
    UNHEALTHY = "unhealthy"


_FIRST: Final[Mapping[FailureCause, float]] = {
    FailureCause.REFUSED: REFUSAL_FIRST,
    FailureCause.IMAGE: REFUSAL_FIRST,
    FailureCause.NAME_TAKEN: REFUSAL_FIRST,
    FailureCause.PULL: COSTLY_FIRST,
    FailureCause.DISK_FULL: COSTLY_FIRST,
}


@dataclass(frozen=True, slots=True)
class RestartHistory:
    """``begun``: the start that ``starts`` counted last, empty if it is not known which. A start that an agent did not
    live to note is counted by the next one, once it sees the container run, or its end.
    ``proved``: the container (id) in which the spec last ran as it should. ``stopped``: the container that the agent
    itself stopped, so that its end is not held against it. ``examined``: the end that has been counted already.
    ``lapses``: how often in a row a container was replaced because it was healthy and was not any more; ``discarded``:
    the one that is being replaced for that.
    ``retry``/``retry_wall``: no attempt before this moment, on either clock; 0 is at once."""

    starts: int = 0
    begun: str = ""
    crashes: int = 0
    unstable: int = 0
    refusals: int = 0
    unhealthy: int = 0
    trouble: FailureCause = FailureCause.NONE
    reason: str = ""
    retry: float = 0.0
    retry_wall: float = 0.0
    image_missing: bool = False
    proved: str = ""
    stopped: str = ""
    examined: str = ""
    lapses: int = 0
    discarded: str = ""
    last_end: ContainerExit | None = None

    @property
    def restarts(self) -> int:
        """How often it was started again since the spec changed."""
        return max(0, self.starts - 1)

    def waits(self, now: float) -> bool:
        """Is it too early for the next attempt?"""
        return self.trouble is not FailureCause.NONE and now < self.retry

    def started(self, container: Container | None) -> RestartHistory:
        """The engine has started a container of this spec; None if it was gone when it was looked at."""
        begun = container.start_key if container is not None else ""
        memory = replace(self.cleared(), starts=self.starts + 1, begun=begun)
        return replace(memory, refusals=0, image_missing=False, stopped="")

    def running(self, container: Container) -> RestartHistory:
        """``container`` runs as it should: healthy, or up for long enough."""
        memory = replace(self.cleared(), proved=container.id, unhealthy=0, refusals=0, discarded="")
        return memory._counted(container)

    def cleared(self) -> RestartHistory:
        """Nothing stands in the way of the next step."""
        return replace(self, trouble=FailureCause.NONE, reason="", retry=0.0, retry_wall=0.0)

    def ended(self, container: Container, end: ContainerExit, now: Now, *, seed: str) -> RestartHistory:
        """``container`` was found ended. Counted once per end; not at all when the agent stopped it."""
        if container.end_key == self.examined:
            return self
        if container.id == self.stopped:
            return replace(self, examined=container.end_key)
        crashes = 0 if end.ran >= RESET_SECONDS else self.crashes
        delay = 0.0 if crashes == 0 else _backoff(CRASH_FIRST, crashes, seed)
        unstable = 0 if end.ran >= STABLE_SECONDS else self.unstable + 1
        memory = replace(
            self,
            crashes=crashes + 1,
            unstable=unstable,
            examined=container.end_key,
            last_end=end,
        )
        return memory._counted(container)._wait(FailureCause.CRASHED, _ended_sentence(end, crashes + 1), delay, now)

    def refused(self, trouble: FailureCause, reason: str, now: Now, *, seed: str) -> RestartHistory:
        """The engine refused to pull, create or start it."""
        delay = _backoff(_FIRST[trouble], self.refusals + 1, seed)
        memory = replace(self, refusals=self.refusals + 1)
        return memory._wait(trouble, reason, delay, now)

    def missing_image(self) -> RestartHistory:
        """Its image has to be pulled first: no failure yet."""
        return replace(self, image_missing=True)

    def pulled(self) -> RestartHistory:
        """Its image is there."""
        return replace(self.cleared(), image_missing=False)

    def never_healthy(self, container: Container, reason: str, now: Now, *, seed: str) -> RestartHistory:
        """The agent is about to stop ``container``, which did not become healthy in time."""
        memory = replace(self, unhealthy=self.unhealthy + 1, stopped=container.id)
        return memory._wait(FailureCause.UNHEALTHY, reason, _backoff(COSTLY_FIRST, self.unhealthy + 1, seed), now)

    def became_unhealthy(self, container: Container, reason: str) -> RestartHistory:
        """The agent is about to stop ``container`` and to make it anew: it was healthy, and is not any more."""
        lapses = self.lapses if self.discarded == container.id else self.lapses + 1
        memory = replace(self, lapses=lapses, stopped=container.id, discarded=container.id)
        return replace(memory, trouble=FailureCause.UNHEALTHY, reason=reason, retry=0.0, retry_wall=0.0)

    def lapse_wait(self, seed: str) -> float:
        """Seconds from a container's start until it may be replaced for another lapse."""
        return _backoff(COSTLY_FIRST, self.lapses, seed) if self.lapses else 0.0

    def forget_lapses(self) -> RestartHistory:
        """It has been healthy for so long that former lapses do not count any more."""
        return replace(self, lapses=0)

    def stopping(self, container: Container) -> RestartHistory:
        """The agent is about to stop ``container``."""
        return replace(self, stopped=container.id)

    def retry_now(self) -> RestartHistory:
        """What it waited for may have happened: try at once."""
        return replace(self, image_missing=False, retry=0.0, retry_wall=0.0)

    def new_peers(self) -> RestartHistory:
        """Its image may be had from somebody who was not asked yet: failing to get it counts anew."""
        return (
            replace(self.retry_now(), refusals=0) if self.trouble in (FailureCause.IMAGE, FailureCause.PULL) else self
        )

    def _counted(self, container: Container) -> RestartHistory:
        """With the start of ``container`` counted, if it is not yet."""
        start = container.start_key or self.begun
        missed = self.starts == 0 or self.begun not in ("", start)
        return replace(self, starts=self.starts + missed, begun=start)

    def _wait(self, trouble: FailureCause, reason: str, delay: float, now: Now) -> RestartHistory:
        return replace(self, trouble=trouble, reason=reason, retry=now.mono + delay, retry_wall=now.wall + delay)


NO_HISTORY: Final = RestartHistory()


def _backoff(first: float, attempt: int, seed: str) -> float:
    """Seconds after the ``attempt``-th failure in a row (from 1)."""
    share = int.from_bytes(hashlib.sha256(f"{seed}/{attempt}".encode()).digest()[:2]) / 0xFFFF
    return float(min(BACKOFF_CAP, first * 2.0 ** min(attempt - 1, 20)) * (1.0 + SPREAD * share))


def _ended_sentence(end: ContainerExit, times: int) -> str:
    how = "was killed for want of memory" if end.oom_killed else f"ended with exit code {end.code}"
    again = f", {times} times in a row" if times > 1 else ""
    return f"{how} after running for {_span(end.ran)}{again}"


def _span(seconds: float) -> str:
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 600:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 36000 else f"{seconds / 3600:.0f} h"
