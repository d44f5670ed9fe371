"""Rollout status: the stored Rollout with phase, reason, counts and the progress of at most a hundred nodes. Pure."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from devopsellence.api.v1 import stored_pb2 as pb
from devopsellence.clock import Now
from devopsellence.controller.model.snapshot import ProgressStopwatch
from devopsellence.controller.rollout.events import rollout_events
from devopsellence.controller.rollout.node_progress import NodeProgress
from devopsellence.controller.rollout.verdict import RolloutFacts, RolloutVerdict, is_paused, severity_rank
from devopsellence.store.size import bounded

MAX_NODES: Final = 100
_RUNNING: Final = (pb.Rollout.PROGRESSING, pb.Rollout.ROLLING_BACK)
_COUNTS: Final[dict[int, str]] = {
    pb.NodeProgress.PENDING: "pending",
    pb.NodeProgress.CONVERGING: "converging",
    pb.NodeProgress.SETTLED: "settled",
    pb.NodeProgress.FAILED: "failed",
    pb.NodeProgress.UNREACHABLE: "unreachable",
    pb.NodeProgress.ERROR: "error",
    pb.NodeProgress.WAITING: "waiting",
}


@dataclass(frozen=True, slots=True)
class RolloutUpdate:
    """Rollout to store, its events, and the time of the next look if nothing changes."""

    rollout: pb.Rollout
    events: Sequence[pb.Event] = ()
    #: None: no progress deadline runs.
    stopwatch: ProgressStopwatch | None = None
    #: Seconds until the next look; None: only after a change.
    recheck_after: float | None = None


def advance_stopwatch(facts: RolloutFacts, stopwatch: ProgressStopwatch | None, now: Now) -> ProgressStopwatch:
    """Return the stopwatch, started again after progress or a change of target; paused as is_paused() says."""
    target = facts.target.release
    updated = [node for node in facts.nodes if node.release == target]
    # A container that starts is progress: it has all of its time to become ready, however long its image took.
    progress = sum(node.services_started + node.services_settled + node.done for node in updated)
    paused = is_paused(facts)
    if (
        stopwatch is None
        or (stopwatch.newest, stopwatch.target) != (facts.target.newest, target)
        or facts.moved
        or paused
        or stopwatch.paused
        or progress > stopwatch.progress
    ):
        return ProgressStopwatch(facts.target.newest, target, progress, now.mono, paused)
    return stopwatch


def update_rollout(
    facts: RolloutFacts,
    verdict: RolloutVerdict,
    before: pb.Rollout,
    previous: pb.Rollout | None,
    stopwatch: ProgressStopwatch,
    now: Now,
    *,
    failures: Sequence[pb.ServiceFailure] = (),
) -> RolloutUpdate:
    """Return the Rollout of the newest release; equal to ``previous``, the stored Rollout, if nothing has changed.

    ``before`` is the Rollout that history.begin_rollout() made from ``previous``. ``failures``: services because of
    which the release fails now.
    """
    rollout = pb.Rollout()
    rollout.CopyFrom(before)
    rollout.phase, rollout.reason = verdict.phase, verdict.reason
    rollout.target, rollout.halted = verdict.target.release, verdict.target.halted
    rollout.provisional, rollout.first_failure = verdict.provisional, verdict.first_failure
    rollout.deadline_paused = verdict.phase in _RUNNING and is_paused(facts)
    if verdict.task is None:
        rollout.ClearField("task")
    else:
        rollout.task.CopyFrom(verdict.task)
    _record_failures(rollout, failures)
    if facts.choices is not None:
        del rollout.replicas[:]
        rollout.replicas.extend(facts.choices)
    summarize(rollout, facts.nodes, facts.target.release, now)
    if verdict.phase in _RUNNING:
        rollout.ClearField("finished_at")
    elif verdict.phase != before.phase:
        rollout.finished_at.FromDatetime(now.utc)
    # Reasons come from the nodes.
    rollout = bounded(rollout)
    events = rollout_events(previous, rollout, now, is_rolled_back=verdict.is_rolled_back)
    if verdict.phase not in _RUNNING:
        return RolloutUpdate(rollout, events)
    recheck_after = None if is_paused(facts) else max(0.0, stopwatch.since + facts.deadline - now.mono)
    return RolloutUpdate(rollout, events, stopwatch, recheck_after)


def _record_failures(rollout: pb.Rollout, failures: Sequence[pb.ServiceFailure]) -> None:
    """Keep what made the release fail, as first seen: a crash loop has new output again and again."""
    if rollout.phase in (pb.Rollout.PROGRESSING, pb.Rollout.SETTLED):
        del rollout.failures[:]
        return
    known = [(failure.node, failure.service) for failure in rollout.failures]
    seen = [(failure.node, failure.service) for failure in failures]
    with_output = [any(failure.log_lines for failure in some) for some in (rollout.failures, failures)]
    if failures and (known != seen or with_output == [False, True]):
        del rollout.failures[:]
        rollout.failures.extend(failures)


def summarize(rollout: pb.Rollout, nodes: Sequence[NodeProgress], target: int, now: Now) -> None:
    """Write counts over all ``nodes`` and the progress of the worst hundred into ``rollout``.

    ``rollout`` holds the values recorded before and stays equal if nothing has changed. ``target`` is the number of the
    release whose services are counted.
    """
    known = {node.node: node for node in rollout.nodes}
    shown = nodes if len(nodes) <= MAX_NODES else _worst(nodes)
    progress = [_progress(node, known.get(node.name), now) for node in shown]
    rollout.counts.CopyFrom(_counts(nodes, target))
    del rollout.nodes[:]
    rollout.nodes.extend(progress)


def _worst(nodes: Sequence[NodeProgress]) -> list[NodeProgress]:
    """Return the most severe hundred of ``nodes``, sorted by name."""
    shown = heapq.nsmallest(MAX_NODES, nodes, key=lambda node: (severity_rank(node), node.name))
    return sorted(shown, key=lambda node: node.name)


def _counts(nodes: Sequence[NodeProgress], target: int) -> pb.NodeCounts:
    phases = Counter(node.phase for node in nodes)
    counts = pb.NodeCounts(
        total=len(nodes),
        services_settled=sum(node.services_settled for node in nodes if node.release == target),
        services_total=sum(node.services_total for node in nodes if node.release == target),
        services_started=sum(node.services_started for node in nodes if node.release == target),
    )
    for phase, count in phases.items():
        setattr(counts, _COUNTS[phase], count)
    return counts


def _progress(node: NodeProgress, known: pb.NodeProgress | None, now: Now) -> pb.NodeProgress:
    progress = pb.NodeProgress(
        node=node.name,
        phase=node.phase,
        reason=node.reason,
        services_settled=node.services_settled,
        services_total=node.services_total,
        release=node.release,
    )
    if known is not None and known.phase == node.phase and known.HasField("since"):
        progress.since.CopyFrom(known.since)
    else:
        progress.since.FromDatetime(now.utc)
    return progress
