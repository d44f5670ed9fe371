"""Forwarding between the routers of far nodes, with real Envoys."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from contextlib import ExitStack, closing
from datetime import UTC, datetime
from pathlib import Path
from shutil import rmtree

import pytest

from devopsellence.agent_identity import NODE_DOMAIN, router_name, server_name
from devopsellence.certificates.authority import CertificateAuthority
from devopsellence.nodeagent.envoy import listeners, tls
from devopsellence.nodeagent.envoy.model import Endpoint, PeerTls, RouterPeer, RoutingConfig
from devopsellence.nodeagent.envoy.resources import response
from devopsellence.store.keys import EnvironmentRef
from tests.integration.ingress.apps import App
from tests.integration.ingress.clients import Client, request
from tests.integration.ingress.envoys import EnvoyProcess, authority, routing
from tests.support.ports import free_ports
from tests.support.until import until

OTHER = EnvironmentRef("acme", "blog", "production")
ONE, TWO = server_name("uid-one"), server_name("uid-two")


@pytest.fixture
def pair(short_path: Path) -> Iterator[tuple[EnvoyProcess, EnvoyProcess]]:
    with (
        EnvoyProcess(short_path / "one", peer_name=ONE) as near,
        EnvoyProcess(short_path / "two", peer_name=TWO) as far,
    ):
        yield near, far


def peer(envoy: EnvoyProcess, name: str) -> RouterPeer:
    return RouterPeer(f"node-{name[:4]}", name, "127.0.0.1", envoy.listen.peer_port)


def test_peer_serves_requests_without_local_endpoints(pair: tuple[EnvoyProcess, EnvoyProcess]) -> None:
    near, far = pair
    with App("here") as here, App("there") as there:
        far.apply(routing(there.endpoint(), peers=(peer(near, ONE),)))
        near.apply(routing(here.endpoint(), peers=(peer(far, TWO),)))
        port = near.listen.http_port
        assert {request(port, "/").app_json["app"] for _ in range(20)} == {"here"}

        near.apply(routing(here.endpoint(draining=True), peers=(peer(far, TWO),)))
        first = request(port, "/x", host="a.example:8080", X_Forwarded_For="6.6.6.6")
        headers = first.app_json["headers"]
        assert first.app_json["app"] == "there"
        assert {key: headers[key] for key in ("x-forwarded-for", "x-forwarded-host", "x-forwarded-port", "host")} == {
            "x-forwarded-for": "127.0.0.1",
            "x-forwarded-host": "a.example:8080",
            "x-forwarded-port": str(port),
            "host": "a.example:8080",
        }
        assert headers["x-forwarded-proto"] == "http"
        assert headers["x-request-id"] == first.headers["x-request-id"]
        assert not [key for key in headers if key.startswith("x-envoy")]

        (closed,) = free_ports(1)
        near.apply(routing(Endpoint("gone", "127.0.0.1", closed), peers=(peer(far, TWO),)))
        posts = [request(port, "/", method="POST", body=b"x") for _ in range(10)]
        assert [answer.app_json["app"] for answer in posts] == ["there"] * 10
    assert near.rejected() == far.rejected() == {}


def test_requests_of_a_peer_are_not_forwarded_again(pair: tuple[EnvoyProcess, EnvoyProcess]) -> None:
    near, far = pair
    near.apply(routing(peers=(peer(far, TWO),)))
    far.apply(routing(peers=(peer(near, ONE),)))
    assert request(near.listen.http_port, "/").status == 503
    until("the other node was asked once", lambda: [line["listener"] for line in far.log()] == ["peers"])
    until("and the client's request ended", lambda: [line["listener"] for line in near.log()] == ["http"])


def test_change_of_peers_keeps_count_of_active_requests(pair: tuple[EnvoyProcess, EnvoyProcess]) -> None:
    near, far = pair
    far.apply(routing())
    with App("old") as old, ExitStack() as stack:
        near.apply(routing(old.endpoint()))
        client = stack.enter_context(closing(Client(near.listen.http_port)))
        client.begin("/slow")
        assert old.entered.acquire(timeout=30)
        near.apply(routing(old.endpoint(draining=True), peers=(peer(far, TWO),)))
        assert near.active()[f"127.0.0.1:{old.port}"] == 1
        old.release()
        assert client.finish().status == 200


def test_peer_with_another_uid_gets_no_request(pair: tuple[EnvoyProcess, EnvoyProcess]) -> None:
    near, far = pair
    with App("there") as there:
        far.apply(routing(there.endpoint()))
        near.apply(routing(peers=(peer(far, server_name("uid-three")),)))
        assert request(near.listen.http_port, "/").status == 503
        assert there.requests == []

        far.own_certificate(server_name("uid-three"))
        far.apply(routing(there.endpoint()))
        until("a renewed certificate is used", lambda: request(near.listen.http_port, "/").status == 200)


@pytest.mark.parametrize("name", ["operator.example", TWO], ids=["no-node", "of-another-authority"])
def test_foreign_certificate_is_refused_by_the_peer_listener(
    pair: tuple[EnvoyProcess, EnvoyProcess], name: str
) -> None:
    near, far = pair
    by = CertificateAuthority.create("others", datetime.now(UTC)) if name == TWO else None
    with App("here") as here:
        near.apply(routing(here.endpoint()))
        far.own_certificate(name, by=by)
        far.apply(routing(peers=(peer(near, ONE),)))
        assert request(far.listen.http_port, "/").status == 503
        with (
            pytest.raises((ssl.SSLError, ConnectionError)),
            closing(Client(near.listen.peer_port, server_name=ONE)) as foreign_client,
        ):
            foreign_client.request("/")
        assert here.requests == []


@pytest.mark.parametrize("kept", [ONE, router_name("uid-one")], ids=["of-the-node", "of-a-later-version"])
def test_certificates_of_nodes_and_routers_are_accepted(pair: tuple[EnvoyProcess, EnvoyProcess], kept: str) -> None:
    near, far = pair
    near.own_certificate(kept)
    far.own_certificate(router_name("uid-two"), TWO)
    with App("there") as there:
        far.apply(routing(there.endpoint(), forwarders=(ONE,)))
        near.apply(routing(peers=(peer(far, TWO),)))
        answer = request(near.listen.http_port, "/", X_Request_Id="11111111-1111-4111-8111-111111111111")
    assert answer.app_json["headers"]["x-forwarded-port"] == str(near.listen.http_port)


def test_envoy_of_an_earlier_version_and_this_one_forward_to_each_other(
    pair: tuple[EnvoyProcess, EnvoyProcess], monkeypatch: pytest.MonkeyPatch
) -> None:
    earlier, present = pair
    present.own_certificate(router_name("uid-two"), TWO)
    nodes_alone = [{"san_type": "DNS", "matcher": {"suffix": f".{NODE_DOMAIN}"}}]

    def apply_earlier(config: RoutingConfig) -> None:
        with monkeypatch.context() as patched:
            patched.setattr(listeners, "router_names", lambda: nodes_alone)
            earlier.apply(config)

    with App("there") as there, App("here") as here:
        present.apply(routing(there.endpoint()))
        apply_earlier(routing(peers=(peer(present, TWO),)))
        assert request(earlier.listen.http_port, "/").app_json["app"] == "there"
        apply_earlier(routing(here.endpoint()))
        present.apply(routing(peers=(peer(earlier, ONE),)))
        assert request(present.listen.http_port, "/").app_json["app"] == "here"


def test_envoy_of_an_earlier_version_goes_on_without_the_key_of_its_node(
    pair: tuple[EnvoyProcess, EnvoyProcess], monkeypatch: pytest.MonkeyPatch
) -> None:
    near, far = pair
    node = far.folder / "node"
    node.mkdir()
    for name in ("ca.pem", "cert.pem", "key.pem"):
        (node / name).write_bytes((far.folder / name).read_bytes())

    def referring(_tls: PeerTls) -> dict[str, bytes]:
        own = {"certificate_chain": {"filename": f"{node}/cert.pem"}, "private_key": {"filename": f"{node}/key.pem"}}
        trusted = {"trusted_ca": {"filename": f"{node}/ca.pem"}}
        return {
            "sds/peer.json": response(tls.KIND, [{"name": "peer", "tls_certificate": own}]),
            "sds/peer-ca.json": response(tls.KIND, [{"name": "peer-ca", "validation_context": trusted}]),
        }

    with App("there") as there:
        with monkeypatch.context() as patched:
            patched.setattr(tls, "peer_files", referring)
            far.apply(routing(there.endpoint()))
        near.apply(routing(peers=(peer(far, TWO),)))
        assert request(near.listen.http_port, "/").status == 200
        far.own_certificate(router_name("uid-two"), TWO)
        far.write(routing(there.endpoint()))
        # At once, as the agent does it.
        rmtree(node)
        far.apply(routing(there.endpoint()))
        assert {request(near.listen.http_port, "/").status for _ in range(50)} == {200}
    assert far.alive()
    assert far.rejected() == {}


def test_requests_go_on_while_the_root_authority_is_replaced(pair: tuple[EnvoyProcess, EnvoyProcess]) -> None:
    near, far = pair
    new = authority("the next root")
    both = authority().trusted + new.trusted
    with App("there") as there:
        configs = {near: routing(peers=(peer(far, TWO),)), far: routing(there.endpoint())}
        steps = [
            *((envoy, authority(), both) for envoy in configs),
            *((envoy, new, both) for envoy in configs),
            *((envoy, new, new.trusted) for envoy in configs),
        ]
        for envoy, config in configs.items():
            envoy.apply(config)
        for envoy, by, trusted in steps:
            name = ONE if envoy is near else TWO
            envoy.own_certificate(name, by=by, trusted=trusted)
            envoy.write(configs[envoy])
            statuses = [request(near.listen.http_port, "/").status for _ in range(50)]
            envoy.apply(configs[envoy])
            statuses += [request(near.listen.http_port, "/").status for _ in range(50)]
            assert set(statuses) == {200}


SAID = {
    "x-forwarded-for": "6.6.6.6",
    "x-forwarded-proto": "http",
    "x-forwarded-host": "b.example",
    "x-forwarded-port": "8080",
    "x-request-id": "11111111-1111-4111-8111-111111111111",
}
MADE_UP = {
    "x-envoy-external-address": "6.6.6.6",
    "x-envoy-internal": "true",
    "x-envoy-original-path": "/secret",
    "x-envoy-attempt-count": "7",
    "x-forwarded-client-cert": f"Hash=0;DNS={ONE}",
}


def headers_from(sender: EnvoyProcess, far: EnvoyProcess, *, made_up: dict[str, str] | None = None) -> dict[str, str]:
    """Return the headers that the service gets if whoever has the certificate of ``sender`` asks ``far``."""
    named = {key.replace("-", "_"): value for key, value in {**SAID, **(made_up or {})}.items()}
    with closing(Client(far.listen.peer_port, server_name=TWO, own=sender.folder)) as client:
        headers: dict[str, str] = client.request("/", host="a.example", method="GET", body=b"", **named).app_json[
            "headers"
        ]
        return headers


def test_forwarder_is_believed_and_any_other_node_counts_as_a_client(
    pair: tuple[EnvoyProcess, EnvoyProcess], short_path: Path
) -> None:
    near, far = pair
    with EnvoyProcess(short_path / "hostile", peer_name=server_name("uid-x")) as hostile, App("there") as there:
        far.apply(routing(there.endpoint(), forwarders=(ONE,)), routing(host="b.example", ref=OTHER, forwarders=()))
        near.write()
        hostile.write()
        believed = headers_from(near, far)
        assert SAID.items() <= believed.items()

        got = headers_from(hostile, far, made_up=MADE_UP)
        assert (got["x-forwarded-for"], got["x-forwarded-proto"], got["x-forwarded-port"]) == (
            "127.0.0.1",
            "https",
            str(far.listen.https_port),
        )
        assert got["x-forwarded-host"] == got["host"] == "a.example"
        assert got["x-request-id"] not in ("", SAID["x-request-id"])
        for headers in (believed, got, headers_from(near, far, made_up=MADE_UP)):
            assert not [key for key in headers if key.startswith("x-envoy") or key == "x-forwarded-client-cert"]
        until(
            "the log names the peers", lambda: {entry.get("peer") for entry in far.log()} == {ONE, server_name("uid-x")}
        )
    assert far.rejected() == {}


@pytest.mark.parametrize(
    ("forwarders", "address"), [((), "127.0.0.1"), (None, "6.6.6.6")], ids=["nobody-forwards", "older-controller"]
)
def test_forwarders_decide_for_each_environment(
    pair: tuple[EnvoyProcess, EnvoyProcess], forwarders: tuple[str, ...] | None, address: str
) -> None:
    near, far = pair
    with App("there") as there:
        far.apply(routing(there.endpoint(), forwarders=forwarders), routing(host="b.example", ref=OTHER))
        near.write()
        assert headers_from(near, far)["x-forwarded-for"] == address
