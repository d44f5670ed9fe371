from __future__ import annotations

from devopsellence.api.v1.agent_pb2 import Check, DiagnoseAnswer
from devopsellence.cli.agent import diagnose

ANSWER = DiagnoseAnswer(
    node="n1",
    node_uid="u1",
    hostname="h1",
    agent_version="1.0",
    docker_version="24.0",
    disk_free_mib=25 * 1024,
    disk_total_mib=100 * 1024,
    checks=[
        Check(name="docker", ok=True, message="running"),
        Check(name="disk", message="almost\x1b full", mend="docker system prune"),
    ],
)


def test_text_shows_resources_and_fixes_of_failed_checks() -> None:
    lines = diagnose.text(ANSWER).splitlines()
    assert "Disk     25.0 of 100.0 GiB (25 %) free" in lines
    assert lines[-1] == "      docker system prune"
    assert "\x1b full" not in lines[-2]


def test_failed_checks_become_findings_with_a_fix() -> None:
    (check,) = diagnose.failed(ANSWER)
    finding = diagnose.finding(check)
    assert (finding.code, [action.command for action in finding.next_actions]) == ("disk", ["docker system prune"])


def test_json_has_every_check() -> None:
    assert [check["ok"] for check in diagnose.document(ANSWER)["checks"]] == [True, False]
