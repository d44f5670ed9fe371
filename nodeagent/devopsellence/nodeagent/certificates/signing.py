"""A new certificate for this machine: the key is made by a short-lived process, the gateway signs."""

from __future__ import annotations

import sys
from typing import Final

from devopsellence.certificates.files import KeyPair
from devopsellence.certificates.renewal import RenewalFailed
from devopsellence.nodeagent.ingress.crypto_worker import CryptoWorkerFailed, run_process
from devopsellence.store.etcd import Etcd

_COMMAND: Final = (sys.executable, "-P", "-m", "devopsellence.nodeagent.certificates.request_main")


async def new_certificate(etcd: Etcd) -> KeyPair:
    """Return a new certificate of this machine, with a new key.

    Raises:
        RenewalFailed: there is no key. StoreError: no gateway signs.
    """
    try:
        made = await run_process({}, _COMMAND)
    except CryptoWorkerFailed as error:
        raise RenewalFailed(str(error)) from error
    chain = await etcd.renew_certificate(bytes.fromhex(made["csr"][0]))
    return KeyPair(chain, str(made["key"][0]).encode())
