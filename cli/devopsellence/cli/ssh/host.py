"""Name of an ssh host, as people type it and as ``ssh`` takes it. Pure."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from typing import Final

# ssh passes user and host on to commands of its configuration, through a shell (%r and %h). A first "-" would be an
# option.
_USER: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._@+-]{0,127}", re.ASCII)
_HOST: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,252}", re.ASCII)
_RULE: Final = "a host is host, user@host or user@host:port, with a name, an address or an alias of ~/.ssh/config"


class InvalidHost(ValueError):
    """Text that is not the name of an ssh host; the message says why."""


@dataclass(frozen=True)
class SshHost:
    """Machine with an sshd. ``user`` "" and ``port`` 0: as the configuration of ``ssh`` says."""

    host: str
    user: str = ""
    port: int = 0

    @classmethod
    def parse(cls, text: str) -> SshHost:
        """Return the host of ``user@host:port``; user and port may be absent, an IPv6 address is in brackets.

        Raises:
            InvalidHost.
        """
        user, _, place = text.removeprefix("ssh://").rpartition("@")
        host, port = _split(place)
        if not (_HOST.fullmatch(host) or _is_ipv6(host)) or ("@" in text and not _USER.fullmatch(user)):
            raise InvalidHost(f"{text!r} is not an ssh host: {_RULE}")
        if port is not None and not (port.isascii() and port.isdigit() and len(port) <= 5 and 0 < int(port) < 65536):
            raise InvalidHost(f"{text!r} is not an ssh host: {port!r} is no port")
        return cls(host, user, int(port or 0))

    def __str__(self) -> str:
        user = f"{self.user}@" if self.user else ""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{user}{host}{f':{self.port}' if self.port else ''}"

    @property
    def arguments(self) -> list[str]:
        """Return the last arguments of ``ssh``."""
        port = ["-p", str(self.port)] if self.port else []
        return [*port, "--", f"{self.user}@{self.host}" if self.user else self.host]


def _split(place: str) -> tuple[str, str | None]:
    """Return host and port of ``host:port``; None without a port."""
    if place.startswith("["):
        host, closed, rest = place[1:].partition("]")
        is_whole = closed and (not rest or rest.startswith(":")) and _is_ipv6(host)
        return (host, rest[1:] if rest else None) if is_whole else ("", None)
    if place.count(":") != 1:
        return place, None
    host, _, port = place.partition(":")
    return host, port


def _is_ipv6(text: str) -> bool:
    try:
        return ipaddress.ip_address(text).version == 6 and "%" not in text
    except ValueError:
        return False
