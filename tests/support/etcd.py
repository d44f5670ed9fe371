"""Members of etcd that tests start, kill, pause and restore."""

from __future__ import annotations

import os
import shutil
import signal
import ssl
import subprocess
import time
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from devopsellence.certificates.subjects import MEMBER_COMMON_NAME
from devopsellence.server_certificate import CertificateFiles
from devopsellence.store.identities import USER_CONTROLLER, USER_OPERATOR
from devopsellence.store.keys import DEFAULT_PREFIX
from devopsellence.store.settings import Settings
from tests.support.authority import Authority, settings_with
from tests.support.ports import free_ports

_START_SECONDS = 20.0
# Short, so that a lease may have a TTL of 1 s (etcd's least TTL is one and a half election timeouts, rounded up).
_TIMING = ("--heartbeat-interval=50", "--election-timeout=250")


class EtcdServer:
    """Member of etcd on free ports, with data below ``folder``.

    A context manager: starts on entry, stops on exit. ``authority`` turns on TLS with required client certificates,
    whose common names are etcd's users; ``files`` is the member's certificate, by default a new one of it.
    ``EtcdServer.cluster`` makes several members of one cluster.

    Methods block; an async test calls slow ones through ``asyncio.to_thread``.
    """

    def __init__(
        self,
        folder: Path,
        *,
        name: str = "m1",
        authority: Authority | None = None,
        files: CertificateFiles | None = None,
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
        self._certificate = files or (authority.issue_server(MEMBER_COMMON_NAME) if authority else None)
        self._process: subprocess.Popen[bytes] | None = None

    @classmethod
    def cluster(
        cls, folder: Path, size: int, *, authority: Authority | None = None, arguments: Sequence[str] = ()
    ) -> list[EtcdServer]:
        """Return ``size`` members of one cluster, to be started by ``spawn`` on all, then ``wait_ready`` on all."""
        members = [
            cls(folder / f"m{i}", name=f"m{i}", authority=authority, arguments=arguments) for i in range(1, size + 1)
        ]
        for member in members:
            member.initial_cluster = ",".join(f"{peer.name}={peer.peer_url}" for peer in members)
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
        """Return settings of a client; with TLS, a new certificate with the common name ``user``."""
        if self.authority is None:
            return Settings((self.endpoint,), prefix=prefix)
        return settings_with(Settings((self.endpoint,), prefix=prefix), self.authority.issue(user or "anyone"))

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.kill()

    def start(self) -> None:
        """Start the member and wait until it is ready."""
        self.spawn()
        self.wait_ready()

    def spawn(self) -> None:
        """Start the member without waiting."""
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
        """Return once the member has a leader and serves clients.

        Raises:
            RuntimeError: the member ended, or took more than 20 s; with the end of the log.
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
        """End the member with SIGTERM."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End the member with SIGKILL, paused or not."""
        self._end(signal.SIGKILL)

    def restart(self) -> None:
        """Stop and start the member on the same ports and data."""
        self.stop()
        self.start()

    def pause(self) -> None:
        """Pause the member with SIGSTOP: connections stay open without answers."""
        assert self._process is not None
        self._signal(signal.SIGSTOP)
        # A thread on another processor goes on for a moment; waitid returns once the last thread has stopped.
        os.waitid(os.P_PID, self._process.pid, os.WSTOPPED)

    def resume(self) -> None:
        """Resume the member with SIGCONT."""
        self._signal(signal.SIGCONT)

    def replace_certificate(self, authority: Authority, *, days_old: int) -> None:
        """Put a certificate of that age in place of the present one; etcd reads it for every connection."""
        assert self._certificate is not None
        issued = authority.issue_server(MEMBER_COMMON_NAME, days_old=days_old)
        issued.certificate.replace(self._certificate.certificate)
        issued.key.replace(self._certificate.key)

    def snapshot(self, path: Path) -> None:
        """Save a snapshot of the running member."""
        self.etcdctl("snapshot", "save", str(path))

    def restore(self, path: Path, *, cluster: str = "restored") -> None:
        """Replace the data of the stopped member by a snapshot.

        ``cluster`` determines the cluster's id: with etcd's default, ``etcd-cluster``, the id stays.
        """
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
        """Run etcdctl against this member and return the output; ``user`` matters only with an authority."""
        command = ["etcdctl", f"--endpoints={self.url}", *arguments]
        if self.authority:
            client = self.authority.issue(user)
            command[1:1] = [f"--cacert={self.authority.ca_cert}", f"--cert={client.certificate}", f"--key={client.key}"]
        environ = {**os.environ, "ETCDCTL_API": "3"}
        done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=30, check=False)
        if done.returncode != 0:
            raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()}")
        return done.stdout

    def enable_users(self) -> None:
        """Turn authentication on, with the users of root and the controllers, as in clusters of earlier versions."""
        for user, grant in (
            (USER_OPERATOR, ()),
            (USER_CONTROLLER, ("--prefix=true", USER_CONTROLLER, "readwrite", DEFAULT_PREFIX)),
        ):
            self.etcdctl("user", "add", user, "--no-password")
            self.etcdctl("role", "add", user)
            if grant:
                self.etcdctl("role", "grant-permission", *grant)
            self.etcdctl("user", "grant-role", user, user)
        self.etcdctl("auth", "enable")

    def _tls_arguments(self) -> list[str]:
        if self.authority is None or self._certificate is None:
            return []
        files = (
            f"trusted-ca-file={self.authority.ca_cert}",
            f"cert-file={self._certificate.certificate}",
            f"key-file={self._certificate.key}",
            "client-cert-auth",
        )
        return [f"--{side}{file}" for file in files for side in ("", "peer-")]

    def _answers(self) -> bool:
        context: ssl.SSLContext | None = None
        if self.authority and self._certificate:
            context = ssl.create_default_context(cafile=str(self.authority.ca_cert))
            context.load_cert_chain(self._certificate.certificate, self._certificate.key)
        try:
            # A server of the test: S310 warns of addresses from elsewhere.
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
