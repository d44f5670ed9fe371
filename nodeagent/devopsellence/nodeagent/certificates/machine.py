"""Certificate of this machine and the authorities that it trusts: renewed in time, and when the cluster's root changes.

The order is what keeps the agent connected: it first trusts a new authority, then has its certificates signed under it,
that of its router too, and only then stops trusting the former one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Final

import structlog

from devopsellence.api.v1.stored_pb2 import Authorities
from devopsellence.certificates.files import Busy
from devopsellence.certificates.renewal import InstalledCertificate, Renewer
from devopsellence.certificates.trust import AuthorityNeeded, InvalidAuthorities, should_renew, trust
from devopsellence.nodeagent.certificates.router import RouterCertificate
from devopsellence.nodeagent.certificates.signing import new_certificate
from devopsellence.server_certificate import CertificateFiles
from devopsellence.store.etcd import Etcd
from devopsellence.store.informer import Informer
from devopsellence.store.record import message_of

#: Pause after a failure, such as a full disk.
_AGAIN_SECONDS: Final = 60.0
_log = structlog.get_logger()


class MachineCertificate:
    """Keeps certificate and authorities in the agent's files. ``installed`` is called as by :class:`Renewer`.

    ``router``: renewed along with it, if the node has a port for other routers.
    """

    def __init__(
        self,
        etcd: Etcd,
        files: CertificateFiles,
        installed: Callable[[InstalledCertificate], None],
        router: RouterCertificate | None = None,
    ) -> None:
        self._files = files
        self._router = router
        self._installed = installed
        self._key = etcd.keys.authorities
        self._informer = Informer(etcd, self._key, Authorities, lambda _key: self._wake.set())
        self._wake = asyncio.Event()
        #: The last record that can be used; None before the first rotation.
        self._record: Authorities | None = None
        self._renewer = Renewer(
            files, partial(new_certificate, etcd.renew_certificate), self._on_installed, self._is_outdated
        )
        if router is not None:
            router.on_renewed(self._wake.set)

    async def run(self) -> None:
        """Renew and follow until cancelled."""
        async with asyncio.TaskGroup() as group:
            if self._router is not None:
                group.create_task(self._router.run())
            group.create_task(self._renewer.run())
            group.create_task(self._informer.run())
            while True:
                await self._wake.wait()
                self._wake.clear()
                record = message_of(self._informer.records.get(self._key))
                if record is not None and not await self._trust(record):
                    with suppress(TimeoutError):
                        async with asyncio.timeout(_AGAIN_SECONDS):
                            await self._wake.wait()
                    self._wake.set()

    async def _trust(self, record: Authorities) -> bool:
        """Use a record; return False to try again."""
        try:
            if await asyncio.to_thread(self._use, record):
                _log.info("authorities changed", trusted=len(record.certificates))
        except InvalidAuthorities as error:
            _log.warning("the authorities stay as they were", reason=str(error))
            return True
        except AuthorityNeeded:
            # Renewed first, which wakes this up.
            pass
        except (OSError, ValueError, Busy) as error:
            _log.error("the authorities could not be changed", error=str(error))
            return False
        if record != self._record:
            # Only then: each renewal comes back here.
            self._record = record
            self._renewer.look_again()
            if self._router is not None:
                self._router.follow(record)
        return True

    def _use(self, record: Authorities) -> bool:
        return trust(self._files, record, self._router.own if self._router is not None else ())

    def _on_installed(self, certificate: InstalledCertificate) -> None:
        self._installed(certificate)
        self._wake.set()

    def _is_outdated(self, files: CertificateFiles) -> bool:
        return self._record is not None and should_renew(files, self._record)
