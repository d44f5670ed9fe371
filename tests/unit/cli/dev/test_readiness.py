"""Readiness of the controller and the agent."""

import asyncio
from pathlib import Path

import pytest

from devopsellence.api.v1.stored_pb2 import Candidate, Heartbeat
from devopsellence.cli.dev.paths import DevLayout
from devopsellence.cli.dev.process import ProcessIdentity
from devopsellence.cli.dev.readiness import leader, problem_of, supervisor_follows
from devopsellence.cli.dev.spec import SupervisorSnapshot, specs_stamp, write_snapshot, write_specs
from devopsellence.store.codec import encode
from devopsellence.store.types import KeyListing, KeyValue


def listing(*candidates: tuple[bytes, int]) -> KeyListing:
    items = [KeyValue(f"/e/{revision}", value, revision, revision, 1, 7) for value, revision in candidates]
    return KeyListing(tuple(items), revision=99, cluster_id=1)


def candidate(identity: str) -> bytes:
    return encode(Candidate(identity=identity))


def test_oldest_candidate_is_the_leader() -> None:
    found = leader(listing((candidate("vm/2"), 9), (candidate("vm/1"), 4)))
    assert found is not None
    assert found.identity == "vm/1"


def test_no_leader_without_readable_first_candidate() -> None:
    assert leader(listing()) is None
    assert leader(listing((b"{", 4), (candidate("vm/2"), 9))) is None


@pytest.mark.parametrize(
    ("beat", "problem"),
    [
        (Heartbeat(api_address="127.0.0.1:20102"), ""),
        (Heartbeat(api_address="127.0.0.1:20102", problem="no Docker"), "no Docker"),
        (Heartbeat(api_address="127.0.0.1:20102", folder_problem="disk full"), "disk full"),
        (Heartbeat(), "the API of the agent is not listening"),
    ],
)
def test_healthy_heartbeat_has_no_problem_and_an_api_address(beat: Heartbeat, problem: str) -> None:
    assert problem_of(beat) == problem


async def test_supervisor_is_waited_for_until_it_runs_what_it_was_told_to(tmp_path: Path) -> None:
    layout = DevLayout(tmp_path)
    layout.processes.parent.mkdir()
    write_specs(layout.processes, ())

    def publish(specs: str) -> None:
        write_snapshot(layout.snapshot, SupervisorSnapshot(ProcessIdentity(1, "then"), 0.0, (), specs))

    publish("of the processes before")
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(supervisor_follows(layout), 0.05)
    publish(specs_stamp(layout.processes))
    await supervisor_follows(layout)
    # By a supervisor of an earlier version.
    publish("")
    await supervisor_follows(layout)
