"""Rollout target: the release that nodes are to run, either the newest or, after a rollback, the last settled. Pure.

A rollout that fails rolls back or halts by itself, if an earlier release has settled. The decision is part of the
stored Rollout (fields ``target`` and ``halted``) and is recorded before the assignments that follow from it, so the
next leader continues in the same direction.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from devopsellence.api.v1 import stored_pb2 as pb
from devopsellence.api.v1 import workload_pb2
from devopsellence.controller.model.snapshot import EnvironmentSnapshot
from devopsellence.store.keys import Keys
from devopsellence.store.record import Record


@dataclass(frozen=True, slots=True)
class RolloutTarget:
    """Numbers of the releases that a rollout moves between, as recorded in the Rollout."""

    #: Newest release of the environment.
    newest: int
    #: Release that the nodes are to run: ``newest`` or ``last_settled``.
    release: int
    #: Newest settled release before ``newest``; 0: none is known.
    last_settled: int = 0
    #: Reason for moving no further node to ``newest``; empty while the rollout goes on.
    halted: str = ""

    @property
    def rolls_back(self) -> bool:
        """Return whether the environment is to run an older release than the newest."""
        return self.release != self.newest

    @property
    def is_halted(self) -> bool:
        """Return whether every node stays at its current release."""
        return bool(self.halted) and not self.rolls_back

    def rolled_back(self, reason: str) -> RolloutTarget:
        """Return the target of a rollback to the last settled release because of ``reason``."""
        return replace(self, release=self.last_settled, halted=reason)

    def halt(self, reason: str) -> RolloutTarget:
        """Return the target of a rollout that halts because of ``reason``."""
        return replace(self, halted=reason)


def recorded_target(rollout: pb.Rollout) -> RolloutTarget:
    """Return the target recorded in ``rollout``, the Rollout of the newest release."""
    return RolloutTarget(
        newest=rollout.release,
        release=rollout.target or rollout.release,
        last_settled=rollout.last_settled,
        halted=rollout.halted,
    )


def read_release(record: Record[pb.Release] | None, number: int, key: str) -> tuple[pb.Release | None, str]:
    """Return release ``number``, or None and the beginning of a sentence that says why it cannot be rolled out."""
    if record is None:
        return None, f"release {number} cannot be rolled out: {key} does not exist"
    if record.message is None:
        return None, f"release {number} cannot be rolled out: {record.error}"
    if record.message.number != number:
        problem = f"its record says that it is release {record.message.number}"
        return None, f"release {number} cannot be rolled out: {problem}"
    return record.message, ""


@dataclass(frozen=True, slots=True)
class KnownReleases:
    """Releases that a plan may refer to. None: there is no such release, or it cannot be read."""

    newest: pb.Release | None
    fallback: pb.Release | None
    #: Reasons why the newest release and the fallback cannot be rolled out; empty if possible or if there is none.
    newest_problem: str = ""
    fallback_problem: str = ""

    def problem(self, target: RolloutTarget) -> str:
        """Return why the release of ``target`` cannot be rolled out; empty if possible."""
        return self.fallback_problem if target.rolls_back else self.newest_problem

    @property
    def can_roll_back(self) -> bool:
        """Return whether a failure of the newest release leads to a rollback to a readable release."""
        return self._policy_rolls_back and self.fallback is not None

    @property
    def rollback_problem(self) -> str:
        """Return why no rollback is possible although the policy asks for one; empty otherwise."""
        return self.fallback_problem if self._policy_rolls_back else ""

    @property
    def _policy_rolls_back(self) -> bool:
        # Also with an unspecified policy: a rollback is the documented default.
        return self.newest is not None and self.newest.rollout.on_failure != workload_pb2.RolloutPolicy.HALT

    def of(self, number: int) -> pb.Release | None:
        """Return release ``number`` if it is among the known releases."""
        for release in (self.newest, self.fallback):
            if release is not None and release.number == number:
                return release
        return None


def known_releases(snapshot: EnvironmentSnapshot, target: RolloutTarget, keys: Keys) -> KnownReleases:
    """Return the readable releases of ``snapshot``, with the problems of the others."""
    newest, newest_problem = read_release(snapshot.release, target.newest, keys.release(snapshot.ref, target.newest))
    number = target.release if target.rolls_back else target.last_settled
    if number == 0:
        return KnownReleases(newest, None, newest_problem)
    fallback, fallback_problem = read_release(snapshot.fallback, number, keys.release(snapshot.ref, number))
    return KnownReleases(newest, fallback, newest_problem, fallback_problem)
