"""A real controller that signs its writes: ``python -m tests.integration.controller.audited IDENTITY``.

Each transaction of a term also writes ``audit/<identity>``: the leader's key and revision that it was meant to be
fenced by. So each revision of etcd tells who wrote it, also one whose answer never arrived. On SIGUSR1 the process
stops itself (SIGSTOP) at the worst moment: its lease looked at, its next write not yet sent. With ``UNFENCED`` set it
leaves the fence away, which the audit has to find.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from devopsellence import log
from devopsellence.controller.controller import CertificateOptions, Controller, serve
from devopsellence.store.election import Election
from devopsellence.store.etcd import Compare, Delete, Etcd, KeyValue, Put, TxnResult
from devopsellence.store.lease import LeaseKeeper
from devopsellence.store.settings import Settings

#: The shortest that the tests' etcd grants, so that many pauses outlast it.
TTL_SECONDS = 1


class SigningEtcd(Etcd):
    """Signs what is fenced, and stops its process before a write when it was told to."""

    def __init__(self, settings: Settings, identity: str, *, fenced: bool) -> None:
        super().__init__(settings)
        self._identity = identity
        self._fenced = fenced
        self._stop_at_write = False

    def stop_at_write(self) -> None:
        self._stop_at_write = True

    async def txn_else_read(
        self, compares: Sequence[Compare], operations: Sequence[Put | Delete], key: str | None
    ) -> tuple[TxnResult, KeyValue | None]:
        if key is not None:
            fence = next(compare for compare in compares if compare.key == key)
            signature = json.dumps({"identity": self._identity, "key": key, "revision": fence.revision})
            operations = [*operations, Put(f"{self.keys.prefix}audit/{self._identity}", signature.encode())]
            if not self._fenced:
                compares = [compare for compare in compares if compare != fence]
            if self._stop_at_write:
                self._stop_at_write = False
                os.kill(os.getpid(), signal.SIGSTOP)
        return await super().txn_else_read(compares, operations, key)


async def _main(identity: str) -> None:
    settings = Settings.from_environ(os.environ)
    assert settings is not None
    stop = asyncio.Event()
    fenced = "UNFENCED" not in os.environ
    async with SigningEtcd(settings, identity, fenced=fenced) as etcd, LeaseKeeper(etcd) as keeper:
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, stop.set)
        loop.add_signal_handler(signal.SIGUSR1, etcd.stop_at_write)
        ca_cert = os.environ.get("DEVOPSELLENCE_ACME_CA_CERT")
        certificates = CertificateOptions(Path(ca_cert) if ca_cert else None)
        await serve(
            Controller(etcd, certificates=certificates), Election(etcd, keeper, identity, ttl=TTL_SECONDS), stop
        )


if __name__ == "__main__":
    log.configure("controller", debug=False)
    asyncio.run(_main(sys.argv[1]))
