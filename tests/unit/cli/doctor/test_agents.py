"""Results of an agent's diagnosis."""

from __future__ import annotations

from devopsellence.api.v1.agent_pb2 import Check, DiagnoseAnswer
from devopsellence.cli.doctor.agents import diagnose_results
from devopsellence.cli.output import NextAction


def test_healthy_agent_is_a_single_result() -> None:
    answer = DiagnoseAnswer(
        node="n1", disk_free_mib=20480, memory_available_mib=512, checks=[Check(name="docker", ok=True)]
    )
    (check,) = diagnose_results("agent n1", "10.0.0.5:7443", answer)
    assert check.severity == "ok"
    assert check.message == "responds at 10.0.0.5:7443; 20 GiB of disk and 512 MiB of memory free"


def test_machine_problems_come_with_a_local_fix() -> None:
    answer = DiagnoseAnswer(
        node="n1",
        checks=[
            Check(name="docker", ok=True),
            Check(name="disk", message="10 of 20480 MiB are free", mend="remove what is not needed"),
        ],
    )
    well, disk = diagnose_results("agent n1", "10.0.0.5:7443", answer)
    assert well.severity == "ok"
    assert (disk.name, disk.severity, disk.message) == ("disk of node n1", "error", "10 of 20480 MiB are free")
    assert disk.next_actions == (NextAction("on n1", "remove what is not needed"),)
