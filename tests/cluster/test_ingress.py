"""Three hosts behind one name, as users see them: certificates of a real ACME server, deploys, failures.

The app ends at once on SIGTERM, so only the routers can keep requests from failing. Unavoidable outages are printed,
not judged: tests assert that outages end, and that no other host is affected.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable, Iterator, Mapping
from itertools import count
from typing import Any
from urllib.parse import urlsplit

import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from devopsellence.api.v1.stored_pb2 import Certificate
from devopsellence.store.codec import decode, encode
from devopsellence.store.etcd import Compare, Etcd, Put
from tests.support.cluster.app import HOST, PORT, PRIVATE, PRIVATE_PORT, App
from tests.support.cluster.audit import nothing_amiss, stored
from tests.support.cluster.bed import Bed
from tests.support.cluster.load import Load
from tests.support.cluster.network import OPERATOR, address
from tests.support.cluster.roles import Host
from tests.support.host import need_host
from tests.support.load.plan import KEPT, NEW
from tests.support.need import need_docker, need_etcd, need_pebble
from tests.support.pebble import Pebble
from tests.support.until import until

pytestmark = pytest.mark.timeout(240)

_numbers = count(1)
_DAY = 24 * 3600


@pytest.fixture(scope="module")
def hosts_only(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bed]:
    need_host()
    need_etcd()
    need_docker()
    need_pebble()
    with Bed(tmp_path_factory.mktemp("bed")) as bed:
        yield bed


@pytest.fixture(scope="module")
def pebble(hosts_only: Bed, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pebble]:
    """ACME server in the bed's network, with a DNS in which the app's name leads to all hosts."""
    here = address(hosts_only.number, OPERATOR)
    with Pebble(tmp_path_factory.mktemp("pebble"), http_port=80, bind=here) as server:
        server.point(HOST, [host.address for host in hosts_only.hosts.values()])
        hosts_only.trust(server.ca_cert)
        yield server


@pytest.fixture(scope="module")
def shared(hosts_only: Bed, pebble: Pebble, tmp_path_factory: pytest.TempPathFactory) -> App:
    """App on all hosts, with a certificate on each host."""
    app = App(hosts_only, tmp_path_factory.mktemp("app"), "shop", directory=pebble.directory_url, private=True)
    app.authority.write_text(pebble.roots())
    app.attach(*hosts_only.hosts)
    app.deploy("first")
    until("every host has the certificate", lambda: len(served(app)) == len(hosts_only.hosts), seconds=90, every=0.2)
    return app


@pytest.fixture
def version() -> str:
    """Return a version never deployed before."""
    return f"v{next(_numbers)}"


def served(app: App) -> dict[str, str]:
    """Return the serial of the trusted certificate that each host serves, by host."""
    trust = ssl.create_default_context(cafile=str(app.authority))
    serials = {}
    for name, host in app.bed.hosts.items():
        try:
            with (
                socket.create_connection((host.address, 443), timeout=5) as plain,
                trust.wrap_socket(plain, server_hostname=HOST) as connection,
            ):
                certificate: Mapping[str, object] = connection.getpeercert() or {}
                serials[name] = str(certificate["serialNumber"])
        except OSError:
            pass
    return serials


def record(app: App) -> Certificate:
    return stored(app.bed).certificates[app.ref, HOST]


def make_due(app: App) -> None:
    """Make the certificate old enough to be renewed, and forget earlier attempts."""

    async def work(etcd: Etcd) -> bool:
        key = etcd.keys.certificate(app.ref, HOST)
        record = await etcd.get(key)
        assert record is not None
        certificate = decode(Certificate, key, record.value)
        now = Timestamp()
        now.GetCurrentTime()
        certificate.not_before.seconds = now.seconds - 60 * _DAY
        certificate.not_after.seconds = now.seconds + 10 * _DAY
        certificate.ClearField("issuance")
        result = await etcd.txn([Compare.unmodified(key, record.mod_revision)], [Put(key, encode(certificate))])
        return result.succeeded

    until("the certificate is due", lambda: app.bed.store(work))


def renewed(app: App, before: set[str]) -> str:
    """Return the serial of the certificate that all hosts serve, once different from ``before``."""

    def look() -> str:
        serials = served(app)
        shown = set(serials.values())
        return shown.pop() if len(serials) == len(app.bed.hosts) and len(shown) == 1 and not shown & before else ""

    return until("every host has the next certificate", look, seconds=90, every=0.2)


def print_results(load: Load) -> None:
    """Print the observations of the clients."""
    for host, result in load.results.items():
        slowest = result.percentile(0.99, KEPT, NEW)
        gap = result.longest_gap
        print(f"{host}: {result.outages()}; p99 {slowest:.3f} s, longest without an answer {gap:.2f} s")  # noqa: T201


def test_all_hosts_serve_the_certificate_and_redirect_to_https(app: App) -> None:
    assert set(served(app).values()) == {renewed(app, set())}
    for host in app.bed.hosts.values():
        with socket.create_connection((host.address, 80), timeout=5) as plain:
            plain.sendall(f"GET /version?a=b HTTP/1.1\r\nHost: {HOST}\r\n\r\n".encode())
            answer = plain.recv(65536).decode().lower()
        assert answer.split()[1] in ("301", "308")
        assert f"location: https://{HOST}/version?a=b\r\n" in answer


def test_any_host_answers_challenge_and_renewal_drops_no_request(app: App, bed: Bed, pebble: Pebble) -> None:
    serials = {renewed(app, set())}
    with Load(app, *bed.hosts, sockets=2) as load:
        for host in bed.hosts.values():
            pebble.point(HOST, [host.address])
            make_due(app)
            serials.add(renewed(app, serials))
    pebble.point(HOST, [host.address for host in bed.hosts.values()])
    print_results(load)
    assert load.failed == []
    assert len(serials) == 1 + len(bed.hosts)


def test_rolling_deploy_drops_no_request(app: App, bed: Bed, version: str) -> None:
    """Slow answers and WebSockets are not dropped either."""
    with Load(app, *bed.hosts, slow=2, slow_seconds=3.0, sockets=2, socket_seconds=3.0) as load:
        app.deploy(version)
    print_results(load)
    assert load.failed == []
    for host, result in load.results.items():
        assert version in result.answered, f"{host} was asked during the rollout"


def test_unreachable_authority_delays_only_the_renewal(app: App, pebble: Pebble) -> None:
    before = renewed(app, set())
    with Load(app, "n1") as load:
        pebble.stop()
        make_due(app)
        until("it has failed", lambda: record(app).issuance.failures, seconds=90, every=0.3)
        assert set(served(app).values()) == {before}
    print(record(app).issuance.reason)  # noqa: T201
    assert load.failed == []
    assert HOST in app.devopsellence("status", "--all").stdout
    pebble.start()
    # A new one, which has another root.
    app.authority.write_text(app.authority.read_text() + pebble.roots())
    make_due(app)
    renewed(app, {before})


def test_another_host_answers_for_missing_container(app: App, bed: Bed) -> None:
    """Even where nobody is there to tell the router."""
    host = bed.hosts["n2"]
    with Load(app, *bed.hosts) as load:
        host.kill_agent()
        (container,) = containers(app, host)
        host.docker("kill", container)
        before = load.answered("n2")
        until("others answer", lambda: load.answered("n2") > before + 100)
        host.start_agent()
        nothing_amiss(bed)
    print_results(load)
    assert {line.split()[0] for line in load.failed} <= {"n2"}


def kill_envoy(host: Host) -> None:
    (router,) = host.routers()
    host.run("kill", "-9", str(router["State"]["Pid"]))


def kill_agent(host: Host) -> None:
    host.kill_agent()
    host.start_agent()


def kill_docker(host: Host) -> None:
    host.kill_docker()
    host.start_docker()


@pytest.mark.parametrize("kill", [kill_envoy, kill_agent, kill_docker])
def test_killed_router_recovers_without_affecting_other_hosts(app: App, bed: Bed, kill: Callable[[Host], None]) -> None:
    with Load(app, *bed.hosts) as load:
        kill(bed.hosts["n1"])
        nothing_amiss(bed, seconds=60)
        before = load.answered("n1")
        until("n1 answers again", lambda: load.answered("n1") > before + 100)
    print_results(load)
    assert {line.split()[0] for line in load.failed} <= ({"n1"} if kill is not kill_agent else set())


@pytest.fixture
def way(app: App, bed: Bed) -> Iterator[dict[str, int]]:
    """Yield ports by address of n1's containers, with a route to the containers on n2."""
    there, here = bed.hosts["n1"], bed.hosts["n2"]
    addresses = {}
    for service, port in ((PRIVATE, PRIVATE_PORT), ("web", PORT)):
        (container,) = containers(app, there, service)
        where = there.docker("inspect", "-f", "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}", container)
        addresses[where] = port
    network = f"{where.rpartition('.')[0]}.0/24"
    here.run("ip", "route", "add", network, "via", there.address)
    yield addresses
    here.run("ip", "route", "del", network)
    there.run("iptables", "--policy", "FORWARD", "DROP")


