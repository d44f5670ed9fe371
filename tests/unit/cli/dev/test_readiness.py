"""What counts as a leader and as an agent that is well, and what a person is told when Docker is not there."""

import pytest

from devopsellence.api.v1.stored_pb2 import Candidate, Heartbeat
from devopsellence.cli.dev.docker_api import DockerHttpError
from devopsellence.cli.dev.problems import docker_unusable
from devopsellence.cli.dev.readiness import leader, problem_of
from devopsellence.store.codec import encode
from devopsellence.store.types import KeyListing, KeyValue


def listing(*candidates: tuple[bytes, int]) -> KeyListing:
    items = [KeyValue(f"/e/{revision}", value, revision, revision, 1, 7) for value, revision in candidates]
    return KeyListing(tuple(items), revision=99, cluster_id=1)


def candidate(identity: str) -> bytes:
    return encode(Candidate(identity=identity))


def test_the_oldest_candidate_leads() -> None:
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
        (Heartbeat(), "the API of the agent is not listening"),
    ],
)
def test_an_agent_is_well_when_it_says_no_problem_and_where_its_api_is(beat: Heartbeat, problem: str) -> None:
    assert problem_of(beat) == problem


@pytest.mark.parametrize(
    ("cause", "command"),
    [
        (FileNotFoundError(), "sudo apt-get install docker.io"),
        (PermissionError(), "sudo usermod -aG docker $USER"),
        (ConnectionRefusedError(), "sudo systemctl start docker"),
        (TimeoutError(), "docker version"),
        (None, "docker version"),
    ],
)
def test_docker_fix_depends_on_the_problem(cause: Exception | None, command: str) -> None:
    error = DockerHttpError("why")
    error.__cause__ = cause
    explained = docker_unusable(error)
    assert (explained.code, explained.message, explained.exit_code) == ("docker_unavailable", "why", 1)
    assert explained.next_actions[0].command == command
