"""What is used of what the controller sent, one after another."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Awaitable, Callable

from devopsellence.age import Identity
from devopsellence.agent_identity import server_name
from devopsellence.api.v1 import stored_pb2
from devopsellence.nodeagent.envoy.model import RouterPeer
from devopsellence.nodeagent.ingress import node_ingress_state as module
from devopsellence.nodeagent.ingress.crypto_main import answered
from devopsellence.nodeagent.ingress.crypto_worker import Aside, AsideFailed, Question, Said
from devopsellence.nodeagent.ingress.node_ingress_state import Taken, given, left, opened, refused
from devopsellence.nodeagent.secrets import Vault
from devopsellence.store.keys import PEERS
from tests.unit.nodeagent.ingress.certificates import sealed

HOST = "app.example.com"
NODE = Identity.generate()
VAULT = Vault(NODE)
FIRST, SECOND = sealed(HOST, NODE.recipient), sealed(HOST, NODE.recipient)
ELSEWHERE = sealed(HOST, Identity.generate().recipient)


def part(
    certificate: stored_pb2.HostCertificate | None = None, *tokens: str, asked: str = "", host: str = HOST
) -> stored_pb2.NodeIngress:
    made = stored_pb2.NodeIngress(part=HOST, certificate=certificate)
    for token in tokens:
        made.challenges.add(token=token, key_authorization=f"{token}.x")
    if asked:
        made.key_request.CopyFrom(stored_pb2.KeyRequest(id=asked, host=host, recipients=[NODE.recipient]))
    return made


async def here(said: Said) -> Said:
    """As a process answers."""
    return answered(json.loads(json.dumps(said)))


async def nobody(said: Said) -> Said:
    raise AsideFailed("no process could be started for it")


def take(
    message: stored_pb2.NodeIngress,
    before: Taken | None,
    vault: Vault,
    *,
    run: Callable[[Said], Awaitable[Said]] = here,
    on_disk: bool = False,
) -> Taken:
    """Read, asked about, taken."""
    found = opened(message, before, vault)
    (answer,) = asyncio.run(Aside(run).ask([found.question]))
    return module.take(found, before, answer, on_disk=on_disk)


def serial(taken: Taken | None) -> str:
    assert taken is not None
    return taken.certificate.serial if taken.certificate is not None else ""


def test_one_certificate_follows_another() -> None:
    taken = take(part(FIRST), None, VAULT)
    assert (serial(taken), taken.problem) == (FIRST.serial, "")
    taken = take(part(SECOND), taken, VAULT)
    assert serial(taken) == SECOND.serial
    assert serial(take(part(), taken, VAULT)) == ""


def test_one_that_cannot_be_opened_does_not_displace_the_one_that_is_served() -> None:
    before = take(part(FIRST), None, VAULT)
    taken = take(part(ELSEWHERE, "token"), before, VAULT)
    assert serial(taken) == FIRST.serial
    assert taken.problem.startswith(f"the certificate {ELSEWHERE.serial} for {HOST} cannot be served: its key")
    assert taken.problem.endswith("the one before it is served on")
    # On disk there is what is served; the rest of the part is used.
    assert taken.kept == part(FIRST, "token")
    assert serial(take(taken.kept, None, VAULT)) == FIRST.serial
    assert given({HOST: taken}).hosts[HOST].challenges == (("token", "token.x"),)
    assert given({HOST: taken}).problems == (taken.problem,)
    assert take(part(SECOND), taken, VAULT).problem == ""


def test_a_first_one_that_cannot_be_opened() -> None:
    taken = take(part(ELSEWHERE), None, VAULT)
    assert serial(taken) == ""
    assert not taken.kept.HasField("certificate")
    assert taken.problem


def test_a_certificate_stays_when_its_key_has_gone_and_the_rest_goes() -> None:
    before = take(part(FIRST, "token", asked="ab"), None, VAULT)
    assert before.answer is not None
    after = left(before)
    assert after is not None
    assert serial(after) == FIRST.serial
    assert (after.answer, after.gone, after.kept) == (None, True, part(FIRST))
    assert left(after) == after
    assert left(None) is None
    assert left(take(part(None, "token"), None, VAULT)) is None


def test_what_cannot_be_read_changes_nothing() -> None:
    before = take(part(FIRST, "token", asked="ab"), None, VAULT)
    after = refused(before, "it does not parse")
    assert (after.certificate, after.kept, after.answer) == (before.certificate, before.kept, before.answer)
    assert given({HOST: after}).problems == ("it does not parse",)
    assert given({HOST: refused(None, "it does not parse")}).problems == ("it does not parse",)
    # The same as before, read again.
    assert take(part(FIRST, "token", asked="ab"), after, VAULT) == before


def test_a_request_is_answered_once() -> None:
    first = take(part(asked="ab"), None, VAULT)
    assert first.answer is not None
    assert take(part(FIRST, asked="ab"), first, VAULT).answer == first.answer
    second = take(part(asked="cd"), first, VAULT)
    assert second.answer is not None
    assert (second.answer.id, second.answer.csr_pem != first.answer.csr_pem) == ("cd", True)
    assert take(part(), second, VAULT).answer is None
    assert not second.kept.HasField("key_request")


def test_a_request_about_another_host_is_not_answered() -> None:
    taken = take(part(FIRST, asked="ab", host="other.example.com"), None, VAULT)
    assert taken.answer is None
    assert serial(taken) == FIRST.serial
    assert taken.problem == f"the request for a key for {HOST} cannot be answered: it is about 'other.example.com'"


def test_other_nodes_routers() -> None:
    stored = stored_pb2.NodeIngress(part=PEERS)
    stored.peers.add(node="n3", uid="u3", address="[fd00::3]:7444")
    stored.peers.add(node="n2", uid="u2", address="10.0.0.2:7444")
    stored.peers.add(node="n4", uid="u4", address="nonsense")
    found = given({PEERS: take(stored, None, VAULT)})
    assert found.peers == (
        RouterPeer("n2", server_name("u2"), "10.0.0.2", 7444),
        RouterPeer("n3", server_name("u3"), "fd00::3", 7444),
    )
    assert dict(found.hosts) == {}


def test_all_hosts_together() -> None:
    parts = {
        "b.example.com": take(part(FIRST, asked="cd"), None, VAULT),
        "a.example.com": take(part(asked="ab"), None, VAULT),
    }
    found = given(parts)
    assert sorted(found.hosts) == ["a.example.com", "b.example.com"]
    assert [answer.id for answer in found.answers] == ["ab", "cd"]


def test_what_is_known_is_not_asked_again() -> None:
    before = take(part(FIRST, asked="ab"), None, VAULT)
    for message in (part(FIRST, "token", asked="ab"), part(FIRST), part(None, "token")):
        assert opened(message, before, VAULT).question == Question()
    assert opened(part(SECOND, asked="ab"), before, VAULT).question.pair is not None
    assert opened(part(FIRST, asked="cd"), before, VAULT).question.request is not None


def test_as_long_as_a_new_certificate_cannot_be_judged_the_one_before_it_is_served_on() -> None:
    before = take(part(FIRST), None, VAULT)
    taken = take(part(SECOND, "token"), before, VAULT, run=nobody)
    assert (serial(taken), taken.kept, taken.again) == (FIRST.serial, part(FIRST, "token"), True)
    assert taken.problem == (
        f"the certificate {SECOND.serial} for {HOST} cannot be served: no process could be started for it, which is "
        "tried again; the one before it is served on"
    )
    assert take(part(SECOND, "token"), taken, VAULT, run=nobody) == taken
    taken = take(part(SECOND, "token"), taken, VAULT)
    assert (serial(taken), taken.problem, taken.again) == (SECOND.serial, "", False)


def test_a_certificate_on_disk_is_served_also_while_it_cannot_be_judged() -> None:
    taken = take(part(FIRST), None, VAULT, run=nobody, on_disk=True)
    assert (serial(taken), taken.not_after, taken.again, taken.problem) == (FIRST.serial, math.inf, True, "")
    assert take(part(FIRST), taken, VAULT, run=nobody) == taken
    again = take(part(FIRST), taken, VAULT)
    assert (serial(again), again.not_after < math.inf, again.again) == (FIRST.serial, True, False)
    # One that turns out to be none is not its own predecessor.
    broken = stored_pb2.HostCertificate(serial="ab", chain_pem="none", key_age=FIRST.key_age)
    taken = take(part(broken), None, VAULT, run=nobody, on_disk=True)
    taken = take(part(broken), taken, VAULT)
    assert (serial(taken), taken.kept.HasField("certificate")) == ("", False)
    assert taken.problem == f"the certificate ab for {HOST} cannot be served: it is no certificate in PEM"


def test_a_request_that_could_not_be_answered_is_answered_later() -> None:
    taken = take(part(FIRST, asked="ab"), None, VAULT, run=nobody)
    assert (taken.answer, taken.again) == (None, True)
    assert "the request for a key for app.example.com cannot be answered: no process" in taken.problem
    taken = take(part(FIRST, asked="ab"), taken, VAULT)
    assert taken.answer is not None
    assert (taken.problem, taken.again) == ("", False)
