"""Faults of etcd's members while agents and controllers go on, and a container is not touched."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import pytest

from tests.integration.etcd.member import Member
from tests.integration.etcd.secured_cluster import SecuredCluster

pytestmark = [pytest.mark.docker, pytest.mark.etcd, pytest.mark.usefixtures("untouched")]


def follower(cluster: SecuredCluster) -> Member:
    leader = cluster.leader
    return next(member for member in cluster.members if member is not leader)


@contextmanager
def killed(cluster: SecuredCluster, member: Member) -> Iterator[None]:
    member.end()
    try:
        yield
    finally:
        member.start()
        cluster.ready()


@contextmanager
def leader_moved(cluster: SecuredCluster) -> Iterator[None]:
    leader, next_one = cluster.leader, follower(cluster)
    output = cluster.etcdctl("endpoint", "status", "--write-out=simple", at=[next_one]).stdout
    cluster.etcdctl("move-leader", output.split(", ")[1], at=[leader])
    yield


@contextmanager
def minority(cluster: SecuredCluster) -> Iterator[None]:
    with cluster.link.cut(cluster.client_port):
        yield
    cluster.ready()


FAULTS: dict[str, Callable[[SecuredCluster], AbstractContextManager[None]]] = {
    "a follower killed": lambda cluster: killed(cluster, follower(cluster)),
    "the leader killed": lambda cluster: killed(cluster, cluster.leader),
    "a follower silent": lambda cluster: follower(cluster).paused(),
    "the leader silent": lambda cluster: cluster.leader.paused(),
    "the leader changed": leader_moved,
    "a member on a minority side": minority,
}


@pytest.mark.parametrize("fault", FAULTS)
def test_deploy_settles_during_fault(cluster: SecuredCluster, fault: str) -> None:
    with FAULTS[fault](cluster):
        cluster.deploy(fault)
    cluster.deploy(f"after {fault}")
