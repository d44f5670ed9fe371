"""Results about the audit trails of gateways."""

from __future__ import annotations

import grpc

from devopsellence.cli.audit.client import GatewayAnswer
from devopsellence.cli.doctor.audit_trail import trail_results


def test_each_gateway_without_a_trail_or_with_one_that_is_not_written_is_named() -> None:
    code = grpc.StatusCode
    answers = [
        GatewayAnswer("10.0.0.1:2381"),
        GatewayAnswer("10.0.0.2:2381", problem="this gateway keeps no audit trail", code=code.FAILED_PRECONDITION),
        GatewayAnswer("10.0.0.3:2381", problem="No space left on device"),
        # Told by other checks: away, and etcd itself.
        GatewayAnswer("10.0.0.4:2381", problem="it does not answer", code=code.UNAVAILABLE),
        GatewayAnswer("10.0.0.5:2379", problem="etcd", code=code.UNIMPLEMENTED),
    ]
    found = [(result.name, result.severity, result.message, result.code) for result in trail_results(answers)]
    assert found == [
        ("audit trail", "ok", "kept by 1 gateway", ""),
        ("audit trail 10.0.0.2:2381", "warning", "this gateway keeps no audit trail", "audit_trail_off"),
        ("audit trail 10.0.0.3:2381", "error", "No space left on device", "audit_trail_not_written"),
    ]
    assert trail_results(answers[3:]) == []
