"""Every sentence that a record gives as the reason of its state is shown, wherever a person or a program looks.

The test goes over the messages stored in etcd: a new one with a reason has to be added here.
"""

from __future__ import annotations

import json as json_text
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, Final

import pytest
from google.protobuf.descriptor import Descriptor
from rich.console import Console

from devopsellence.api.v1 import stored_pb2 as pb
from devopsellence.api.v1.workload_pb2 import Ingress, IngressRule
from devopsellence.cli.output import Output
from devopsellence.cli.render import json, screen, text
from devopsellence.cli.render.lines import LineReporter
from devopsellence.cli.render.reasons import unexplained
from devopsellence.cli.store.snapshot import Snapshot
from tests.unit.cli.render.snapshots import NOW, WEB, rollout, running, snapshot, status

CAUSE: Final = "because of 4711"
#: Names of fields with a sentence about the state of their record.
NAMES: Final = frozenset({"reason", "problem", "halted"})


def with_reason() -> set[str]:
    """Return the fields of all stored messages that hold such a sentence, as ``Message.field``."""

    def fields(message: Descriptor) -> Iterator[str]:
        yield from (f"{message.name}.{field.name}" for field in message.fields if field.name in NAMES)
        for nested in message.nested_types:
            yield from fields(nested)

    return {name for message in pb.DESCRIPTOR.message_types_by_name.values() for name in fields(message)}


def each_phase(message: Any, make: Callable[[int], Snapshot], *without: str) -> dict[str, Callable[[], Snapshot]]:
    """Return ``make`` for every phase of a message, by its name."""
    values = message.DESCRIPTOR.fields_by_name["phase"].enum_type.values
    return {value.name: partial(make, value.number) for value in values if value.number and value.name not in without}


def of_assignment(phase: Any, **fields: Any) -> Snapshot:
    given = fields or {"reason": CAUSE}
    return snapshot(statuses={"n1": status(running("redis"), running("web"), phase=phase, **given)})


def of_blocked() -> Snapshot:
    web = running("web", phase=pb.ServiceStatus.PENDING)
    return snapshot(statuses={"n1": status(web, phase=pb.AssignmentStatus.FAILED, problem=CAUSE)})


def of_leaving() -> Snapshot:
    return snapshot(statuses={"n1": status(phase=pb.AssignmentStatus.CONVERGING, reason=CAUSE)})


def of_service(phase: Any, **fields: Any) -> Snapshot:
    given = fields or {"reason": CAUSE}
    return snapshot(statuses={"n1": status(running("redis"), running("web", phase=phase, **given))})


def of_service_of_another_release(**more: Any) -> Snapshot:
    web = running("web", phase=pb.ServiceStatus.BACKOFF, reason=CAUSE)
    return snapshot(statuses={"n1": status(web, release=1)}, **more)


def of_service_that_waits() -> Snapshot:
    waits = pb.NodeProgress(node="n1", phase=pb.NodeProgress.WAITING, reason="n1 waits", release=1)
    return of_service_of_another_release(rollout=rollout(pb.Rollout.PROGRESSING, nodes=[waits]))


def of_unhealthy() -> Snapshot:
    unhealthy = pb.UnhealthyContainer(container="c1", reason=CAUSE, log_lines=["no database"])
    health = pb.ServiceStatus.UNHEALTHY
    return of_service(pb.ServiceStatus.STARTING, health=health, last_unhealthy=unhealthy)


def with_ingress(ingress: pb.IngressStatus | None, certificate: pb.Certificate | None = None) -> Snapshot:
    rules = [IngressRule(host="a.example.com", service="web", port="http")]
    routed = pb.Release(number=2, services=[WEB], ingress=Ingress(hosts=["a.example.com"], rules=rules))
    return snapshot(
        release=routed,
        statuses={"n1": status(running("redis"), running("web"), ingress=ingress)},
        certificates={"a.example.com": certificate} if certificate is not None else {},
    )


def of_ingress(phase: Any) -> Snapshot:
    return with_ingress(pb.IngressStatus(phase=phase, reason=CAUSE))


def of_issuance(phase: Any) -> Snapshot:
    return with_ingress(None, pb.Certificate(issuance=pb.Issuance(phase=phase, reason=CAUSE)))


def of_task(phase: Any) -> Snapshot:
    task = pb.TaskStatus(name="migrate", node="n1", release=2, reason=CAUSE, phase=phase)
    return snapshot(rollout=rollout(pb.Rollout.PROGRESSING, task=task))


def of_node(phase: Any) -> Snapshot:
    progress = pb.NodeProgress(node="n1", phase=phase, reason=f"n1: {CAUSE}", release=2)
    services = [running("redis"), running("web")]
    if phase in (pb.NodeProgress.PENDING, pb.NodeProgress.CONVERGING, pb.NodeProgress.FAILED):
        services[1].phase = pb.ServiceStatus.PENDING
    # The controller repeats the reasons of nodes that are not ready yet, of the first three.
    reason = f"n1: {CAUSE}" if phase in (pb.NodeProgress.PENDING, pb.NodeProgress.CONVERGING) else ""
    return snapshot(
        rollout=rollout(pb.Rollout.PROGRESSING, nodes=[progress], reason=reason), statuses={"n1": status(*services)}
    )


def of_rollout(phase: Any, **fields: Any) -> Snapshot:
    return snapshot(rollout=rollout(phase, **(fields or {"reason": CAUSE})))


def of_heartbeat(phase: Any) -> Snapshot:
    progress = pb.NodeProgress(node="n1", phase=phase, release=2)
    return snapshot(
        heartbeats={"n1": pb.Heartbeat(uid="u1", problem=CAUSE)},
        rollout=rollout(pb.Rollout.PROGRESSING, nodes=[progress]),
    )


