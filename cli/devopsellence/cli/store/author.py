"""Author of what this process writes, as ``user@host``.

The gateways accept records of an operator only if ``user`` is the operator's name in the certificate; root and clients
without a certificate write with the name of the login.
"""

from __future__ import annotations

import getpass
import socket
from functools import cache
from pathlib import Path
from typing import Final

from devopsellence.agent_identity import OPERATOR_PREFIX
from devopsellence.cli.untrusted import safe
from devopsellence.client_certificate import common_name
from devopsellence.store.etcd import Etcd

# Characters of a user's name; useradd(8) allows 32.
_LONGEST_USER: Final = 100


def author(etcd: Etcd) -> str:
    """Return the author as ``user@host``, in printable characters: both may come from the environment."""
    user = operator_name(etcd) or _login()
    return safe(f"{user[:_LONGEST_USER]}@{socket.gethostname()}")


def operator_name(etcd: Etcd) -> str:
    """Return the operator's name in the certificate of this process; "" for root and without a certificate."""
    identity = _common_name(etcd.settings.cert, etcd.settings.key)
    name = identity.removeprefix(OPERATOR_PREFIX)
    return name if name != identity else ""


@cache
def _common_name(cert: Path | None, key: Path | None) -> str:
    return common_name(cert, key)


def _login() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user need not have a name
        return "unknown"
