"""Diagnosis of a node by the agent API."""

from __future__ import annotations

import pytest

from devopsellence.api.v1.agent_pb2 import DiagnoseRequest
from tests.integration.agentapi.api_node import NODE, ApiNode

pytestmark = pytest.mark.docker


async def test_diagnosis_of_healthy_node(here: ApiNode) -> None:
    async with here.client() as stub:
        answer = await stub.Diagnose(DiagnoseRequest())
    assert (answer.node, answer.node_uid, answer.agent_version, answer.hostname) == (NODE, here.uid, "1.2.3", "here")
    assert answer.docker_version == here.engine.version
    assert 0 < answer.disk_free_mib <= answer.disk_total_mib
    assert 0 < answer.memory_available_mib <= answer.memory_total_mib
    assert answer.agent_memory_mib > 0
    checks = {check.name: check for check in answer.checks}
    assert list(checks) == ["docker", "etcd", "access", "disk", "memory", "certificate", "assignments", "isolation"]
    assert all(
        checks[name].ok and not checks[name].mend for name in ("docker", "etcd", "access", "certificate", "assignments")
    )


async def test_diagnosis_names_problems_with_fix(here: ApiNode) -> None:
    here.assignments.problem = "/devopsellence/v1/assignments/n1/ cannot be read: etcd does not answer"
    async with here.client() as stub:
        answer = await stub.Diagnose(DiagnoseRequest())
    etcd = next(check for check in answer.checks if check.name == "etcd")
    assert not etcd.ok
    assert etcd.message == here.assignments.problem
    assert "devopsellence doctor" in etcd.mend
