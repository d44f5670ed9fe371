"""A new certificate for this machine or its router: the key is made by a short-lived process, the gateway signs."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable
from typing import Final

from devopsellence.certificates.files import KeyPair
from devopsellence.certificates.renewal import RenewalFailed
from devopsellence.nodeagent.ingress.crypto_worker import CryptoWorkerFailed, run_process

_COMMAND: Final = (sys.executable, "-P", "-m", "devopsellence.nodeagent.certificates.request_main")


async def new_certificate(sign: Callable[[bytes], Awaitable[bytes]]) -> KeyPair:
    """Return a new certificate, with a new key; ``sign`` has a gateway sign a request.

    Raises:
        RenewalFailed: there is no key. StoreError: no gateway signs.
    """
    try:
        made = await run_process({}, _COMMAND)
    except CryptoWorkerFailed as error:
        raise RenewalFailed(str(error)) from error
    chain = await sign(bytes.fromhex(made["csr"][0]))
    return KeyPair(chain, str(made["key"][0]).encode())
