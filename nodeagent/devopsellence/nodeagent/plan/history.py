"""Restart history of one spec of one service: counters, backoff, last exit.

A :class:`RestartHistory` is frozen; every event is a method that returns the next history. A changed spec (hash) starts
with a fresh history. Histories are on disk (``state``), so that no backoff and no counter is lost when the agent
restarts.
"""

from __future__ import annotations

import enum
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

from devopsellence.clock import Now
from devopsellence.exits import describe_end
from devopsellence.nodeagent.docker.model import Container, ContainerExit, UnhealthyContainer

#: Backoff after crashes, doubling; the first restart is immediate.
CRASH_FIRST: Final = 1.0
#: Backoff after refusals that are cheap to retry: a missing image, a command that does not exist.
REFUSAL_FIRST: Final = 1.0
#: Backoff after failures that are costly to retry: pulls, a full disk, a container that does not become healthy.
COSTLY_FIRST: Final = 10.0
BACKOFF_CAP: Final = 300.0
#: Running time of a container from which its spec has lasted: until a container has run for so long, every exit counts
#: towards ``failed``.
TRIAL_SECONDS: Final = 60.0
#: Running time from which an exit no longer counts towards ``failed``, of a spec that has lasted.
STABLE_SECONDS: Final = 10.0
#: Running time after which crashes are counted from zero.
RESET_SECONDS: Final = 600.0
#: Refusals, or exits in a row, after which the spec is reported as failed.
GIVE_UP: Final = 3
#: Backoffs are stretched by up to this share, by service and attempt, so that services which fail together do not all
#: come back in the same instant. Worked out, not random: a plan has the same answer for the same input.
SPREAD: Final = 0.1


class FailureCause(enum.StrEnum):
    """Cause of the last failed attempt to run a healthy container. Values are stored on disk."""

    NONE = ""
    CRASHED = "crashed"
    REFUSED = "refused"
    IMAGE = "image"
    PULL = "pull"
    NAME_TAKEN = "name_taken"
    ADDRESS_POOL = "address_pool"
    DISK_FULL = "disk_full"
    UNHEALTHY = "unhealthy"


#: Causes that only somebody else can remove, so that the first refusal of a network is told as a failure.
NETWORK_PROBLEMS: Final = frozenset({FailureCause.NAME_TAKEN, FailureCause.ADDRESS_POOL})
_FIRST: Final[Mapping[FailureCause, float]] = {
    FailureCause.REFUSED: REFUSAL_FIRST,
    FailureCause.IMAGE: REFUSAL_FIRST,
    FailureCause.NAME_TAKEN: REFUSAL_FIRST,
    FailureCause.ADDRESS_POOL: REFUSAL_FIRST,
    FailureCause.PULL: COSTLY_FIRST,
    FailureCause.DISK_FULL: COSTLY_FIRST,
}