FAILURES: Final = [pb.ServiceFailure(node="n1", service="web", release=2, reason=CAUSE)]
#: Snapshots that show the field, with the phase or the situation as the name.
SNAPSHOTS: Final[Mapping[str, Mapping[str, Callable[[], Snapshot]]]] = {
    "AssignmentStatus.reason": {**each_phase(pb.AssignmentStatus, of_assignment), "no services": of_leaving},
    "AssignmentStatus.problem": {"FAILED": of_blocked},
    "ServiceStatus.reason": {
        **each_phase(pb.ServiceStatus, of_service),
        "of another release": of_service_of_another_release,
        "on a node that waits": of_service_that_waits,
    },
    "UnhealthyContainer.reason": {"UNHEALTHY": of_unhealthy},
    "IngressStatus.reason": each_phase(pb.IngressStatus, of_ingress),
    "Issuance.reason": each_phase(pb.Issuance, of_issuance),
    "TaskStatus.reason": each_phase(pb.TaskStatus, of_task),
    "NodeProgress.reason": each_phase(pb.NodeProgress, of_node),
    "Rollout.reason": each_phase(pb.Rollout, of_rollout, "SUPERSEDED"),
    "Rollout.halted": {
        "PROGRESSING": partial(of_rollout, pb.Rollout.PROGRESSING, halted=CAUSE),
        "FAILED": partial(of_rollout, pb.Rollout.FAILED, halted=CAUSE, reason="another"),
        "ROLLING_BACK": partial(of_rollout, pb.Rollout.ROLLING_BACK, halted=CAUSE, target=1),
    },
    "ServiceFailure.reason": {
        # A deploy shows failures in its error, see test_follow.
        "FAILED": partial(of_rollout, pb.Rollout.FAILED, target=1, failures=FAILURES, reason=CAUSE),
    },
    "Heartbeat.problem": each_phase(pb.NodeProgress, of_heartbeat),
}
#: Fields that another command shows: ``release list`` and ``release show``, ``operator list``.
ELSEWHERE: Final = {"RolloutOutcome.reason", "DeniedCertificate.reason"}
ROWS: Final = [
    pytest.param(make, id=f"{name}: {situation}")
    for name, situations in SNAPSHOTS.items()
    for situation, make in situations.items()
]


def test_reason_of_every_stored_message_is_covered() -> None:
    assert set(SNAPSHOTS) | ELSEWHERE == with_reason()


@pytest.mark.parametrize("make", ROWS)
def test_reason_is_in_the_text_of_the_status(make: Callable[[], Snapshot]) -> None:
    assert CAUSE in text.status(make(), NOW)
    assert CAUSE in text.status(make(), NOW, everything=True)


@pytest.mark.parametrize("make", ROWS)
def test_reason_is_in_the_json_of_the_status(make: Callable[[], Snapshot]) -> None:
    assert CAUSE in json_text.dumps(json.status(make(), NOW))


@pytest.mark.parametrize("make", ROWS)
def test_reason_is_on_the_live_screen(make: Callable[[], Snapshot]) -> None:
    console = Console(width=300, height=80, color_system=None)
    assert CAUSE in "\n".join(screen.frame(console, make(), NOW))


@pytest.mark.parametrize("make", ROWS)
def test_reason_is_in_the_progress_of_a_deploy(
    make: Callable[[], Snapshot], capsys: pytest.CaptureFixture[str]
) -> None:
    LineReporter(Output(), "deploy", whole=False, everything=False).show(make(), 2)
    assert CAUSE in capsys.readouterr().out


def test_failure_of_a_service_is_shown_for_itself() -> None:
    state = of_rollout(pb.Rollout.FAILED, target=1, failures=FAILURES, reason="another")
    assert CAUSE in text.status(state, NOW)
    assert CAUSE in json_text.dumps(json.status(state, NOW))


def test_equal_reasons_of_many_nodes_share_a_line() -> None:
    statuses = {
        f"n{number}": status(node=f"n{number}", phase=pb.AssignmentStatus.CONVERGING, reason=f"n{number}: {CAUSE}")
        for number in range(1, 30)
    }
    assert unexplained(snapshot(statuses=statuses), "") == [f"n1\N{EN DASH}n29: {CAUSE}"]


def test_different_reasons_of_many_nodes_are_limited() -> None:
    statuses = {
        f"n{number}": status(node=f"n{number}", phase=pb.AssignmentStatus.CONVERGING, reason=f"{CAUSE} {number}!")
        for number in range(1, 30)
    }
    lines = unexplained(snapshot(statuses=statuses), "")
    assert (len(lines), lines[-1]) == (11, "and 19 other reasons")


@pytest.mark.parametrize(
    "shown",
    [
        f"n1  web  starting  {CAUSE}",
        f"n1 web: starting ({CAUSE})",
        f"web: {CAUSE}",
        f'service "web" on n1: {CAUSE} (exit code 3)',
    ],
)
@pytest.mark.parametrize("reason", [CAUSE, f"web: {CAUSE}", f"{CAUSE} (exit code 3)"])
def test_reason_that_is_shown_in_other_words_is_no_note(shown: str, reason: str) -> None:
    state = snapshot(statuses={"n1": status(phase=pb.AssignmentStatus.CONVERGING, reason=reason)})
    assert unexplained(state, shown) == []


def test_settled_environment_has_no_notes() -> None:
    assert unexplained(snapshot(), "") == []


def test_reason_of_an_earlier_release_is_in_its_outcome() -> None:
    outcome = pb.RolloutOutcome(release=1, phase=pb.Rollout.FAILED, reason=CAUSE)
    outcomes = json.release_outcomes(rollout(pb.Rollout.SETTLED, history=[outcome]))
    assert outcomes[1].reason == CAUSE
