"""What is used of what the controller sent, one after another."""

from __future__ import annotations

from devopsellence.api.v1 import stored_pb2
from devopsellence.nodeagent.ingress.model import RouterPeer
from devopsellence.nodeagent.ingress.taken import Taken, given, left, refused, take
from devopsellence.nodeagent.secrets import Vault
from devopsellence.peers import server_name
from devopsellence.sealed import Identity
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
    assert [each.id for each in found.answers] == ["ab", "cd"]