@dataclass(frozen=True, slots=True)
class RestartHistory:
    """Counters, backoff and last exit of one spec.

    ``last_start``: the last start counted in ``starts``, empty if unknown. A start not noted because the agent was
    killed is counted later, when the running or exited container is seen. ``ready_container``: container (id) that was
    last ready. ``stopped_container``: container stopped by the agent, so its exit is no crash. ``counted_exit``: exit
    already counted. ``lapses``: replacements in a row of a container that became unhealthy; ``replaced_container``: the
    container being replaced. ``seen_unhealthy``: start of a container noted in ``last_unhealthy``.
    ``retry``/``retry_wall``: earliest next attempt, monotonic and in seconds since the epoch; 0 is at once. ``lasted``:
    a container of the spec has once run for :data:`TRIAL_SECONDS`. ``hint``: a sentence about the likely cause of the
    last failure, and how to fix it; empty if none is known.
    """

    starts: int = 0
    last_start: str = ""
    crashes: int = 0
    unstable: int = 0
    refusals: int = 0
    unhealthy: int = 0
    failure: FailureCause = FailureCause.NONE
    reason: str = ""
    retry: float = 0.0
    retry_wall: float = 0.0
    image_missing: bool = False
    ready_container: str = ""
    stopped_container: str = ""
    counted_exit: str = ""
    lapses: int = 0
    replaced_container: str = ""
    last_end: ContainerExit | None = None
    seen_unhealthy: str = ""
    last_unhealthy: UnhealthyContainer | None = None
    lasted: bool = False
    hint: str = ""

    @property
    def stable_seconds(self) -> float:
        """Return the running time from which an exit no longer counts towards ``failed``."""
        return STABLE_SECONDS if self.lasted else TRIAL_SECONDS

    @property
    def restarts(self) -> int:
        """Number of starts after the first, since the spec changed."""
        return max(0, self.starts - 1)

    def waits(self, now: float) -> bool:
        """Return True during the backoff; ``now``: monotonic seconds."""
        return self.failure is not FailureCause.NONE and now < self.retry

    @property
    def lacks_image(self) -> bool:
        """Return True if the image is not on this machine, as far as is known."""
        return self.image_missing or self.failure in (FailureCause.IMAGE, FailureCause.PULL)

    def started(self, container: Container | None) -> RestartHistory:
        """Note a start by the engine; ``container`` is None if it was gone directly afterwards."""
        last_start = container.start_key if container is not None else ""
        history = replace(self.cleared(), starts=self.starts + 1, last_start=last_start)
        return replace(history, refusals=0, image_missing=False, stopped_container="")

    def running(self, container: Container) -> RestartHistory:
        """Note a ready container: healthy, or up for long enough."""
        history = replace(
            self.cleared(),
            ready_container=container.id,
            unhealthy=0,
            refusals=0,
            replaced_container="",
            seen_unhealthy="",
            hint="",
        )
        return history._counted(container)

    def cleared(self) -> RestartHistory:
        """Clear failure and backoff."""
        return replace(self, failure=FailureCause.NONE, reason="", retry=0.0, retry_wall=0.0)

    def ended(self, container: Container, end: ContainerExit, now: Now, *, seed: str, hint: str = "") -> RestartHistory:
        """Note the exit of a container, with a ``hint`` at its cause. An exit is counted once, and not at all if the
        agent stopped the container."""
        if container.end_key == self.counted_exit:
            return self
        if container.id == self.stopped_container:
            return replace(self, counted_exit=container.end_key)
        crashes = 0 if end.ran >= RESET_SECONDS else self.crashes
        delay = 0.0 if crashes == 0 else _backoff(CRASH_FIRST, crashes, seed)
        unstable = 0 if end.ran >= self.stable_seconds else self.unstable + 1
        history = replace(
            self,
            crashes=crashes + 1,
            unstable=unstable,
            counted_exit=container.end_key,
            last_end=end,
            lasted=self.lasted or end.ran >= TRIAL_SECONDS,
            hint=hint,
        )
        return history._counted(container)._wait(FailureCause.CRASHED, _exit_sentence(end, crashes + 1), delay, now)

    def refused(self, failure: FailureCause, reason: str, now: Now, *, seed: str) -> RestartHistory:
        """Note that the engine refused to pull, create or start."""
        delay = _backoff(_FIRST[failure], self.refusals + 1, seed)
        history = replace(self, refusals=self.refusals + 1)
        return history._wait(failure, reason, delay, now)

    def missing_image(self) -> RestartHistory:
        """Note that the image has to be pulled first, which is no failure yet."""
        return replace(self, image_missing=True)

    def pulled(self) -> RestartHistory:
        """Note that the image is present."""
        return replace(self.cleared(), image_missing=False)

    def never_healthy(self, container: Container, reason: str, now: Now, *, seed: str) -> RestartHistory:
        """Note a stop about to happen, of a container that did not become healthy in time."""
        history = replace(self, unhealthy=self.unhealthy + 1, stopped_container=container.id)
        return history._wait(FailureCause.UNHEALTHY, reason, _backoff(COSTLY_FIRST, self.unhealthy + 1, seed), now)

    def found_unhealthy(
        self, container: Container, reason: str, now: Now, lines: tuple[str, ...], *, hint: str = ""
    ) -> RestartHistory:
        """Note the output of a container whose probes fail, before it is stopped, and a ``hint`` at the cause."""
        return replace(
            self,
            seen_unhealthy=container.start_key or container.id,
            last_unhealthy=UnhealthyContainer(container.id, reason, now.wall, lines),
            hint=hint,
        )

    def is_noted_unhealthy(self, container: Container) -> bool:
        """Return True if the output of this run of the container is in ``last_unhealthy``."""
        return self.seen_unhealthy == (container.start_key or container.id)

    def became_unhealthy(self, container: Container, reason: str) -> RestartHistory:
        """Note a replacement about to start, of a container that was healthy before."""
        lapses = self.lapses if self.replaced_container == container.id else self.lapses + 1
        history = replace(self, lapses=lapses, stopped_container=container.id, replaced_container=container.id)
        return replace(history, failure=FailureCause.UNHEALTHY, reason=reason, retry=0.0, retry_wall=0.0)

    def lapse_wait(self, seed: str) -> float:
        """Return the seconds from a container's start until another replacement is allowed."""
        return _backoff(COSTLY_FIRST, self.lapses, seed) if self.lapses else 0.0

    def has_lasted(self) -> RestartHistory:
        """Note that a container has run for :data:`TRIAL_SECONDS`."""
        return replace(self, lasted=True)

    def forget_lapses(self) -> RestartHistory:
        """Forget former lapses, after a long healthy time."""
        return replace(self, lapses=0)

    def stopping(self, container: Container) -> RestartHistory:
        """Note a stop about to happen."""
        return replace(self, stopped_container=container.id)

    def retry_now(self) -> RestartHistory:
        """End the backoff, because the cause of the failure may be gone."""
        return replace(self, image_missing=False, retry=0.0, retry_wall=0.0)

    def new_peers(self) -> RestartHistory:
        """End the backoff and count failed pulls from zero, because the image has new sources."""
        return (
            replace(self.retry_now(), refusals=0) if self.failure in (FailureCause.IMAGE, FailureCause.PULL) else self
        )

    def _counted(self, container: Container) -> RestartHistory:
        """Count the start of ``container``, unless already counted."""
        start = container.start_key or self.last_start
        missed = self.starts == 0 or self.last_start not in ("", start)
        return replace(self, starts=self.starts + missed, last_start=start)

    def _wait(self, failure: FailureCause, reason: str, delay: float, now: Now) -> RestartHistory:
        return replace(self, failure=failure, reason=reason, retry=now.mono + delay, retry_wall=now.wall + delay)


NO_HISTORY: Final = RestartHistory()


def _backoff(first: float, attempt: int, seed: str) -> float:
    """Return the seconds to wait after the ``attempt``-th failure in a row (from 1)."""
    share = int.from_bytes(hashlib.sha256(f"{seed}/{attempt}".encode()).digest()[:2]) / 0xFFFF
    return float(min(BACKOFF_CAP, first * 2.0 ** min(attempt - 1, 20)) * (1.0 + SPREAD * share))


def _exit_sentence(end: ContainerExit, times: int) -> str:
    how = describe_end(end.code, oom_killed=end.oom_killed)
    again = f", {times} times in a row" if times > 1 else ""
    return f"{how} after running for {_span(end.ran)}{again}"


def _span(seconds: float) -> str:
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 600:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 36000 else f"{seconds / 3600:.0f} h"
