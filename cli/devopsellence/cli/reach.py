"""Addresses of a cluster as targets of gRPC: as they are, or sockets that lead through an ssh host.

The only place that knows of the difference: settings, agents' clients and audit clients ask here.
"""

from __future__ import annotations

import asyncio
import ipaddress
import os
import re
from dataclasses import dataclass, field, fields
from typing import Final

from devopsellence.cli.output import CliError, Finding
from devopsellence.cli.ssh import folder, tunnel
from devopsellence.cli.ssh.host import SshHost
from devopsellence.store.settings import Settings, SettingsError


class UnusableAddress(SettingsError):
    """Address that is not ``host:port``, from a record or from settings."""


_NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,252}", re.ASCII)


@dataclass(frozen=True)
class SshSettings(Settings):
    """Settings of a cluster whose addresses are those that the machine ``through`` can reach."""

    through: SshHost = field(kw_only=True)

    @property
    def target(self) -> str:
        """Return the sockets of the endpoints as a gRPC target; :func:`prepare` makes them."""
        return f"unix:{','.join(str(folder.socket_path(self.through, endpoint)) for endpoint in self.endpoints)}"


def through(settings: Settings, host: SshHost | None) -> Settings:
    """Return settings whose addresses are reached through a host; None: directly.

    Raises:
        UnusableAddress: an endpoint cannot be reached through ssh.
    """
    if host is None:
        return settings
    for endpoint in settings.endpoints:
        _check(endpoint)
    return SshSettings(**{each.name: getattr(settings, each.name) for each in fields(Settings)}, through=host)


def ssh_host(settings: Settings) -> SshHost | None:
    """Return the ssh host of the settings; None for addresses that are reached directly."""
    return settings.through if isinstance(settings, SshSettings) else None


def described(settings: Settings) -> str:
    """Return the endpoints for messages, with the way to them."""
    endpoints, host = ", ".join(settings.endpoints), ssh_host(settings)
    return f"{endpoints} through ssh {host}" if host is not None else endpoints


def prepare(settings: Settings) -> None:
    """Make the endpoints reachable; ``ssh`` may ask on the terminal. Blocks, so not to be called in an event loop.

    Raises:
        CliError: as :func:`devopsellence.cli.ssh.tunnel.forward`.
    """
    if (host := ssh_host(settings)) is not None:
        tunnel.forward(host, settings.endpoints, may_ask=os.isatty(0) and os.isatty(2))


async def target(settings: Settings, address: str) -> str:
    """Return the gRPC target of an address of the cluster, after making it reachable.

    Raises:
        UnusableAddress. CliError: as :func:`prepare`.
    """
    if (host := ssh_host(settings)) is None:
        return address
    _check(address)
    await asyncio.to_thread(tunnel.forward, host, [address], may_ask=False)
    return f"unix:{folder.socket_path(host, address)}"


async def socket_path(settings: Settings, address: str) -> str | None:
    """Return the socket of an address, after making it reachable; None: the address is reached directly.

    Raises:
        UnusableAddress, CliError: as :func:`target`.
    """
    if ssh_host(settings) is None:
        return None
    return (await target(settings, address)).removeprefix("unix:")


def explained(error: CliError, settings: Settings, since: float) -> CliError:
    """Return an error with the words of ``ssh`` about it, such as why its host cannot reach a gateway.

    ``since``: begin of the command, in seconds since 1970.
    """
    host = ssh_host(settings)
    lines = tunnel.last_lines(host, since) if host is not None else []
    if not lines or error.code != "etcd_unavailable":
        return error
    finding = Finding(error.code, error.message, evidence="\n".join(f"ssh: {line}" for line in lines))
    return CliError(
        error.code,
        error.message,
        exit_code=error.exit_code,
        next_actions=error.next_actions,
        findings=[*error.findings, finding],
    )


def _check(address: str) -> None:
    """Check that an address is ``host:port``: in a forward, ``ssh`` takes other forms for sockets on its host."""
    host, _, port = address.rpartition(":")
    is_port = port.isascii() and port.isdigit() and len(port) <= 5 and 0 < int(port) < 65536
    if is_port and (_NAME.fullmatch(host) or _is_bracketed(host)):
        return
    raise UnusableAddress(f"{address!r} is not host:port, so nothing can be reached there through ssh")


def _is_bracketed(host: str) -> bool:
    try:
        ip = ipaddress.IPv6Address(host.removeprefix("[").removesuffix("]"))
    except ValueError:
        return False
    return host.startswith("[") and host.endswith("]") and ip.scope_id is None
