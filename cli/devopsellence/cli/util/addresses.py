"""IP addresses and host names as typed by people."""

from __future__ import annotations

import ipaddress
import re
from typing import Final

from devopsellence.cli.output import CliError

# RFC 1123, section 2.1; a last label of digits only would be a mistyped IPv4 address.
_LABEL: Final = r"(?!-)[A-Za-z0-9-]{1,63}(?<!-)"
_HOST_NAME: Final = re.compile(rf"(?=.{{1,253}}\Z)(?:{_LABEL}\.)*(?!\d+\Z){_LABEL}")


def check_host(text: str) -> str:
    """Return ``text`` if it is an IPv4 or IPv6 address or a host name.

    Raises:
        CliError: ``invalid_address`` (exit code 2).
    """
    try:
        ipaddress.ip_address(text)
    except ValueError:
        if not _HOST_NAME.fullmatch(text):
            message = f"invalid address {text!r}: give an IP address or a host name, without a port"
            raise CliError("invalid_address", message, exit_code=2) from None
    return text


def is_ip(host: str) -> bool:
    """Return True for an IP address, False for a host name."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def with_port(host: str, port: int) -> str:
    """Return ``host:port``, with an IPv6 address in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