def test_service_without_rule_is_unreachable_from_outside(bed: Bed, way: dict[str, int]) -> None:
    """Not through the router, and not over a route to the containers, as in the next test."""
    there, here = bed.hosts["n1"], bed.hosts["n2"]
    for where, port in way.items():
        assert reaches(there, where, port), "from its own host it can be reached"
        assert not reaches(here, where, port)
    for host in bed.hosts.values():
        assert not reaches(here, host.address, PRIVATE_PORT)
        assert not reaches(here, host.address, PORT)
    ask = ["curl", "-sk", "-o", "/dev/null", "-w", "%{http_code}", "--noproxy", "*", "-H", f"Host: {PRIVATE}"]
    assert here.run(*ask, f"http://{there.address}/").stdout == "404"


def test_forwarding_host_is_reported_with_fix(app: App, bed: Bed, way: dict[str, int], pebble: Pebble) -> None:
    """A machine that forwarded packets before Docker started: Docker before 28 then accepts forwarded packets."""
    there, here = bed.hosts["n1"], bed.hosts["n2"]
    assert isolation(app, "n1") is None
    there.run("iptables", "--policy", "FORWARD", "ACCEPT")
    for where, port in way.items():
        assert reaches(here, where, port)
    finding = isolation(app, "n1")
    assert finding is not None
    assert "machines on the same network reach every port of containers directly" in finding["message"]
    command = finding["next_actions"][0]["command"].partition(" (")[0]
    assert command == "iptables -P FORWARD DROP"
    doctor = app.devopsellence("doctor", check=False).stdout
    assert "isolation of node n1" in doctor
    assert command in doctor
    assert isolation(app, "n2") is None

    there.run("sh", "-c", command)
    for where, port in way.items():
        assert not reaches(here, where, port)
    assert isolation(app, "n1") is None
    # What is meant to get through does: people's requests, and containers' to one another and to the outside.
    with Load(app, "n1") as load:
        until("n1 answers", lambda: load.answered("n1") > 100)
    assert load.failed == []
    (web,) = containers(app, there)
    outside = urlsplit(pebble.directory_url)
    for reached in ((PRIVATE, PRIVATE_PORT), (outside.hostname, outside.port)):
        connect = f"import socket; socket.create_connection({reached!r}, timeout=20)"
        there.docker("exec", web, "python3", "-c", connect)


def containers(app: App, host: Host, service: str = "web") -> list[str]:
    labels = (f"label=devopsellence.environment={app.ref}", f"label=devopsellence.service={service}")
    return [container["Id"] for container in host.containers(*labels)]


def reaches(host: Host, where: str, port: int) -> bool:
    """Something on a host can connect to a port."""
    connect = f"timeout 2 bash -c 'exec 3<>/dev/tcp/{where}/{port}'"
    return host.run("sh", "-c", connect, check=False).returncode == 0


def isolation(app: App, node: str) -> dict[str, Any] | None:
    """Return the check of ``node diagnose`` about the isolation of containers."""
    findings = app.bed.json("node", "diagnose", node, check=False).get("error", {}).get("findings", [])
    return next((finding for finding in findings if finding["code"] == "isolation"), None)
