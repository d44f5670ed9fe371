"""ACME server (pebble, RFC 8555) with its DNS server (pebble-challtestsrv), on free ports.

Pebble keeps everything in memory: after a restart there are no accounts, and the root certificate is new.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import ssl
import subprocess
import time
import urllib.request
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from tests.support.authority import Authority
from tests.support.ports import free_ports

#: Orders for hosts below it are refused (``rejectedIdentifier``).
BLOCKED_DOMAIN: Final = "blocked.example"
_START_SECONDS = 20.0


class Pebble:
    """ACME server and DNS server with all files in ``folder``. A context manager: starts on entry, ends on exit.

    Every name resolves to ``answers_at`` until changed by :meth:`point`. Methods block; in an async test, use
    ``asyncio.to_thread``.

    Attributes:
        directory_url: value for ``ca_directory_url`` of an environment.
        ca_cert: PEM file of the authority of the server's own certificate (``--acme-ca-cert``).
    """

    def __init__(
        self,
        folder: Path,
        *,
        http_port: int,
        bind: str = "127.0.0.1",
        answers_at: str = "127.0.0.1",
        validity_seconds: int = 90 * 24 * 3600,
        bad_nonces_percent: int = 0,
        reused_authorizations_percent: int = 0,
    ) -> None:
        """
        Args:
            folder: folder for configuration, certificate and logs.
            http_port: port of HTTP-01 challenges (80 on the internet).
            bind: listen address of both servers.
            answers_at: address of all names.
            validity_seconds: validity of issued certificates.
            bad_nonces_percent: share of good requests refused with ``badNonce``, at random.
            reused_authorizations_percent: share of orders that reuse an authorization of an earlier order.
        """
        folder.mkdir(parents=True, exist_ok=True)
        self.log = folder / "pebble.log"
        self.dns_log = folder / "challtestsrv.log"
        self._bind = bind
        self._answers_at = answers_at
        self._port, self._management_port, self._dns_port, self._dns_management_port = free_ports(4)
        authority = Authority(folder / "tls", addresses=sorted({bind, "127.0.0.1"}))
        own = authority.issue_server("pebble")
        self.ca_cert = authority.ca_cert
        self.directory_url = f"https://{bind}:{self._port}/dir"
        self._config = folder / "pebble.json"
        self._config.write_text(
            json.dumps(
                {
                    "pebble": {
                        "listenAddress": f"{bind}:{self._port}",
                        "managementListenAddress": f"{bind}:{self._management_port}",
                        "certificate": str(own.certificate),
                        "privateKey": str(own.key),
                        "httpPort": http_port,
                        "tlsPort": 0,
                        "domainBlocklist": [BLOCKED_DOMAIN],
                        "certificateValidityPeriod": validity_seconds,
                    }
                }
            )
        )
        self._environ = {
            **os.environ,
            "PEBBLE_VA_NOSLEEP": "1",
            "PEBBLE_WFE_NONCEREJECT": str(bad_nonces_percent),
            "PEBBLE_AUTHZREUSE": str(reused_authorizations_percent),
        }
        self._server: subprocess.Popen[bytes] | None = None
        self._dns: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self._start_dns()
        try:
            self.start()
        except BaseException:
            self._end_dns()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()
        self._end_dns()

    def start(self) -> None:
        """Start the ACME server and wait until it is ready; the DNS server runs from entry to exit.

        Raises:
            RuntimeError: the server ended, or took more than 20 s; with the end of the log.
        """
        assert self._server is None, "pebble already runs"
        dns = f"{self._bind}:{self._dns_port}"
        self._server = _spawn(["pebble", f"-config={self._config}", f"-dnsserver={dns}"], self.log, self._environ)
        deadline = time.monotonic() + _START_SECONDS
        while self._server.poll() is None and time.monotonic() < deadline:
            with suppress(OSError):
                self._get(self.directory_url)
                return
            time.sleep(0.02)
        self.stop()
        raise RuntimeError(f"pebble did not answer at {self.directory_url}: {_tail(self.log)}")

    def stop(self) -> None:
        """Stop the ACME server, even if paused; nothing listens on its port afterwards."""
        if self._server is not None:
            self._server.kill()
            self._server.wait(timeout=10)
        self._server = None

    def pause(self) -> None:
        """Pause the server (SIGSTOP): connections are accepted, without responses."""
        assert self._server is not None
        self._server.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Resume the server (SIGCONT)."""
        assert self._server is not None
        self._server.send_signal(signal.SIGCONT)

    def roots(self) -> str:
        """Return the root certificate of issued certificates, in PEM, for clients that verify."""
        return self._get(f"https://{self._bind}:{self._management_port}/roots/0")

    def point(self, host: str, addresses: Sequence[str]) -> None:
        """Resolve ``host`` to ``addresses`` (IPv4); without addresses, lookups fail."""
        self._manage("clear-a", {"host": f"{host}."})
        self._manage("clear-servfail", {"host": f"{host}."})
        if addresses:
            self._manage("add-a", {"host": f"{host}.", "addresses": list(addresses)})
        else:
            self._manage("set-servfail", {"host": f"{host}."})

    def _start_dns(self) -> None:
        management = f"{self._bind}:{self._dns_management_port}"
        command = [
            "pebble-challtestsrv",
            f"-dns01={self._bind}:{self._dns_port}",
            f"-management={management}",
            f"-defaultIPv4={self._answers_at}",
            "-defaultIPv6=",
            "-http01=",
            "-https01=",
            "-tlsalpn01=",
        ]
        self._dns = _spawn(command, self.dns_log, dict(os.environ))
        deadline = time.monotonic() + _START_SECONDS
        while self._dns.poll() is None and time.monotonic() < deadline:
            with suppress(OSError), socket.create_connection((self._bind, self._dns_management_port), timeout=1):
                return
            time.sleep(0.02)
        self._end_dns()
        raise RuntimeError(f"pebble-challtestsrv did not answer at {management}: {_tail(self.dns_log)}")

    def _end_dns(self) -> None:
        if self._dns is not None:
            self._dns.kill()
            self._dns.wait(timeout=10)
        self._dns = None

    def _get(self, url: str) -> str:
        context = ssl.create_default_context(cafile=str(self.ca_cert))
        # S310 warns of untrusted addresses; this is the tests' own server.
        with urllib.request.urlopen(url, timeout=5, context=context) as answer:  # noqa: S310
            content: bytes = answer.read()
            return content.decode()

    def _manage(self, what: str, content: dict[str, object]) -> None:
        url = f"http://{self._bind}:{self._dns_management_port}/{what}"
        with urllib.request.urlopen(url, data=json.dumps(content).encode(), timeout=5):
            pass


def _spawn(command: list[str], log: Path, environ: dict[str, str]) -> subprocess.Popen[bytes]:
    with log.open("ab") as output:
        return subprocess.Popen(command, stdout=output, stderr=output, stdin=subprocess.DEVNULL, env=environ)


def _tail(log: Path) -> str:
    return log.read_text(errors="replace")[-2000:]
