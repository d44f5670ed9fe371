"""Authentication of callers, and refusals for errors."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import grpc
import pytest

from devopsellence.nodeagent.api.auth import CallRefused, operator_name, refusal_of
from devopsellence.nodeagent.docker import errors


@pytest.mark.parametrize("name", ["root", "operator:ann", "operator:müller"])
def test_operator_certificates_are_accepted(name: str) -> None:
    assert operator_name({"x509_common_name": [name.encode()]}) == name


@pytest.mark.parametrize(
    ("identities", "shown"),
    [
        ({}, "nobody"),
        ({"x509_common_name": []}, "nobody"),
        ({"x509_common_name": [b"node:n1"]}, "node:n1"),
        ({"x509_common_name": [b"operator:"]}, "operator:"),
        ({"x509_common_name": [b"node:n1", b"root"]}, "node:n1, root"),
        ({"x509_subject_alternative_name": [b"root"]}, "nobody"),
        ({"x509_common_name": [b"\xff"]}, "\\xff"),
    ],
)
def test_other_certificates_are_refused(identities: Mapping[str, Iterable[bytes]], shown: str) -> None:
    with pytest.raises(CallRefused) as caught:
        operator_name(identities)
    assert caught.value.code is grpc.StatusCode.PERMISSION_DENIED
    assert caught.value.message.endswith(f"this is the certificate of {shown}")


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (CallRefused(grpc.StatusCode.NOT_FOUND, "not here"), grpc.StatusCode.NOT_FOUND, "not here"),
        (errors.EngineUnavailable("gone"), grpc.StatusCode.UNAVAILABLE, "gone"),
        (errors.DiskFull("full"), grpc.StatusCode.RESOURCE_EXHAUSTED, "full"),
        (errors.NotFound("no such container"), grpc.StatusCode.FAILED_PRECONDITION, "no such container"),
        (ValueError("secret"), grpc.StatusCode.INTERNAL, "internal error of the agent; see the agent's log"),
    ],
)
def test_errors_become_refusals(error: Exception, code: grpc.StatusCode, message: str) -> None:
    refused = refusal_of(error)
    assert (refused.code, refused.message) == (code, message)
