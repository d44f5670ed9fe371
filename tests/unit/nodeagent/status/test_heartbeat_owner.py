"""Owner of a heartbeat key: one agent writes it, others are named, and nobody writes in turns."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from devopsellence.api.v1.stored_pb2 import AgentInstance, Heartbeat
from devopsellence.nodeagent.status.heartbeat_owner import (
    MAX_OTHERS,
    AgentProcess,
    HeartbeatDecision,
    HeartbeatRole,
    StoredHeartbeat,
    decide,
    instance_of,
    without,
)

OWNER, NAMED, STAND_BY = HeartbeatRole.OWNER, HeartbeatRole.NAMED, HeartbeatRole.STAND_BY
A = Heartbeat(node="n1", uid="u1", instance="a", hostname="host-a", docker_version="27")
B = Heartbeat(node="n1", uid="u1", instance="b", hostname="host-b")


def _with(beat: Heartbeat, *others: Heartbeat) -> Heartbeat:
    result = Heartbeat()
    result.CopyFrom(beat)
    result.others.extend(instance_of(other) for other in others)
    return result


def _other_uid(beat: Heartbeat) -> Heartbeat:
    result = Heartbeat()
    result.CopyFrom(beat)
    result.uid = "u2"
    return result


CASES: dict[str, tuple[StoredHeartbeat | None, int, frozenset[str], bool, HeartbeatDecision]] = {
    "no key": (None, 0, frozenset(), False, HeartbeatDecision(OWNER, A)),
    "unreadable key": (StoredHeartbeat(None, 7), 7, frozenset(), False, HeartbeatDecision(OWNER, A)),
    "own key as it should be": (StoredHeartbeat(A, 7), 7, frozenset(), False, HeartbeatDecision(OWNER)),
    "own key with other content": (
        StoredHeartbeat(Heartbeat(node="n1", uid="u1", instance="a"), 7),
        *(7, frozenset(), False),
        HeartbeatDecision(OWNER, A),
    ),
    "own key of a lease that has ended": (StoredHeartbeat(A, 7), 0, frozenset(), False, HeartbeatDecision(OWNER, A)),
    "own key that names another": (StoredHeartbeat(_with(A, B), 7), 7, frozenset(), False, HeartbeatDecision(OWNER)),
    "changed own key that names another": (
        StoredHeartbeat(_with(Heartbeat(node="n1", uid="u1", instance="a"), B), 7),
        *(7, frozenset(), False),
        HeartbeatDecision(OWNER, _with(A, B)),
    ),
    "key of an earlier process": (
        StoredHeartbeat(B, 5),
        *(0, frozenset({"b"}), False),
        HeartbeatDecision(OWNER, A),
    ),
    "key of version 0.1": (
        StoredHeartbeat(Heartbeat(node="n1", uid="u1"), 5),
        *(0, frozenset(), False),
        HeartbeatDecision(OWNER, A),
    ),
    "key without a lease": (StoredHeartbeat(B, 0), 7, frozenset(), False, HeartbeatDecision(OWNER, A)),
    "key of a second agent": (StoredHeartbeat(B, 5), 7, frozenset(), False, HeartbeatDecision(NAMED, _with(B, A))),
    "key of a second agent that names this one": (
        StoredHeartbeat(_with(B, A), 5),
        *(7, frozenset(), False),
        HeartbeatDecision(NAMED),
    ),
    "key of another machine": (StoredHeartbeat(_other_uid(B), 5), 7, frozenset(), False, HeartbeatDecision(STAND_BY)),
    "key of another machine while this one is registered": (
        StoredHeartbeat(_other_uid(B), 5),
        *(7, frozenset(), True),
        HeartbeatDecision(OWNER, A),
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_decision_about_a_heartbeat_key(case: str) -> None:
    stored, lease, former, is_registered, decision = CASES[case]
    assert decide(stored, A, lease, AgentProcess("a", former), is_registered=is_registered) == decision


def test_others_have_to_confirm_by_adding_themselves_again() -> None:
    asked = decide(StoredHeartbeat(_with(A, B), 7), A, 7, AgentProcess("a"), is_registered=True, confirm=True)
    assert asked == HeartbeatDecision(OWNER, A)
    answer = decide(StoredHeartbeat(A, 7), B, 0, AgentProcess("b"), is_registered=True)
    assert answer == HeartbeatDecision(NAMED, _with(A, B))


def test_named_others_are_limited() -> None:
    crowd = _with(B, *(Heartbeat(instance=f"o{number}") for number in range(MAX_OTHERS)))
    assert decide(StoredHeartbeat(crowd, 5), A, 0, AgentProcess("a"), is_registered=True) == HeartbeatDecision(NAMED)
    crowd.others.extend(AgentInstance(instance=f"hostile{number}") for number in range(1000))
    taken = decide(StoredHeartbeat(crowd, 0), A, 0, AgentProcess("a"), is_registered=True)
    assert taken.write is not None
    assert len(taken.write.others) == MAX_OTHERS


def test_ended_agent_takes_itself_out() -> None:
    assert without(_with(A, B), "b") == A
    assert without(A, "b") is None


class _Key:
    """Heartbeat key, and agents that look at it in any order; each has a lease of its number."""

    def __init__(self, former: dict[int, frozenset[str]]) -> None:
        self.stored: StoredHeartbeat | None = None
        self.former = former
        self.writes = 0

    def look(self, agent: int) -> HeartbeatDecision:
        own = Heartbeat(node="n1", uid="u1", instance=str(agent))
        process = AgentProcess(str(agent), self.former.get(agent, frozenset()))
        decision = decide(self.stored, own, agent, process, is_registered=True)
        if decision.write is not None:
            lease = agent if decision.role is OWNER else self.stored.lease if self.stored is not None else 0
            self.stored = StoredHeartbeat(decision.write, lease)
            self.writes += 1
        return decision

    def end(self, agent: int) -> None:
        if self.stored is not None and self.stored.lease == agent:
            self.stored = None


# A copied state folder: its process counts the other as ended.
CLONES = st.sampled_from([{}, {2: frozenset({"1"})}, {2: frozenset({"1"}), 3: frozenset({"1", "2"})}])


@settings(max_examples=200)
@given(former=CLONES, looks=st.lists(st.integers(1, 3), max_size=20), ended=st.none() | st.integers(1, 3))
def test_agents_of_one_uid_settle_on_one_owner_and_stop_writing(
    former: dict[int, frozenset[str]], looks: list[int], ended: int | None
) -> None:
    key = _Key(former)
    for agent in looks:
        key.look(agent)
    alive = [agent for agent in (1, 2, 3) if agent != ended]
    if ended is not None:
        key.end(ended)
    for _ in range(3):
        for agent in alive:
            key.look(agent)
    writes = key.writes
    roles = {agent: key.look(agent).role for agent in alive}
    assert key.writes == writes
    assert sorted(role.name for role in roles.values()) == sorted(["OWNER", *["NAMED"] * (len(alive) - 1)])
    assert key.stored is not None
    assert key.stored.beat is not None
    named = {key.stored.beat.instance, *(other.instance for other in key.stored.beat.others)}
    assert {str(agent) for agent in alive} <= named
