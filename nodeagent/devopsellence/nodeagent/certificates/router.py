"""Certificate of this machine's router, and the authorities that it trusts: had signed, kept renewed, given to Envoy.

Its key is of use towards other nodes' routers alone, so that of the machine itself stays out of Envoy's container.
Where no gateway signs it, as in clusters of earlier versions, the router has the machine's own certificate.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Final

import structlog

from devopsellence import input_file
from devopsellence.access.certificate import serial_number
from devopsellence.api.v1.stored_pb2 import Authorities, RouterTls
from devopsellence.certificates.files import finish_replacement
from devopsellence.certificates.renewal import Renewer
from devopsellence.certificates.trust import by_fingerprint, should_renew
from devopsellence.client_certificate import certificate_end, common_name, is_signed_under
from devopsellence.nodeagent.certificates.signing import new_certificate
from devopsellence.nodeagent.envoy.model import PeerTls
from devopsellence.nodeagent.util.inotify import FolderWatch
from devopsellence.server_certificate import CertificateFiles
from devopsellence.store.etcd import Etcd
from devopsellence.store.identities import user_of_router

_PRIVATE: Final = 0o700
_log = structlog.get_logger()


class RouterCertificate:
    """Keeps the router's certificate in ``folder``, and reads it again with each change of a file.

    ``machine`` are the files of the machine itself, whose authorities the router trusts. ``changed`` is called on the
    event loop with what Envoy is to use, ``used`` with a description of what it uses.
    """

    def __init__(
        self,
        etcd: Etcd,
        uid: str,
        machine: CertificateFiles,
        folder: Path,
        changed: Callable[[PeerTls], None],
        used: Callable[[RouterTls], None],
    ) -> None:
        self._own = CertificateFiles(machine.authority, folder / "tls.crt", folder / "tls.key")
        self._machine = machine
        self._identity = user_of_router(uid)
        self._changed = changed
        self._used = used
        self._renewed: Callable[[], None] = lambda: None
        self._record: Authorities | None = None
        self._tls: PeerTls | None = None
        self._facts = RouterTls()
        #: Envoy has the router's own certificate, not that of the machine.
        self._has_own = False
        sign = partial(new_certificate, etcd.renew_router_certificate)
        self._renewer = Renewer(self._own, sign, outdated=self._is_outdated, first=True)

    @property
    def own(self) -> Sequence[CertificateFiles]:
        """Files of the router's own certificate; none while it has that of the machine. Blocks."""
        return [self._own] if self._is_usable else []

    def on_renewed(self, renewed: Callable[[], None]) -> None:
        """Call ``renewed`` on the event loop after each change of the files."""
        self._renewed = renewed

    def follow(self, record: Authorities) -> None:
        """Have the certificate renewed unless it is signed under the first authority of ``record``."""
        self._record = record
        self._renewer.look_again()

    def tls_used(self, tls: PeerTls) -> None:
        """Handle that Envoy uses ``tls``."""
        if tls == self._tls:
            self._used(self._facts)

    async def load(self) -> None:
        """Read the files; to be called before Envoy's files are written."""
        try:
            await asyncio.to_thread(self._prepare)
        except OSError as error:
            _log.error("the router's certificate cannot be kept", error=str(error))
        await self._reload()

    async def run(self) -> None:
        """Renew the certificate and follow the files until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._renewer.run())
            group.create_task(self._follow_files())

    async def _follow_files(self) -> None:
        try:
            watch = FolderWatch()
        except OSError as error:
            _log.warning("the router learns late of other certificates: they cannot be watched", error=error.strerror)
            return
        loop, wake = asyncio.get_running_loop(), asyncio.Event()
        loop.add_reader(watch.descriptor, wake.set)
        paths = {*_paths(self._own), *_paths(self._machine)}
        changed: set[Path] | None = None
        try:
            while True:
                # Again each time: a folder may have been replaced by another.
                watch.add({path.parent for path in paths})
                if changed is None or changed & paths:
                    await self._reload()
                await wake.wait()
                wake.clear()
                changed = watch.changed()
        finally:
            loop.remove_reader(watch.descriptor)
            watch.close()

    async def _reload(self) -> None:
        """Read the files, and announce what is new in them. Files that cannot be used change nothing."""
        found = await asyncio.to_thread(self._read)
        if found is None:
            # Lost, damaged or expired; or just being replaced, and then there is nothing to do.
            self._renewer.look_again()
        elif found[0] != self._tls:
            self._tls, self._facts = found
            _log.info("the router's certificate changed", serial=self._facts.certificate_serial)
            self._changed(self._tls)
            self._renewed()

    def _prepare(self) -> None:
        self._own.certificate.parent.mkdir(mode=_PRIVATE, exist_ok=True)
        finish_replacement(self._own.certificate, self._own.key)

    def _read(self) -> tuple[PeerTls, RouterTls] | None:
        """Return what Envoy is to use; None for what it has."""
        is_usable = self._is_usable
        if self._has_own and not is_usable:
            if not common_name(self._own.certificate, self._own.key):
                # The key of the machine is not for Envoy only because two files do not fit each other yet.
                return None
            # They may have been written between the two looks.
            is_usable = self._is_usable
        self._has_own = is_usable
        with suppress(OSError, ValueError):
            return _read_files(self._own if self._has_own else self._machine)
        return None

    @property
    def _is_usable(self) -> bool:
        """True if other routers accept the router's own certificate, and it is of this machine."""
        own = self._own
        is_accepted = certificate_end(own.authority, own.certificate, own.key) > 0
        return is_accepted and common_name(own.certificate, own.key) == self._identity

    def _is_outdated(self, files: CertificateFiles) -> bool:
        return not self._is_usable or (self._record is not None and should_renew(files, self._record))


def _paths(files: CertificateFiles) -> tuple[Path, ...]:
    return files.authority, files.certificate, files.key


def _read_files(files: CertificateFiles) -> tuple[PeerTls, RouterTls]:
    """Return the content of the files, and a description of it.

    Raises:
        OSError, ValueError: they cannot be read, or do not fit each other, such as between the writes of two.
    """
    authorities, chain, key = (input_file.read(path) for path in _paths(files))
    trusted = by_fingerprint(authorities)
    ends = certificate_end(files.authority, files.certificate, files.key)
    if not ends or [authorities, chain, key] != [input_file.read(path) for path in _paths(files)]:
        raise ValueError("the certificate is not accepted, or has just changed")
    signers = (name for name, root in trusted.items() if is_signed_under(root, files.certificate, files.key))
    facts = RouterTls(certificate_serial=serial_number(chain), authority=next(signers, ""), trusted=sorted(trusted))
    facts.certificate_expires_at.FromSeconds(int(ends))
    return PeerTls(authorities.decode("ascii"), chain.decode("ascii"), key.decode("ascii")), facts
