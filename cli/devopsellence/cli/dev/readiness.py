"""Readiness of etcd, the controller with its gateway, and the agent: wait for each, and fail early for a crash loop.

A watch on etcd waits for the controller and the agent. etcd itself and the supervisor's snapshot are polled with
backoff, for a bounded time.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from typing import Final, TypeVar

from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_delay, wait_random_exponential

from devopsellence.api.v1.stored_pb2 import Candidate, Heartbeat
from devopsellence.cli.dev.paths import DevLayout
from devopsellence.cli.dev.problems import not_ready
from devopsellence.cli.dev.spec import ProcessReport, read_snapshot, specs_stamp
from devopsellence.store.codec import decode
from devopsellence.store.errors import Compacted, MalformedRecord, StoreError, Unavailable, WatchLost
from devopsellence.store.etcd import Etcd, KeyListing, Member

T = TypeVar("T")
SECONDS: Final = 60.0  # for each process
_LOOK_SECONDS: Final = 0.25
_PROBLEM_SECONDS: Final = 5.0
# Number of exits during a wait that counts as a crash loop.
_ENDS: Final = 3


class _NotYet(Exception):
    """Something is still waited for."""


async def etcd_answers(etcd: Etcd) -> Member:
    """Wait until etcd, itself or through a gateway, answers and has a leader.

    Raises:
        Unavailable: etcd did not answer for a minute.
    """
    async for attempt in AsyncRetrying(
        retry=retry_if_exception_type(Unavailable),
        wait=wait_random_exponential(multiplier=0.05, max=0.5),
        stop=stop_after_delay(SECONDS),
        reraise=True,
    ):
        with attempt:
            member = await etcd.member()
            if not member.leader:
                raise Unavailable("etcd has no leader yet")
            return member
    raise AssertionError("unreachable")


async def supervisor_follows(layout: DevLayout) -> None:
    """Wait until the supervisor runs the processes that it was told to run: those before may be about to end."""
    async for attempt in AsyncRetrying(
        retry=retry_if_exception_type(_NotYet), wait=wait_random_exponential(multiplier=0.01, max=_LOOK_SECONDS)
    ):
        with attempt:
            snapshot = read_snapshot(layout.snapshot)
            if snapshot is None or snapshot.specs not in (specs_stamp(layout.processes), ""):
                raise _NotYet


async def controller_leads(etcd: Etcd, pid: Callable[[], int]) -> Candidate:
    """Wait until the controller with ``pid()`` leads; a killed controller keeps its election key for a few seconds."""
    async with aclosing(listings(etcd, etcd.keys.election_prefix)) as updates:
        async for listing in updates:
            candidate = leader(listing)
            if candidate is not None and candidate.identity.rpartition("/")[2] == str(pid()):
                return candidate
    raise AssertionError("unreachable")


async def agent_beats(etcd: Etcd, node: str, uid: str, since: Callable[[], float]) -> Heartbeat:
    """Wait for a heartbeat without problems from the agent with ``uid`` that was started at ``since()``.

    ``since()``: seconds since the epoch, 0 for an agent that is not running. A problem lasting longer than a start
    takes (some seconds) is returned with the heartbeat.
    """
    beat = Heartbeat()
    give_up: float | None = None
    while True:
        left = None if give_up is None else give_up - time.monotonic()
        try:
            beat = await asyncio.wait_for(_beat(etcd, node, uid, since, after=beat), left)
        except TimeoutError:
            return beat
        if not problem_of(beat):
            return beat
        give_up = give_up or time.monotonic() + _PROBLEM_SECONDS


async def _beat(etcd: Etcd, node: str, uid: str, since: Callable[[], float], *, after: Heartbeat) -> Heartbeat:
    """Return the next heartbeat of the agent that differs from ``after``."""
    async with aclosing(listings(etcd, etcd.keys.heartbeats_prefix)) as updates:
        async for listing in updates:
            beat = heartbeat(etcd, listing, node)
            started = since()
            # Both times are of this machine's clock; the heartbeat may hold whole seconds only.
            ours = beat is not None and beat.uid == uid and started and beat.started_at.seconds >= int(started)
            if beat is not None and ours and beat != after:
                return beat
    raise AssertionError("unreachable")


def problem_of(beat: Heartbeat) -> str:
    """Return the problem of the agent from its heartbeat; "" for none."""
    return beat.problem or beat.folder_problem or ("" if beat.api_address else "the API of the agent is not listening")


def leader(listing: KeyListing) -> Candidate | None:
    """Return the leader from the election's keys (the oldest key); None for none or an unreadable record."""
    if not listing.items:
        return None
    first = min(listing.items, key=lambda item: item.create_revision)
    try:
        return decode(Candidate, first.key, first.value)
    except MalformedRecord:
        return None


def heartbeat(etcd: Etcd, listing: KeyListing, node: str) -> Heartbeat | None:
    """Return the heartbeat of ``node``; None for none or an unreadable record."""
    key = etcd.keys.heartbeat(node)
    for item in listing.items:
        if item.key == key:
            try:
                return decode(Heartbeat, item.key, item.value)
            except MalformedRecord:
                return None
    return None


async def listings(etcd: Etcd, prefix: str) -> AsyncGenerator[KeyListing, None]:
    """Yield all records under ``prefix``, now and after each change, forever."""
    while True:
        try:
            listing = await etcd.list(prefix)
            yield listing
            async with aclosing(etcd.watch(prefix, start_revision=listing.revision + 1)) as batches:
                async for batch in batches:
                    if batch.events:
                        break
        except (WatchLost, Compacted, Unavailable):
            await asyncio.sleep(_LOOK_SECONDS)  # etcd was just restarted


async def within(layout: DevLayout, process: str, what: str, ready: Awaitable[T]) -> T:
    """Wait for ``ready`` for up to a minute; fail early for a crash loop of ``process``.

    Raises:
        CliError: ``dev_not_ready``, with ``what`` as the message, and the last log lines of the process.
    """
    waiting = asyncio.ensure_future(ready)
    ends = _ends(layout, process)
    deadline = asyncio.get_running_loop().time() + SECONDS
    try:
        while not (await asyncio.wait([waiting], timeout=_LOOK_SECONDS))[0]:
            report = _report(layout, process)
            if _ends(layout, process) - ends >= _ENDS:
                raise not_ready(layout, report, what, f"crash loop: {process} {report.last_end}")
            if asyncio.get_running_loop().time() > deadline:
                raise not_ready(layout, report, what, f"timeout after {SECONDS:.0f} s")
        return waiting.result()
    except StoreError as error:
        raise not_ready(layout, _report(layout, process), what, str(error)) from error
    finally:
        waiting.cancel()
        await asyncio.wait([waiting])


def _report(layout: DevLayout, process: str) -> ProcessReport:
    snapshot = read_snapshot(layout.snapshot)
    return snapshot.process(process) if snapshot else ProcessReport(process, "stopped")


def _ends(layout: DevLayout, process: str) -> int:
    report = _report(layout, process)
    return report.restarts + (not report.alive and bool(report.last_end))
