"""``node diagnose`` against a stand-in for an agent."""

from __future__ import annotations

import json

import grpc
from google.protobuf.timestamp_pb2 import Timestamp

from devopsellence.api.v1.agent_pb2 import Check, DiagnoseAnswer
from tests.integration.remote.cluster import FakeAgentCluster

ANSWER = DiagnoseAnswer(
    node="n1",
    node_uid="u",
    agent_version="0.1.0",
    hostname="host",
    docker_version="20.10.24",
    now=Timestamp(seconds=1_700_000_000),
    disk_total_mib=10240,
    disk_free_mib=512,
    memory_total_mib=2048,
    memory_available_mib=1024,
    agent_memory_mib=40,
    checks=[
        Check(name="docker", ok=True, message="20.10.24"),
        Check(name="disk", ok=False, message="5 % free", mend="docker image prune"),
    ],
)


def test_diagnosis_of_healthy_node_is_a_table(cluster: FakeAgentCluster) -> None:
    n1 = cluster.node("n1")
    n1.diagnosis.CopyFrom(ANSWER)
    del n1.diagnosis.checks[1]
    text = cluster.ok("node", "diagnose", "n1")
    assert "ok    docker  20.10.24\n" in text
    assert "Disk     0.5 of 10.0 GiB (5 %) free\n" in text
    document = json.loads(cluster.ok("node", "diagnose", "n1", "-o", "json"))
    assert (document["operation"], document["disk_free_mib"]) == ("node diagnose", 512)
    assert document["checks"] == [{"name": "docker", "ok": True, "message": "20.10.24", "mend": ""}]


def test_failed_check_is_exit_code_1_with_fix(cluster: FakeAgentCluster) -> None:
    cluster.node("n1").diagnosis.CopyFrom(ANSWER)
    done = cluster.run("node", "diagnose", "n1")
    assert done.returncode == 1
    assert b"FAIL  disk    5 % free\n      docker image prune\n" in done.stdout
    assert (done.stderr.count(b"\n"), b"n1" in done.stderr, b"disk" in done.stderr) == (1, True, True)
    error = cluster.error("node", "diagnose", "n1")
    (finding,) = error["findings"]
    assert (error["code"], finding["code"]) == ("check_failed", "disk")
    assert finding["next_actions"][0]["command"] == "docker image prune"


def test_unreachable_agent_is_reported_in_a_sentence(cluster: FakeAgentCluster) -> None:
    assert "is not registered" in cluster.error("node", "diagnose", "n9")["message"]
    cluster.node("n1").refusal = (grpc.StatusCode.PERMISSION_DENIED, "node:n2 is not an operator")
    error = cluster.error("node", "diagnose", "n1")
    assert (error["code"], "node:n2" in error["message"]) == ("permission_denied", True)
