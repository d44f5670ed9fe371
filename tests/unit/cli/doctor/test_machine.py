"""What ``doctor`` makes of a certificate's age and of what an agent says of its machine."""

from __future__ import annotations

import datetime
from pathlib import Path

import pytest

from devopsellence.api.v1.agent_pb2 import Check, DiagnoseAnswer
from devopsellence.cli.doctor.agents import diagnose_results
from devopsellence.cli.doctor.machine import validity
from devopsellence.cli.output import NextAction

MEND = NextAction("renew it", "devopsellence dev up")


@pytest.mark.parametrize(
    ("left", "severity", "code"),
    [
        (datetime.timedelta(days=200), "ok", ""),
        (datetime.timedelta(days=29), "warning", "certificate_expires"),
        (datetime.timedelta(seconds=1), "warning", "certificate_expires"),
        (datetime.timedelta(0), "error", "certificate_expired"),
    ],
)
def test_a_certificate_is_told_of_before_it_expires(left: datetime.timedelta, severity: str, code: str) -> None:
    check = validity("certificate", Path("/pki/tls.crt"), left, MEND)
    assert (check.severity, check.code) == (severity, code)
    assert check.next_actions == ((MEND,) if code else ())


def test_the_days_that_are_left_are_whole_ones() -> None:
    left = datetime.timedelta(days=200, hours=23)
    assert (
        validity("certificate", Path("/pki/tls.crt"), left, MEND).message == "/pki/tls.crt expires in 200 days"
    )


def test_an_agent_that_is_well_is_one_line() -> None:
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
