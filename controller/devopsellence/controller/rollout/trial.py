"""Trial of a release: the first minute of its services, during which a failure still fails a settled release. Pure.

The agents measure the minute, each by its own clock, and report per service whether a container of it has lasted for so
long. So the verdict follows from etcd alone, also for the next leader, and no clocks of two machines are compared.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from devopsellence.api.v1 import stored_pb2 as pb
from devopsellence.controller.rollout.coverage import is_whole
from devopsellence.controller.rollout.node_progress import NodeProgress, PlannedNode, describe_service, status_of

_Service = pb.ServiceStatus
_IDLE = (_Service.PENDING, _Service.PULLING)


@dataclass(frozen=True, slots=True)
class NodeTrial:
    """Trial of the services of one node."""

    #: No service that runs has yet to last.
    lasted: bool = True
    #: A sentence about a service that has ended by itself before it had lasted; empty: none has.
    first_failure: str = ""
    #: The same about a service that has ended again and again, so that the agent has given it up.
    given_up: str = ""


@dataclass(frozen=True, slots=True)
class ReleaseTrial:
    """Trial of a release on all its nodes. ``given_up`` has the name of the node with each sentence."""

    lasted: bool = True
    first_failure: str = ""
    given_up: Sequence[tuple[str, str]] = ()


def trial_of(planned_nodes: Iterable[PlannedNode], nodes: Iterable[NodeProgress], release: int) -> ReleaseTrial:
    """Return the trial of ``release``: of all nodes that are waited for and assigned all of it.

    ``nodes`` is the progress of ``planned_nodes``, in the same order.
    """
    trials = list(_trials(planned_nodes, nodes, release))
    return ReleaseTrial(
        all(trial.lasted for _, trial in trials),
        next((trial.first_failure for _, trial in trials if trial.first_failure), ""),
        tuple((name, trial.given_up) for name, trial in trials if trial.given_up),
    )


def _trials(
    planned_nodes: Iterable[PlannedNode], nodes: Iterable[NodeProgress], release: int
) -> Iterator[tuple[str, NodeTrial]]:
    for planned, progress in zip(planned_nodes, nodes, strict=True):
        assignment = planned.assignment
        if assignment is None or not progress.waited_for or not is_whole(assignment, release):
            continue
        inputs = (assignment.generation, assignment.node_uid)
        yield progress.name, planned.view.recall("trial", inputs, partial(_node_trial, planned))


def _node_trial(planned: PlannedNode) -> NodeTrial:
    status = status_of(planned.view, planned.assignment)
    if status is None:
        # It reports about another generation: nothing has lasted, as far as is known.
        return NodeTrial(lasted=False)
    new = [service for service in status.services if service.HasField("lasted") and not service.lasted]
    ended = [service for service in new if service.HasField("last_exit")]
    given_up = [service for service in ended if service.failed]
    name = planned.view.name
    return NodeTrial(
        # A service that has never been started cannot end: it holds up no release that has settled.
        lasted=all(service.phase in _IDLE for service in new if service not in ended) and not ended,
        first_failure=describe_service(ended[0], name) if ended else "",
        given_up=describe_service(given_up[0], name) if given_up else "",
    )
