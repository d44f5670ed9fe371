"""Addresses of machines as people type them."""

from __future__ import annotations

import ipaddress
import re
from typing import Final

from devopsellence.cli.output import CliError

# RFC 1123, section 2.1; a label that is all digits at the end would be a mistyped IPv4 address.
_LABEL: Final = r"(?!-)[A-Za-z0-9-]{1,63}(?<!-)"
_HOST_NAME: Final = re.compile(rf"(?=.{{1,253}}\Z)(?:{_LABEL}\.)*(?!\d+\Z){_LABEL}")


def check_host(text: str) -> str:
    """An IPv4 or IPv6 address or a host name, as given.

    Raises:
        CliError: ``invalid_address`` (exit code 2): it is neither.
    """
    try:
        ipaddress.ip_address(text)
    except ValueError:
        if not _HOST_NAME.fullmatch(text):
            message = f"{text!r} is no address: neither an IP address nor a host name (and without a port)"
            raise CliError("invalid_address", message, exit_code=2) from None
    return text


def is_ip(host: str) -> bool:
    """Whether ``host`` is an IP address, which one can listen on, and not a name."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def with_port(host: str, port: int) -> str:
    """``host:port``, an IPv6 address in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
