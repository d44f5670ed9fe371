"""The ACME client against servers that are well, ill, or none at all: what it makes of them."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from devopsellence.controller.certificates.acme import AcmeClient
from devopsellence.controller.certificates.demand import AcmeAccount
from devopsellence.controller.certificates.failure import FailureKind, IssuanceError, IssuanceFailure
from tests.support.need import need_pebble
from tests.support.pebble import BLOCKED_DOMAIN, Pebble
from tests.support.ports import free_ports
from tests.unit.controller.certificate_builders import HOST, csr


@pytest.fixture(scope="module")
def pebble(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pebble]:
    need_pebble()
    (port,) = free_ports(1)
    with Pebble(tmp_path_factory.mktemp("acme"), http_port=port) as server:
        yield server


class Stub:
    """Answers as an ACME server does, up to new accounts: those get ``status``, ``headers`` and ``problem``."""

    def __init__(self) -> None:
        self.status = 429
        self.headers: dict[str, str] = {}
        self.problem: dict[str, Any] = {}
        self.home = ""
        stub = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                what = ("newNonce", "newAccount", "newOrder", "revokeCert", "keyChange")
                self.answer(200, {"Content-Type": "application/json"}, {one: f"{stub.home}/{one}" for one in what})

            def do_HEAD(self) -> None:
                self.send_response(200)
                self.send_header("Replay-Nonce", "bm9uY2U")
                self.end_headers()

            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["Content-Length"]))
                content_type = {"Content-Type": "application/problem+json"}
                self.answer(stub.status, {**content_type, **stub.headers}, stub.problem)

            def answer(self, status: int, headers: dict[str, str], content: object) -> None:
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(json.dumps(content).encode())

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.home = f"http://127.0.0.1:{self.server.server_port}"


@pytest.fixture
def stub() -> Iterator[Stub]:
    made = Stub()
    with made.server as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        yield made
        server.shutdown()
        thread.join()


def refused(
    url: str, ca_cert: Path | None = None, *, host: str = HOST, seconds: int = 20, email: str = ""
) -> IssuanceFailure:
    """Return the failure of an order."""
    with pytest.raises(IssuanceError) as caught:
        AcmeClient(ca_cert, request_seconds=seconds).order(AcmeAccount(url, email), csr(host))
    return caught.value.failure


def test_server_that_no_node_vouches_for(pebble: Pebble) -> None:
    failure = refused(pebble.directory_url)
    assert failure.kind is FailureKind.UNTRUSTED
    assert failure.sentence(HOST).endswith("start the controller with --acme-ca-cert")


def test_server_that_is_not_there() -> None:
    (port,) = free_ports(1)
    failure = refused(f"https://127.0.0.1:{port}/dir")
    assert (failure.kind, failure.detail) == (FailureKind.UNREACHABLE, f"127.0.0.1:{port} cannot be reached")


def test_server_that_says_nothing(tmp_path: Path) -> None:
    need_pebble()
    with Pebble(tmp_path / "acme", http_port=1) as server:
        server.pause()
        failure = refused(server.directory_url, server.ca_cert, seconds=1)
    assert failure.kind is FailureKind.UNREACHABLE


def test_url_that_is_no_directory(pebble: Pebble) -> None:
    url = pebble.directory_url.removesuffix("dir")
    failure = refused(url, pebble.ca_cert)
    assert failure.kind is FailureKind.ACCOUNT
    assert failure.detail.startswith(f"{url} does not answer as an ACME server does")


@pytest.mark.parametrize(
    ("url", "kind"),
    [
        ("nonsense", FailureKind.ACCOUNT),
        ("https://", FailureKind.ACCOUNT),
        ("https://no.such.host.invalid/dir", FailureKind.UNREACHABLE),
    ],
    ids=["no url", "no host", "no such host"],
)
def test_url_that_leads_nowhere(url: str, kind: FailureKind) -> None:
    assert refused(url).kind is kind


def test_name_that_is_not_certified(pebble: Pebble) -> None:
    host = f"a.{BLOCKED_DOMAIN}"
    failure = refused(pebble.directory_url, pebble.ca_cert, host=host)
    assert failure.kind is FailureKind.REJECTED
    assert host in failure.detail


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("rateLimited", FailureKind.RATE_LIMITED),
        ("invalidContact", FailureKind.ACCOUNT),
        ("externalAccountRequired", FailureKind.ACCOUNT),
        ("caa", FailureKind.CAA),
        ("dns", FailureKind.DNS),
        ("unauthorized", FailureKind.UNAUTHORIZED),
        ("serverInternal", FailureKind.OTHER),
        ("somethingNew", FailureKind.OTHER),
    ],
)
def test_acme_error_is_reported_on_one_line(stub: Stub, name: str, kind: FailureKind) -> None:
    stub.problem = {"type": f"urn:ietf:params:acme:error:{name}", "detail": "one\n two.", "status": 429}
    failure = refused(f"{stub.home}/dir")
    assert (failure.kind, failure.retry_after) == (kind, 0.0)
    assert failure.detail == f"{stub.home.removeprefix('http://')} refused: one two"


@pytest.mark.parametrize(
    ("header", "least", "most"),
    [("3600", 3600, 3600), ("Fri, 31 Dec 2999 23:59:59 GMT", 1e9, 1e12), ("soon", 0, 0), ("-5", 0, 0)],
    ids=["seconds", "a date", "nonsense", "negative"],
)
def test_retry_after_header_delays_next_attempt(stub: Stub, header: str, least: float, most: float) -> None:
    stub.problem = {"type": "urn:ietf:params:acme:error:rateLimited", "detail": "too many"}
    stub.headers = {"Retry-After": header}
    assert least <= refused(f"{stub.home}/dir").retry_after <= most


def test_bad_nonces_come_to_end(stub: Stub) -> None:
    stub.status = 400
    stub.problem = {"type": "urn:ietf:params:acme:error:badNonce", "detail": "no"}
    assert refused(f"{stub.home}/dir").kind is FailureKind.OTHER


def test_orders_share_account_until_server_forgets_it(pebble: Pebble) -> None:
    def accounts() -> int:
        return pebble.log.read_text().count("POST /sign-me-up")

    before = accounts()
    authorities = AcmeClient(pebble.ca_cert)
    account = AcmeAccount(pebble.directory_url, "ops@example.com")
    orders = []
    threads = [threading.Thread(target=lambda: orders.append(authorities.order(account, csr(HOST)))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(orders) == 4
    assert accounts() == before + 1
    [challenge] = orders[0].challenges
    assert challenge.key_authorization.startswith(f"{challenge.token}.")
    pebble.stop()
    pebble.start()
    assert authorities.order(account, csr(HOST)).challenges
    assert accounts() == before + 2
