"""Which containers requests go to, and what waits for the last of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import pytest

from devopsellence.clock import Now
from devopsellence.nodeagent.docker.model import Container, ContainerState, Health, Network, Observed, ProbeVerdict
from devopsellence.nodeagent.plan.actions import RestartHistories
from devopsellence.nodeagent.plan.environment import plan
from devopsellence.nodeagent.plan.history import NO_HISTORY
from devopsellence.nodeagent.plan.spec import Desired
from tests.unit.nodeagent.planning import COMPLETED, ENV, STARTED, container, kinds, service, want, wanted

NOW = Now(1000.0, 2_000_000.0)
NETWORK = Network("net-1", want().network, str(ENV))
CHECKING, HEALTHY = Health(ProbeVerdict.CHECKING), Health(ProbeVerdict.HEALTHY)
UNHEALTHY = Health(ProbeVerdict.UNHEALTHY, message="answered 500")
OVERDUE = Health(ProbeVerdict.UNHEALTHY, past_start_deadline=True)

OLD, NEW, NEWER = (service(version=version, check=True) for version in "123")
A = container(OLD, identity="a", release=1)
B = container(NEW, identity="b", release=2)
C = container(NEWER, identity="c", release=3)
OLD_DB, NEW_DB = service("db", "1", volume=True), service("db", "2", volume=True)
A_DB, B_DB = container(OLD_DB, identity="a"), container(NEW_DB, ContainerState.CREATED, identity="b")
JOB = service("job")
SERVES, BUSY = "serves", "3 requests are under way"


def proved(*containers: Container) -> RestartHistories:
    return {(each.service, each.hash): NO_HISTORY.running(each) for each in containers}


@dataclass(frozen=True)
class Row:
    """``serving``: ids. ``actions``: of all services."""

    says: str
    goal: Desired
    there: Sequence[Container]
    serving: Sequence[str]
    actions: Sequence[str]
    health: Mapping[str, Health] = field(default_factory=dict)
    memories: RestartHistories = field(default_factory=dict)
    held: Mapping[str, str] = field(default_factory=dict)
    reason: str = ""


ROWS = [
    Row("the first one gets no requests before it has proved itself", want(OLD), [A], [], [], {"a": CHECKING}),
    Row("and then it does", want(OLD), [A], ["a"], [], {"a": HEALTHY}),
    Row("one without a check does once it has run for a moment", want(OLD_DB), [A_DB], ["a"], []),
    Row("and not before", want(OLD_DB), [replace(A_DB, running_since=999.9)], [], []),
    Row("the old one does while the new one is checked", want(NEW), [A, B], ["a"], [],
        {"b": CHECKING}, proved(A), {"a": SERVES}),
    Row("an old one that was never healthy does not", want(NEW), [A, B], [], [], {"b": CHECKING}),
    Row("unless requests go to it already: that is remembered elsewhere", want(NEW), [A, B], ["a"], [],
        {"b": CHECKING}, {}, {"a": SERVES}),
    Row("one that is between them and was never healthy goes, and gets none", want(NEWER), [A, B, C], ["a"],
        ["web:stop", "web:remove"], {"c": CHECKING}, proved(A), {"a": SERVES}),
    Row("when the new one is healthy requests go there, and the old one waits for its last", want(NEW), [A, B], ["b"],
        [], {"b": HEALTHY}, proved(A), {"a": SERVES}, f"the old container {A.name} is not stopped yet: serves"),
    Row("for as long as it takes", want(NEW), [A, B], ["b"], [], {"b": HEALTHY}, proved(A, B),
        {"a": BUSY, "b": SERVES}, f"the old container {A.name} is not stopped yet: {BUSY}"),
    Row("and then it is stopped", want(NEW), [A, B], ["b"], ["web:stop", "web:remove"], {"b": HEALTHY}, proved(A, B),
        {"b": SERVES}),
    Row("one that waits does not keep a third version back", want(NEWER), [A, B], ["b"],
        ["web:create", "web:start"], {}, proved(A, B), {"a": BUSY, "b": SERVES}),
    Row("after the agent's restart requests go on to where they went", want(OLD), [A], ["a"], [],
        {"a": CHECKING}, proved(A), {"a": SERVES}),
    Row("also when a check has failed since", want(OLD), [A], ["a"], [],
        {"a": replace(CHECKING, message="answered 500")}, {}, {"a": SERVES}),
    Row("one that was started again gets none before it is healthy again", want(OLD), [A], [], [],
        {"a": CHECKING}, proved(A)),
    Row("one that is healthy no more is stopped at once, whatever is under way", want(OLD), [A], [],
        ["web:stop", "web:remove", "web:create", "web:start"], {"a": UNHEALTHY}, proved(A), {"a": SERVES}),
    Row("or it is the last resort, while it may not be replaced yet", want(OLD), [replace(A, running_since=995.0)],
        ["a"], [], {"a": UNHEALTHY}, {("web", A.hash): replace(NO_HISTORY.running(A), lapses=1)}, {"a": SERVES}),
    Row("but not if it never was healthy itself", want(OLD), [replace(A, running_since=995.0)],
        [], [], {"a": UNHEALTHY}, {("web", A.hash): replace(NO_HISTORY, lapses=1)}),
    Row("and not in place of an older one that is still there", want(NEW), [A, replace(B, running_since=995.0)], ["b"],
        [], {"b": UNHEALTHY}, {**proved(A), ("web", B.hash): replace(NO_HISTORY.running(B), lapses=1)},
        {"a": BUSY, "b": SERVES}, "not healthy: answered 500; is replaced again later"),
    Row("one that never becomes healthy is stopped, and never got any", want(NEW), [A, B], ["a"], ["web:stop"],
        {"b": OVERDUE}, proved(A), {"a": SERVES}),
    Row("one that is paused gets none", want(OLD), [replace(A, state=ContainerState.PAUSED)], [], [], {}, proved(A),
        {"a": SERVES}),
    Row("one that has ended gets none", want(OLD), [replace(A, state=ContainerState.EXITED)], [], ["web:examine"], {},
        proved(A), {"a": BUSY}),
    Row("volumes: the old one gets requests until the new one has been created", want(NEW_DB), [A_DB], ["a"],
        ["db:create"], {}, proved(A_DB), {"a": SERVES}),
    Row("then none any more, and waits for its last", want(NEW_DB), [A_DB, B_DB], [], [], {}, proved(A_DB),
        {"a": SERVES}, f"the old container {A_DB.name} is not stopped yet: serves"),
    Row("then it makes way", want(NEW_DB), [A_DB, B_DB], [], ["db:stop", "db:start"], {}, proved(A_DB)),
    Row("a service that leaves gets none, and waits for its last", want(), [A], [], [], {}, proved(A), {"a": BUSY},
        f"the old container {A.name} is not stopped yet: {BUSY}"),
    Row("as does all of an environment that leaves", want(removed=True), [A], [], [], {}, proved(A), {"a": BUSY},
        f"the old container {A.name} is not stopped yet: {BUSY}"),
    Row("what it depends on waits with it", want(removed=True),
        [container(service("app", after={"web": STARTED}), identity="app"), A], [], [], {}, {}, {"app": BUSY}),
    Row("one that is to complete gets none", want(service("app", after={"job": COMPLETED}), JOB),
        [container(JOB)], [], ["app:create"]),
]  # fmt: skip


@pytest.mark.parametrize("row", ROWS, ids=[each.says.replace(" ", "-") for each in ROWS])
def test_serving(row: Row) -> None:
    made = plan(row.goal, Observed(tuple(row.there), NETWORK, row.health, row.held), row.memories, NOW)
    found = {each.service: each for each in made.services}
    assert [each.id for service_ in made.services for each in service_.serving] == row.serving
    assert kinds(made.actions) == row.actions
    if row.reason:
        assert row.reason in [each.reason for each in found.values()]
    assert all(not each.settled or not row.held.keys() - {one.id for one in each.serving} for each in found.values())


def test_the_spec_that_is_assigned_is_the_one_with_the_hash() -> None:
    """What the rows stand on."""
    assert [each.hash for each in (A, B, C)] == [wanted(each).hash for each in (OLD, NEW, NEWER)]
