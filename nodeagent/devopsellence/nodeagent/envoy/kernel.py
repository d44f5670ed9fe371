"""Setting of the kernel for the replacement of an Envoy."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Final

#: Since Linux 5.14 (ip-sysctl, ``tcp_migrate_req``).
_MIGRATE: Final = Path("/proc/sys/net/ipv4/tcp_migrate_req")


def let_connections_migrate() -> None:
    """Have the kernel hand on connections that wait to be accepted, when one of two Envoys on a port stops listening.

    By default they are reset. Blocks; does nothing if the kernel or the agent's user cannot.
    """
    with suppress(OSError):
        if _MIGRATE.read_text(encoding="ascii").strip() == "0":
            _MIGRATE.write_text("1\n", encoding="ascii")
