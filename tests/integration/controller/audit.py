"""Audit of all revisions of etcd under a prefix: controller-owned keys, their writers, and the leader at the time."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass

from devopsellence.api.v1 import stored_pb2 as pb
from devopsellence.store.codec import decode
from devopsellence.store.etcd import Etcd, WatchEvent
from devopsellence.store.keys import Keys

History = Mapping[int, Sequence[WatchEvent]]


@dataclass(frozen=True)
class Candidacy:
    """A key in the election, from its creation until it was deleted (None: it is still there)."""

    key: str
    identity: str
    created: int
    deleted: int | None = None

    def stands_at(self, revision: int) -> bool:
        return self.created < revision and (self.deleted is None or revision < self.deleted)


@dataclass(frozen=True)
class Findings:
    """Result of an audit: revisions written by controllers, leaders with a write, and violations."""

    writes: int
    leaders: Sequence[str]
    defects: Sequence[str]


async def next_revision(etcd: Etcd) -> int:
    """Return the next revision, as the start of a history. Earlier revisions may have been compacted by other tests."""
    return (await etcd.head(etcd.keys.prefix)).revision + 1


async def read_history(etcd: Etcd, since: int) -> History:
    """All changes under the prefix from revision ``since`` on, by revision; none of them may have been compacted."""
    prefix = etcd.keys.prefix
    until = await etcd.put(f"{prefix}audit-end", b"")
    history: dict[int, list[WatchEvent]] = defaultdict(list)
    async with aclosing(etcd.watch(prefix, start_revision=since)) as batches:
        async for batch in batches:
            for event in batch.events:
                history[event.mod_revision].append(event)
            if until in history:
                return history
    raise AssertionError("the watch has ended")


def audit(history: History, keys: Keys, *, certificates: bool = False) -> Findings:
    """Check that each revision of a controller was written by the leader, in the term of its signature.

    ``certificates``: Certificate records count as written by controllers too, because the test writes none by hand.
    """
    ours = [keys.all_assignments_prefix, keys.rollouts_prefix, keys.all_ingress_prefix]
    if certificates:
        ours.append(keys.all_certificates_prefix)
    candidacies = _candidacies(history, keys)
    writes = 0
    leaders: list[str] = []
    defects: list[str] = []
    for revision in sorted(history):
        events = history[revision]
        written = [event.key for event in events if _is_controllers(event, keys, tuple(ours))]
        if not written or is_by_hand(events, keys):
            continue
        writes += 1
        leader = min((one for one in candidacies if one.stands_at(revision)), key=lambda one: one.created, default=None)
        signed = _signature(events, keys)
        if signed is None:
            defects.append(f"revision {revision}: {written} was written by nobody who signed")
        elif leader is None or signed != (leader.identity, leader.key, leader.created):
            defects.append(f"revision {revision}: {written} was written by {signed} while {leader} led")
        elif not leaders or leaders[-1] != leader.key:
            leaders.append(leader.key)
    return Findings(writes, leaders, [*defects, *_generations_backwards(history, keys)])


def by_hand_key(keys: Keys) -> str:
    """Return the key that a test writes in the same transaction as what it changes by hand."""
    return f"{keys.prefix}by-hand"


def is_by_hand(events: Iterable[WatchEvent], keys: Keys) -> bool:
    """Return whether a test made the changes of a revision by hand."""
    return any(event.key == by_hand_key(keys) for event in events)


def _candidacies(history: History, keys: Keys) -> list[Candidacy]:
    standing: dict[str, Candidacy] = {}
    ended = []
    for revision in sorted(history):
        for event in history[revision]:
            if not event.key.startswith(keys.election_prefix):
                continue
            if event.kv is not None:
                identity = decode(pb.Candidate, event.key, event.kv.value).identity
                standing[event.key] = Candidacy(event.key, identity, revision)
            elif one := standing.pop(event.key, None):
                ended.append(Candidacy(one.key, one.identity, one.created, revision))
    return [*ended, *standing.values()]


def _is_controllers(event: WatchEvent, keys: Keys, ours: tuple[str, ...]) -> bool:
    if event.key.startswith(ours):
        return True
    if event.key.startswith(keys.all_statuses_prefix):
        return event.kv is None
    return event.kv is not None and event.key.startswith(keys.all_events_prefix) and b'"controller"' in event.kv.value


def _signature(events: Iterable[WatchEvent], keys: Keys) -> tuple[str, str, int] | None:
    for event in events:
        if event.key.startswith(f"{keys.prefix}audit/") and event.kv is not None:
            signed = json.loads(event.kv.value)
            return signed["identity"], signed["key"], signed["revision"]
    return None


def _generations_backwards(history: History, keys: Keys) -> list[str]:
    """Assignments whose generation did not rise with a write, although the key was there all the time."""
    defects = []
    newest: dict[str, int] = {}
    for revision in sorted(history):
        for event in history[revision]:
            if not event.key.startswith(keys.all_assignments_prefix):
                continue
            if event.kv is None:
                newest.pop(event.key, None)
                continue
            generation = decode(pb.Assignment, event.key, event.kv.value).generation
            if generation <= newest.get(event.key, 0):
                defects.append(
                    f"revision {revision}: {event.key} went from generation {newest[event.key]} to {generation}"
                )
            newest[event.key] = generation
    return defects
