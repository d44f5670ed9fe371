"""A real etcd, started, killed, paused and restored by the tests, with a throwaway certificate authority."""

from __future__ import annotations

import datetime
import ipaddress
import os
import random
import shutil
import signal
import socket
import ssl
import subprocess
import time
import urllib.request
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from devopsellence.store.keys import DEFAULT_PREFIX
from devopsellence.store.settings import ETCD_SERVER_NAME, Settings

_START_SECONDS = 20.0
# Short, so that a lease may have a TTL of 1 s (etcd's least TTL is one and a half election timeouts, rounded up).
_TIMING = ("--heartbeat-interval=50", "--election-timeout=250")


def free_ports(count: int) -> list[int]:
    """Ports on 127.0.0.1 that nobody listened on a moment ago, all different.

    Below those that Linux hands out by itself (from 32768), so that no client's connection takes one in the meantime.
    """
    ports: list[int] = []
    for port in random.sample(range(20_000, 32_000), 1000):
        if len(ports) == count:
            return ports
        with socket.socket() as probe, suppress(OSError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
            ports.append(port)
    raise RuntimeError("no free ports on 127.0.0.1")


@dataclass(frozen=True)
class Certificate:
    """PEM files of one end."""

    cert: Path
    key: Path


class Authority:
    """A certificate authority that lives as long as ``folder``; its servers are at ``addresses``."""

    def __init__(self, folder: Path, *, addresses: Sequence[str] = ("127.0.0.1",)) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._addresses = tuple(addresses)
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "throwaway authority")])
        certificate = (
            self._builder(self._name, self._key.public_key())
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .sign(self._key, hashes.SHA256())
        )
        self.ca_cert = folder / "ca.pem"
        self.ca_cert.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))

    def issue(self, common_name: str, *, server: bool = False) -> Certificate:
        """A certificate for ``common_name``: a client's, or a member's (which is a client to its peers as well)."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
        uses = [ExtendedKeyUsageOID.CLIENT_AUTH, *([ExtendedKeyUsageOID.SERVER_AUTH] if server else [])]
        builder = self._builder(subject, key.public_key()).add_extension(x509.ExtendedKeyUsage(uses), critical=False)
        if server:
            names: list[x509.GeneralName] = [x509.DNSName(ETCD_SERVER_NAME)]
            names += [x509.IPAddress(ipaddress.ip_address(address)) for address in self._addresses]
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        stem = self._folder / common_name.replace(":", "-").replace("/", "-")
        made = Certificate(stem.with_suffix(".pem"), stem.with_suffix(".key"))
        made.cert.write_bytes(builder.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
        made.key.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        made.key.chmod(0o600)
        return made

    def _builder(self, subject: x509.Name, key: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
        now = datetime.datetime.now(datetime.UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(minutes=5))
            .not_valid_after(now + datetime.timedelta(hours=2))
        )


class EtcdServer:
    """One etcd member on ports of its own, its data below ``folder``.

    A context manager: starts on entry, stops on exit. ``authority`` turns on TLS with required client certificates,
    whose common names are etcd's users. ``EtcdServer.cluster`` makes several members of one cluster.

    Blocking; in an async test, call what takes time through ``asyncio.to_thread``.
    """

    def __init__(
        self,
        folder: Path,
        *,
        name: str = "m1",
        authority: Authority | None = None,
        arguments: Sequence[str] = (),
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.name = name
        self.data = folder / "data"
        self.log = folder / "etcd.log"
        self.authority = authority
        self.arguments = tuple(arguments)
        self.port, self.peer_port = free_ports(2)
        self.initial_cluster = f"{name}={self.peer_url}"
        self._certificate = authority.issue(f"member-{name}", server=True) if authority else None
        self._process: subprocess.Popen[bytes] | None = None

    @classmethod
    def cluster(
        cls, folder: Path, size: int, *, authority: Authority | None = None, arguments: Sequence[str] = ()
    ) -> list[EtcdServer]:
        """``size`` members of one cluster, none of them started: call ``spawn`` on all, then ``wait_ready`` on all."""
        members = [
            cls(folder / f"m{i}", name=f"m{i}", authority=authority, arguments=arguments) for i in range(1, size + 1)
        ]
        for member in members:
            member.initial_cluster = ",".join(f"{each.name}={each.peer_url}" for each in members)
        return members

    @property
    def endpoint(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        return f"{'https' if self.authority else 'http'}://{self.endpoint}"

    @property
    def peer_url(self) -> str:
        return f"{'https' if self.authority else 'http'}://127.0.0.1:{self.peer_port}"

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def settings(self, prefix: str = DEFAULT_PREFIX, *, user: str = "") -> Settings:
        """How to reach it; ``user`` is the common name of a client certificate that is made for this."""
        if self.authority is None:
            return Settings((self.endpoint,), prefix=prefix)
        client = self.authority.issue(user or "anyone")
        return Settings(
            (self.endpoint,), ca_cert=self.authority.ca_cert, cert=client.cert, key=client.key, prefix=prefix
        )

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.kill()

    def start(self) -> None:
        """Start and wait until it answers."""
        self.spawn()
        self.wait_ready()

    def spawn(self) -> None:
        """Start it without waiting."""
        assert not self.running, "etcd already runs"
        command = [
            "etcd",
            f"--name={self.name}",
            f"--data-dir={self.data}",
            f"--listen-client-urls={self.url}",
            f"--advertise-client-urls={self.url}",
            f"--listen-peer-urls={self.peer_url}",
            f"--initial-advertise-peer-urls={self.peer_url}",
            f"--initial-cluster={self.initial_cluster}",
            "--log-level=warn",
            *_TIMING,
            *self._tls_arguments(),
            *self.arguments,
        ]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL)

    def wait_ready(self) -> None:
        """Return once it has a leader and serves clients.

        Raises:
            RuntimeError: it ended, or took more than 20 s; with the end of its log.
        """
        deadline = time.monotonic() + _START_SECONDS
        while time.monotonic() < deadline:
            if not self.running:
                break
            # The port is open long before; /health answers 200 once there is a leader.
            if self._answers():
                return
            time.sleep(0.02)
        tail = self.log.read_text(errors="replace")[-2000:]
        self.kill()
        raise RuntimeError(f"etcd {self.name} did not become ready on {self.endpoint}: {tail}")

    def stop(self) -> None:
        """SIGTERM, then wait."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL, then wait; also ends one that is paused."""
        self._end(signal.SIGKILL)

    def restart(self) -> None:
        """Stop and start on the same ports and data."""
        self.stop()
        self.start()

    def pause(self) -> None:
        """SIGSTOP: connections stay open, nothing answers any more."""
        assert self._process is not None
        self._signal(signal.SIGSTOP)
        # A thread on another processor goes on for a moment; this returns when the last of them has stopped.
        os.waitid(os.P_PID, self._process.pid, os.WSTOPPED)

    def resume(self) -> None:
        """SIGCONT."""
        self._signal(signal.SIGCONT)

    def snapshot(self, path: Path) -> None:
        """Save a snapshot of the running member."""
        self.etcdctl("snapshot", "save", str(path))

    def restore(self, path: Path, *, cluster: str = "restored") -> None:
        """Replace the data of the stopped member by a snapshot. ``cluster`` goes into the cluster's id: with etcd's
        default, ``etcd-cluster``, the id stays."""
        self.wipe()
        self.etcdctl(
            "snapshot",
            "restore",
            str(path),
            f"--name={self.name}",
            f"--data-dir={self.data}",
            f"--initial-cluster={self.initial_cluster}",
            f"--initial-advertise-peer-urls={self.peer_url}",
            f"--initial-cluster-token={cluster}",
        )

    def wipe(self) -> None:
        """Delete the data of the stopped member."""
        assert not self.running, "etcd still runs"
        shutil.rmtree(self.data, ignore_errors=True)

    def etcdctl(self, *arguments: str, user: str = "root") -> str:
        """Run etcdctl against this member and return what it prints; ``user`` matters only with an authority."""
        command = ["etcdctl", f"--endpoints={self.url}", *arguments]
        if self.authority:
            client = self.authority.issue(user)
            command[1:1] = [f"--cacert={self.authority.ca_cert}", f"--cert={client.cert}", f"--key={client.key}"]
        environ = {**os.environ, "ETCDCTL_API": "3"}
        done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=30, check=False)
        if done.returncode != 0:
            raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()}")
        return done.stdout

    def _tls_arguments(self) -> list[str]:
        if self.authority is None or self._certificate is None:
            return []
        files = (
            f"trusted-ca-file={self.authority.ca_cert}",
            f"cert-file={self._certificate.cert}",
            f"key-file={self._certificate.key}",
            "client-cert-auth",
        )
        return [f"--{which}{file}" for file in files for which in ("", "peer-")]

    def _answers(self) -> bool:
        context: ssl.SSLContext | None = None
        if self.authority and self._certificate:
            context = ssl.create_default_context(cafile=str(self.authority.ca_cert))
            context.load_cert_chain(self._certificate.cert, self._certificate.key)
        try:
            # Our own server: S310 warns of addresses from elsewhere.
            with urllib.request.urlopen(f"{self.url}/health", timeout=1, context=context) as answer:  # noqa: S310
                return bool(answer.status == 200)
        except OSError:
            return False

    def _signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def _end(self, number: signal.Signals) -> None:
        if self._process is None:
            return
        self._process.send_signal(number)
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(timeout=10)
        self._process = None
