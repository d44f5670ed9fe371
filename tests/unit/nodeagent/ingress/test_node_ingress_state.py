"""Successive states of ingress parts, as messages arrive from the controller."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Awaitable, Callable

from devopsellence.age import AgeIdentity
from devopsellence.agent_identity import server_name
from devopsellence.api.v1 import stored_pb2
from devopsellence.nodeagent.envoy.model import RouterPeer
from devopsellence.nodeagent.ingress import node_ingress_state as module
from devopsellence.nodeagent.ingress.crypto_main import run_tasks
from devopsellence.nodeagent.ingress.crypto_worker import CryptoTask, CryptoWorker, CryptoWorkerFailed, Payload
from devopsellence.nodeagent.ingress.node_ingress_state import (
    PartState,
    ingress_inputs,
    read_part,
    state_when_deleted,
    state_when_unusable,
)
from devopsellence.nodeagent.secrets import SecretDecrypter
from devopsellence.store.keys import PEERS
from tests.support.host_certificates import encrypted_certificate

HOST = "app.example.com"
NODE = AgeIdentity.generate()
DECRYPTER = SecretDecrypter(NODE)
FIRST, SECOND = encrypted_certificate(HOST, NODE.recipient), encrypted_certificate(HOST, NODE.recipient)
ELSEWHERE = encrypted_certificate(HOST, AgeIdentity.generate().recipient)


def part(
    certificate: stored_pb2.HostCertificate | None = None, *tokens: str, request_id: str = "", host: str = HOST
) -> stored_pb2.NodeIngress:
    message = stored_pb2.NodeIngress(part=HOST, certificate=certificate)
    for token in tokens:
        message.challenges.add(token=token, key_authorization=f"{token}.x")
    if request_id:
        message.key_request.CopyFrom(stored_pb2.KeyRequest(id=request_id, host=host, recipients=[NODE.recipient]))
    return message


async def here(payload: Payload) -> Payload:
    """Run tasks in this process."""
    return run_tasks(json.loads(json.dumps(payload)))


async def unavailable(payload: Payload) -> Payload:
    raise CryptoWorkerFailed("the cryptography process could not be started")


def advance(
    message: stored_pb2.NodeIngress,
    before: PartState | None,
    decrypter: SecretDecrypter,
    *,
    run: Callable[[Payload], Awaitable[Payload]] = here,
    on_disk: bool = False,
) -> PartState:
    """Return the state after a message."""
    part_input = read_part(message, before, decrypter)
    (result,) = asyncio.run(CryptoWorker(run).run_tasks([part_input.task]))
    return module.next_state(part_input, before, result, on_disk=on_disk)


def serial(state: PartState | None) -> str:
    assert state is not None
    return state.certificate.serial if state.certificate is not None else ""


def test_certificate_replaces_its_predecessor() -> None:
    state = advance(part(FIRST), None, DECRYPTER)
    assert (serial(state), state.problem) == (FIRST.serial, "")
    state = advance(part(SECOND), state, DECRYPTER)
    assert serial(state) == SECOND.serial
    assert serial(advance(part(), state, DECRYPTER)) == ""


def test_undecryptable_certificate_does_not_replace_the_served_one() -> None:
    before = advance(part(FIRST), None, DECRYPTER)
    state = advance(part(ELSEWHERE, "token"), before, DECRYPTER)
    assert serial(state) == FIRST.serial
    assert state.problem.startswith(f"the certificate {ELSEWHERE.serial} for {HOST} cannot be served: its key")
    assert state.problem.endswith("the previous certificate is still served")
    # On disk there is what is served; the rest of the part is used.
    assert state.stored == part(FIRST, "token")
    assert serial(advance(state.stored, None, DECRYPTER)) == FIRST.serial
    assert ingress_inputs({HOST: state}).hosts[HOST].challenges == (("token", "token.x"),)
    assert ingress_inputs({HOST: state}).problems == (state.problem,)
    assert advance(part(SECOND), state, DECRYPTER).problem == ""


def test_undecryptable_first_certificate_is_not_stored() -> None:
    state = advance(part(ELSEWHERE), None, DECRYPTER)
    assert serial(state) == ""
    assert not state.stored.HasField("certificate")
    assert state.problem


def test_deleted_part_keeps_only_its_certificate() -> None:
    before = advance(part(FIRST, "token", request_id="ab"), None, DECRYPTER)
    assert before.signing_request is not None
    after = state_when_deleted(before)
    assert after is not None
    assert serial(after) == FIRST.serial
    assert (after.signing_request, after.deleted, after.stored) == (None, True, part(FIRST))
    assert state_when_deleted(after) == after
    assert state_when_deleted(None) is None
    assert state_when_deleted(advance(part(None, "token"), None, DECRYPTER)) is None


def test_unreadable_part_changes_nothing() -> None:
    before = advance(part(FIRST, "token", request_id="ab"), None, DECRYPTER)
    after = state_when_unusable(before, "it does not parse")
    assert (after.certificate, after.stored, after.signing_request) == (
        before.certificate,
        before.stored,
        before.signing_request,
    )
    assert ingress_inputs({HOST: after}).problems == ("it does not parse",)
    assert ingress_inputs({HOST: state_when_unusable(None, "it does not parse")}).problems == ("it does not parse",)
    # The same as before, read again.
    assert advance(part(FIRST, "token", request_id="ab"), after, DECRYPTER) == before


def test_key_request_is_fulfilled_once() -> None:
    first = advance(part(request_id="ab"), None, DECRYPTER)
    assert first.signing_request is not None
    assert advance(part(FIRST, request_id="ab"), first, DECRYPTER).signing_request == first.signing_request
    second = advance(part(request_id="cd"), first, DECRYPTER)
    assert second.signing_request is not None
    assert (second.signing_request.id, second.signing_request.csr_pem != first.signing_request.csr_pem) == ("cd", True)
    assert advance(part(), second, DECRYPTER).signing_request is None
    assert not second.stored.HasField("key_request")


def test_key_request_for_another_host_is_a_problem() -> None:
    state = advance(part(FIRST, request_id="ab", host="other.example.com"), None, DECRYPTER)
    assert state.signing_request is None
    assert serial(state) == FIRST.serial
    assert state.problem == f"the key request for {HOST} cannot be fulfilled: it is about 'other.example.com'"


def test_forwarders_are_unknown_in_a_part_of_an_older_controller() -> None:
    stored = stored_pb2.NodeIngress(part=PEERS)
    stored.peers.add(node="n2", uid="u2", address="10.0.0.2:7444")
    assert ingress_inputs({PEERS: PartState(stored, stored)}).forwarders is None
    assert ingress_inputs({}).forwarders == ()
    stored.forwarders.extend(["u3", "u2"])
    assert ingress_inputs({PEERS: PartState(stored, stored)}).forwarders == tuple(
        sorted([server_name("u2"), server_name("u3")])
    )


def test_peers_are_parsed_and_sorted() -> None:
    stored = stored_pb2.NodeIngress(part=PEERS)
    stored.peers.add(node="n3", uid="u3", address="[fd00::3]:7444")
    stored.peers.add(node="n2", uid="u2", address="10.0.0.2:7444")
    stored.peers.add(node="n4", uid="u4", address="nonsense")
    part_input = ingress_inputs({PEERS: advance(stored, None, DECRYPTER)})
    assert part_input.peers == (
        RouterPeer("n2", server_name("u2"), "10.0.0.2", 7444),
        RouterPeer("n3", server_name("u3"), "fd00::3", 7444),
    )
    assert dict(part_input.hosts) == {}


def test_inputs_join_all_parts() -> None:
    parts = {
        "b.example.com": advance(part(FIRST, request_id="cd"), None, DECRYPTER),
        "a.example.com": advance(part(request_id="ab"), None, DECRYPTER),
    }
    part_input = ingress_inputs(parts)
    assert sorted(part_input.hosts) == ["a.example.com", "b.example.com"]
    assert [answer.id for answer in part_input.signing_requests] == ["ab", "cd"]


def test_known_certificate_is_not_checked_again() -> None:
    before = advance(part(FIRST, request_id="ab"), None, DECRYPTER)
    for message in (part(FIRST, "token", request_id="ab"), part(FIRST), part(None, "token")):
        assert read_part(message, before, DECRYPTER).task == CryptoTask()
    assert read_part(part(SECOND, request_id="ab"), before, DECRYPTER).task.pair is not None
    assert read_part(part(FIRST, request_id="cd"), before, DECRYPTER).task.request is not None


def test_failed_check_keeps_previous_certificate() -> None:
    before = advance(part(FIRST), None, DECRYPTER)
    state = advance(part(SECOND, "token"), before, DECRYPTER, run=unavailable)
    assert (serial(state), state.stored, state.retry) == (FIRST.serial, part(FIRST, "token"), True)
    assert state.problem == (
        f"the certificate {SECOND.serial} for {HOST} cannot be served: the cryptography process could not be "
        "started (the check will be retried); the previous certificate is still served"
    )
    assert advance(part(SECOND, "token"), state, DECRYPTER, run=unavailable) == state
    state = advance(part(SECOND, "token"), state, DECRYPTER)
    assert (serial(state), state.problem, state.retry) == (SECOND.serial, "", False)


def test_certificate_on_disk_is_served_despite_failed_check() -> None:
    state = advance(part(FIRST), None, DECRYPTER, run=unavailable, on_disk=True)
    assert (serial(state), state.not_after, state.retry, state.problem) == (FIRST.serial, math.inf, True, "")
    assert advance(part(FIRST), state, DECRYPTER, run=unavailable) == state
    again = advance(part(FIRST), state, DECRYPTER)
    assert (serial(again), again.not_after < math.inf, again.retry) == (FIRST.serial, True, False)
    # One that turns out to be none is not its own predecessor.
    broken = stored_pb2.HostCertificate(serial="ab", chain_pem="none", key_age=FIRST.key_age)
    state = advance(part(broken), None, DECRYPTER, run=unavailable, on_disk=True)
    state = advance(part(broken), state, DECRYPTER)
    assert (serial(state), state.stored.HasField("certificate")) == ("", False)
    assert state.problem == f"the certificate ab for {HOST} cannot be served: it is not a certificate in PEM format"


def test_failed_key_request_is_retried() -> None:
    state = advance(part(FIRST, request_id="ab"), None, DECRYPTER, run=unavailable)
    assert (state.signing_request, state.retry) == (None, True)
    assert "the key request for app.example.com cannot be fulfilled: the cryptography process" in state.problem
    state = advance(part(FIRST, request_id="ab"), state, DECRYPTER)
    assert state.signing_request is not None
    assert (state.problem, state.retry) == ("", False)
