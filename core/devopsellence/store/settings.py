"""Settings of the connection to etcd: the ``DEVOPSELLENCE_ETCD_*`` environment variables.

Imports neither grpc nor the etcd client, so that the CLI can read settings quickly.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from devopsellence.store.keys import DEFAULT_PREFIX, Keys

#: DNS name in the certificate of every etcd member and every gateway. Endpoints are addresses; one name for all of them
#: lets a client verify the certificate of any.
ETCD_SERVER_NAME: Final = "etcd.devopsellence.internal"
#: DNS name in the certificates that etcd itself accepts from clients: those of controllers and root. All others use the
#: controllers' gateways.
ETCD_CLIENT_NAME: Final = "etcd-client.devopsellence.internal"

ENDPOINTS: Final = "DEVOPSELLENCE_ETCD_ENDPOINTS"
CA_CERT: Final = "DEVOPSELLENCE_ETCD_CA_CERT"
CERT: Final = "DEVOPSELLENCE_ETCD_CERT"
KEY: Final = "DEVOPSELLENCE_ETCD_KEY"
SERVER_NAME: Final = "DEVOPSELLENCE_ETCD_SERVER_NAME"
USERNAME: Final = "DEVOPSELLENCE_ETCD_USERNAME"
PASSWORD_FILE: Final = "DEVOPSELLENCE_ETCD_PASSWORD_FILE"  # noqa: S105 - the variable's name
PREFIX: Final = "DEVOPSELLENCE_PREFIX"


class SettingsError(ValueError):
    """Invalid setting; the message names the variable and the expected format."""


@dataclass(frozen=True)
class Settings:
    """Settings for one etcd cluster.

    ``endpoints`` are ``address:port`` without a scheme: all IPv4, all IPv6 in brackets, or a single host name.
    ``ca_cert``, ``cert`` and ``key`` are PEM files; all three or none. ``username`` and ``password_file`` are only for
    clusters without certificate authentication.

    Raises:
        SettingsError: a value is missing or contradicts another.
    """

    endpoints: tuple[str, ...]
    ca_cert: Path | None = None
    cert: Path | None = None
    key: Path | None = None
    server_name: str = ETCD_SERVER_NAME
    username: str = ""
    password_file: Path | None = None
    prefix: str = DEFAULT_PREFIX

    def __post_init__(self) -> None:
        texts = {
            ENDPOINTS: ",".join(self.endpoints),
            SERVER_NAME: self.server_name,
            USERNAME: self.username,
            PREFIX: self.prefix,
        }
        for variable, text in texts.items():
            # Bytes that are not UTF-8 arrive as surrogates (PEP 383), which no request can carry.
            if any("\ud800" <= character <= "\udfff" for character in text):
                raise SettingsError(f"{variable} is not valid UTF-8")
        if not self.endpoints:
            raise SettingsError(f"{ENDPOINTS} names no endpoint; it should read like 127.0.0.1:2379")
        hosts = [_host(endpoint) for endpoint in self.endpoints]
        if len({_family(host) for host in hosts}) > 1 or (len(hosts) > 1 and _family(hosts[0]) == "name"):
            raise SettingsError(
                f"{ENDPOINTS} ({', '.join(self.endpoints)}): several endpoints must be addresses of one kind, "
                "such as 10.0.0.1:2379,10.0.0.2:2379; a host name can only stand alone"
            )
        files = (self.ca_cert, self.cert, self.key)
        if any(files) and not all(files):
            raise SettingsError(f"{CA_CERT}, {CERT} and {KEY} belong together: set all three or none")
        if bool(self.username) != bool(self.password_file):
            raise SettingsError(f"{USERNAME} and {PASSWORD_FILE} belong together: set both or none")
        try:
            Keys(self.prefix)
        except ValueError as error:
            raise SettingsError(f"{PREFIX}: {error}") from error

    @property
    def target(self) -> str:
        """Return the endpoints as a gRPC target (ipv4, ipv6 or dns scheme)."""
        family = _family(_host(self.endpoints[0]))
        return f"dns:///{self.endpoints[0]}" if family == "name" else f"{family}:{','.join(self.endpoints)}"

    @classmethod
    def from_environ(cls, environ: Mapping[str, str]) -> Settings | None:
        """Read the settings from ``environ``; None if no endpoint is set.

        A scheme before an endpoint (``http://``, ``https://``, as for etcdctl) is dropped; ``localhost`` means
        127.0.0.1. Empty variables count as absent.

        Raises:
            SettingsError: a variable has an invalid value.
        """
        endpoints = tuple(_endpoint(part) for part in environ.get(ENDPOINTS, "").split(",") if part.strip())
        if not endpoints:
            return None

        def path(variable: str) -> Path | None:
            return Path(value) if (value := environ.get(variable, "")) else None

        return cls(
            endpoints=endpoints,
            ca_cert=path(CA_CERT),
            cert=path(CERT),
            key=path(KEY),
            server_name=environ.get(SERVER_NAME) or ETCD_SERVER_NAME,
            username=environ.get(USERNAME, ""),
            password_file=path(PASSWORD_FILE),
            prefix=environ.get(PREFIX) or DEFAULT_PREFIX,
        )

    def to_environ(self) -> dict[str, str]:
        """Return the variables for a child process; :meth:`from_environ` reads back the same settings."""
        values = {
            ENDPOINTS: ",".join(self.endpoints),
            CA_CERT: str(self.ca_cert or ""),
            CERT: str(self.cert or ""),
            KEY: str(self.key or ""),
            SERVER_NAME: self.server_name,
            USERNAME: self.username,
            PASSWORD_FILE: str(self.password_file or ""),
            PREFIX: self.prefix,
        }
        return {variable: value for variable, value in values.items() if value}


def _endpoint(text: str) -> str:
    endpoint = text.strip().removeprefix("http://").removeprefix("https://").rstrip("/")
    return f"127.0.0.1:{endpoint.removeprefix('localhost:')}" if endpoint.startswith("localhost:") else endpoint


def _host(endpoint: str) -> str:
    host, separator, port = endpoint.rpartition(":")
    if not (separator and host and port.isascii() and port.isdigit() and 0 < int(port) < 65536):
        raise SettingsError(f"{ENDPOINTS}: {endpoint!r} is not address:port, such as 127.0.0.1:2379")
    if "/" in host or "@" in host or any(character.isspace() for character in host):
        raise SettingsError(f"{ENDPOINTS}: {endpoint!r} is not address:port, such as 127.0.0.1:2379")
    return host


def _family(host: str) -> str:
    """Return ``ipv4``, ``ipv6`` or ``name``."""
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    try:
        return f"ipv{ipaddress.ip_address(host).version}"
    except ValueError:
        return "name"
