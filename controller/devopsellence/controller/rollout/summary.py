"""What a Rollout shows of its nodes: counts over all of them, and the progress of at most a hundred. Pure."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Sequence
from typing import Final

from devopsellence.api.v1 import stored_pb2 as pb
from devopsellence.controller.model.snapshot import Moment
from devopsellence.controller.rollout.node_progress import Judgement
from devopsellence.controller.rollout.verdict import gravity

MAX_NODES: Final = 100
_COUNTS: Final[dict[int, str]] = {
    pb.NodeProgress.PENDING: "pending",
    pb.NodeProgress.CONVERGING: "converging",
    pb.NodeProgress.SETTLED: "settled",
    pb.NodeProgress.FAILED: "failed",
    pb.NodeProgress.UNREACHABLE: "unreachable",
    pb.NodeProgress.ERROR: "error",
    pb.NodeProgress.WAITING: "waiting",
}


def summarize(rollout: pb.Rollout, judgements: Sequence[Judgement], target: int, now: Moment) -> None:
    """Write ``judgements`` into ``rollout``, which holds what was recorded before; unchanged if nothing has changed."""
    known = {one.node: one for one in rollout.nodes}
    shown = judgements if len(judgements) <= MAX_NODES else _worst(judgements)
    made = [_progress(one, known.get(one.node), now) for one in shown]
    rollout.counts.CopyFrom(_counts(judgements, target))
    del rollout.nodes[:]
    rollout.nodes.extend(made)


def _worst(judgements: Sequence[Judgement]) -> list[Judgement]:
    """Those that are shown, sorted by name."""
    shown = heapq.nsmallest(MAX_NODES, judgements, key=lambda one: (gravity(one), one.node))
    return sorted(shown, key=lambda one: one.node)


def _counts(judgements: Sequence[Judgement], target: int) -> pb.NodeCounts:
    phases = Counter(one.phase for one in judgements)
    counts = pb.NodeCounts(
        total=len(judgements),
        services_settled=sum(one.services_settled for one in judgements if one.release == target),
        services_total=sum(one.services_total for one in judgements if one.release == target),
    )
    for phase, count in phases.items():
        setattr(counts, _COUNTS[phase], count)
    return counts


def _progress(judgement: Judgement, known: pb.NodeProgress | None, now: Moment) -> pb.NodeProgress:
    progress = pb.NodeProgress(
        node=judgement.node,
        phase=judgement.phase,
        reason=judgement.reason,
        services_settled=judgement.services_settled,
        services_total=judgement.services_total,
        release=judgement.release,
    )
    if known is not None and known.phase == judgement.phase and known.HasField("since"):
        progress.since.CopyFrom(known.since)
    else:
        progress.since.FromDatetime(now.wall)
    return progress
