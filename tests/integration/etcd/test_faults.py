"""What etcd's members may go through while agents and controllers go on, and a container does not notice."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import pytest

from tests.integration.etcd.member import Member
from tests.integration.etcd.secured_cluster import Stage

pytestmark = [pytest.mark.docker, pytest.mark.etcd, pytest.mark.usefixtures("untouched")]


def follower(stage: Stage) -> Member:
    leader = stage.leader
    return next(member for member in stage.members if member is not leader)


@contextmanager
def killed(stage: Stage, member: Member) -> Iterator[None]:
    member.end()
    try:
        yield
    finally:
        member.start()
        stage.ready()


@contextmanager
def leader_moved(stage: Stage) -> Iterator[None]:
    leader, next_one = stage.leader, follower(stage)
    said = stage.etcdctl("endpoint", "status", "--write-out=simple", at=[next_one]).stdout
    stage.etcdctl("move-leader", said.split(", ")[1], at=[leader])
    yield


@contextmanager
def minority(stage: Stage) -> Iterator[None]:
    with stage.link.cut(stage.client_port):
        yield
    stage.ready()


FAULTS: dict[str, Callable[[Stage], AbstractContextManager[None]]] = {
    "a follower killed": lambda stage: killed(stage, follower(stage)),
    "the leader killed": lambda stage: killed(stage, stage.leader),
    "a follower silent": lambda stage: follower(stage).paused(),
    "the leader silent": lambda stage: stage.leader.paused(),
    "the leader changed": leader_moved,
    "a member on a minority side": minority,
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_deploy_settles_through(stage: Stage, fault: str) -> None:
    with FAULTS[fault](stage):
        stage.deploy(fault)
    stage.deploy(f"after {fault}")
