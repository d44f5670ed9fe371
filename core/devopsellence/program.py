"""Command lines of the long-running programs: the options for etcd, and the signals that end a program.

The CLI has options of its own.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, TypeVar

import click
import structlog

from devopsellence.certificates.files import finish_replacement
from devopsellence.store import settings as etcd_settings
from devopsellence.store.settings import Settings, SettingsError

F = TypeVar("F", bound=Callable[..., Any])

PEM_FILE: Final = click.Path(path_type=Path, dir_okay=False)
#: Options of :func:`etcd_options`, by the name of their value, with the variable that each takes precedence over.
_VARIABLES: Final[Mapping[str, str]] = {
    "etcd_endpoints": etcd_settings.ENDPOINTS,
    "etcd_ca_cert": etcd_settings.CA_CERT,
    "etcd_cert": etcd_settings.CERT,
    "etcd_key": etcd_settings.KEY,
    "prefix": etcd_settings.PREFIX,
}


def etcd_options(command: F) -> F:
    """Add the options of the connection to etcd, ``--debug``, ``--help`` and ``--version`` to a click function."""
    for option in reversed(
        (
            click.option("--etcd-endpoints", metavar="ADDRESS:PORT[,…]", help="Client addresses of etcd."),
            click.option("--etcd-ca-cert", type=PEM_FILE, help="PEM file of the CA of etcd's certificates."),
            click.option("--etcd-cert", type=PEM_FILE, help="PEM file of the client certificate."),
            click.option("--etcd-key", type=PEM_FILE, help="PEM file of the key of the client certificate."),
            click.option("--prefix", metavar="/PATH/", help="Prefix of all keys in etcd."),
            click.option("--debug", is_flag=True, help="Log debug messages."),
            click.help_option("-h", "--help"),
            click.version_option(package_name="devopsellence"),
        )
    ):
        command = option(command)
    return command


def read_settings(options: Mapping[str, object]) -> Settings:
    """Return the connection to etcd from the values of :func:`etcd_options`, else from the environment's variables.

    Raises:
        click.UsageError: no endpoint is set, or a value is not valid.
    """
    given = {variable: str(options[name]) for name, variable in _VARIABLES.items() if options[name] is not None}
    try:
        settings = Settings.from_environ({**os.environ, **given})
    except SettingsError as error:
        raise click.UsageError(str(error)) from error
    if settings is None:
        raise click.UsageError(
            f"no etcd configured: use --etcd-endpoints 127.0.0.1:2379 or set {etcd_settings.ENDPOINTS}"
        )
    _finish_renewal(settings)
    return settings


def _finish_renewal(settings: Settings) -> None:
    """Finish the replacement of a renewed certificate that a crash has interrupted."""
    if settings.cert is None or settings.key is None:
        return
    try:
        finish_replacement(settings.cert, settings.key)
    except OSError as error:
        # The pair is as it was, or the certificate has another key, which is an error of its own.
        structlog.get_logger().warning("a renewed certificate could not be put in its place", reason=str(error))


def stop_event() -> asyncio.Event:
    """Return an event that SIGTERM or SIGINT sets; call it on the event loop."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    return stop
