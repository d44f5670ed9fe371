"""Owner of a heartbeat key: the one agent that writes it if several agents use the name of a node. Pure.

Of two machines, the one with the registered uid owns the key. Of two agents with one uid, the one that has the key owns
it until its end; the other adds itself to ``others``, so that both, and everybody else, know of two agents. Nobody
writes over a living owner of the same uid, so two agents never write in turns.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto
from typing import Final

from devopsellence.api.v1.stored_pb2 import AgentInstance, Heartbeat

#: Largest number of other agents named in a heartbeat.
MAX_OTHERS: Final = 10


@dataclass(frozen=True)
class AgentProcess:
    """Id of an agent process, and the ids of earlier processes on this machine with the same state folder."""

    instance: str
    former: frozenset[str] = frozenset()


class HeartbeatRole(Enum):
    """Relation of this agent to the heartbeat key of its node."""

    #: This agent writes the key.
    OWNER = auto()
    #: Another agent with the same uid writes the key, which names this agent.
    NAMED = auto()
    #: Another machine, which is the registered one, writes the key.
    STAND_BY = auto()


@dataclass(frozen=True)
class StoredHeartbeat:
    """Heartbeat key as read: ``beat`` is None if the value is unreadable, ``lease`` 0 for none."""

    beat: Heartbeat | None
    lease: int


@dataclass(frozen=True)
class HeartbeatDecision:
    """Role of this agent, and the heartbeat to write; None: the key is as it should be."""

    role: HeartbeatRole
    write: Heartbeat | None = None


def is_of_other_machine(stored: StoredHeartbeat | None, own: Heartbeat) -> bool:
    """Return True if the key names another uid, so that the registered uid decides."""
    return stored is not None and stored.beat is not None and stored.beat.uid not in ("", own.uid)


def decide(
    stored: StoredHeartbeat | None,
    own: Heartbeat,
    own_lease: int,
    process: AgentProcess,
    *,
    is_registered: bool,
    confirm: bool = False,
) -> HeartbeatDecision:
    """Return the role of the agent ``process`` and its next write.

    Args:
        own: heartbeat of this agent, without ``others``.
        own_lease: id of this agent's lease as long as it is held, else 0.
        is_registered: the uid of ``own`` is the registered one; needed if :func:`is_of_other_machine`.
        confirm: name no other agents: those that still run add themselves again.
    """
    if stored is None or stored.beat is None:
        return HeartbeatDecision(HeartbeatRole.OWNER, own)
    beat = stored.beat
    if is_of_other_machine(stored, own):
        return (
            HeartbeatDecision(HeartbeatRole.OWNER, own) if is_registered else HeartbeatDecision(HeartbeatRole.STAND_BY)
        )
    has_key = own_lease != 0 and stored.lease == own_lease
    ended = not beat.instance or beat.instance in process.former or beat.instance == own.instance or stored.lease == 0
    if has_key or ended:
        wanted = own if confirm else _with_others(own, beat)
        return HeartbeatDecision(HeartbeatRole.OWNER, None if has_key and wanted == beat else wanted)
    if any(other.instance == own.instance for other in beat.others) or len(beat.others) >= MAX_OTHERS:
        return HeartbeatDecision(HeartbeatRole.NAMED)
    named = Heartbeat()
    named.CopyFrom(beat)
    named.others.append(instance_of(own))
    return HeartbeatDecision(HeartbeatRole.NAMED, named)


def without(beat: Heartbeat, instance: str) -> Heartbeat | None:
    """Return ``beat`` without ``instance`` among the other agents; None if it is not named there."""
    kept = [other for other in beat.others if other.instance != instance]
    if len(kept) == len(beat.others):
        return None
    changed = Heartbeat()
    changed.CopyFrom(beat)
    del changed.others[:]
    changed.others.extend(kept)
    return changed


def instance_of(beat: Heartbeat) -> AgentInstance:
    """Return the agent that writes ``beat``."""
    instance = AgentInstance(instance=beat.instance, hostname=beat.hostname)
    if beat.HasField("started_at"):
        instance.started_at.CopyFrom(beat.started_at)
    return instance


def _with_others(own: Heartbeat, beat: Heartbeat) -> Heartbeat:
    wanted = Heartbeat()
    wanted.CopyFrom(own)
    wanted.others.extend([other for other in beat.others if other.instance != own.instance][:MAX_OTHERS])
    return wanted
