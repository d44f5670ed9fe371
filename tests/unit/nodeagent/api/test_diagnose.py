"""Checks of a diagnosis."""

from __future__ import annotations

import pytest

from devopsellence.api.v1.agent_pb2 import Check
from devopsellence.nodeagent.access import AccessState
from devopsellence.nodeagent.api import diagnose
from devopsellence.nodeagent.api.diagnose import Capacity
from devopsellence.server_certificate import CertificateProblem

DAY = 86400.0


def expired() -> float:
    raise CertificateProblem("callers do not accept it: certificate has expired")


@pytest.mark.parametrize(
    ("check", "ok", "message"),
    [
        (diagnose.check_docker(""), True, "the Docker Engine answers"),
        (diagnose.check_docker("it does not"), False, "it does not"),
        (diagnose.check_etcd(""), True, "assignments are up to date"),
        (diagnose.check_etcd("no"), False, "no"),
        (diagnose.check_access(AccessState("", "gateways known: 2", "x")), True, "gateways known: 2"),
        (diagnose.check_access(AccessState("3 hours old", "x", "make it reachable")), False, "3 hours old"),
        (
            diagnose.check_disk(Capacity(20_000, 2_000)),
            True,
            "2000 of 20000 MiB are free in Docker's data root",
        ),
        (diagnose.check_disk(Capacity(20_000, 1_999)), False, "1999 of 20000 MiB are free"),
        (diagnose.check_disk(Capacity(2_000, 1_000)), False, "1000 of 2000 MiB are free"),
        (diagnose.check_memory(Capacity(1_000, 50)), True, "50 of 1000 MiB are available"),
        (diagnose.check_memory(Capacity(1_000, 49)), False, "49 of 1000 MiB are available"),
        (diagnose.check_certificate(lambda: 14 * DAY), True, "valid for 14 more days"),
        (diagnose.check_certificate(lambda: 14 * DAY - 1), False, "valid for 13 more days"),
        (diagnose.check_certificate(expired), False, "callers do not accept it: certificate has expired"),
        (diagnose.check_assignments({}, []), True, "all assignments are valid"),
        (diagnose.check_assignments({"a": "x", "b": "y"}, ["a", "b"]), False, "a: x; b: y"),
        (
            diagnose.check_assignments({"a": "x", "b": "y", "c": "z"}, ["b"]),
            False,
            "b: y; 2 in environments that you may not view",
        ),
    ],
)
def test_failed_check_has_a_fix(check: Check, ok: bool, message: str) -> None:
    assert check.ok is ok
    assert check.message.startswith(message)
    assert bool(check.mend) is not ok


def test_measurements_of_this_machine() -> None:
    assert 0 < diagnose.memory_capacity().free <= diagnose.memory_capacity().total
    assert diagnose.process_memory() > 0
