"""Renewal of a program's own certificate: after two thirds of its life, with retries, without a restart.

The program's connections and servers look at the files themselves. The cryptography library is not imported here.
"""

from __future__ import annotations

import asyncio
import datetime
import os
import shutil
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import structlog
from tenacity import AsyncRetrying, retry_if_exception_type, wait_random_exponential

from devopsellence import input_file
from devopsellence.access.certificate import serial_number, validity
from devopsellence.certificates.files import KeyPair, locked
from devopsellence.certificates.life import Life
from devopsellence.client_certificate import certificate_end
from devopsellence.server_certificate import CertificateFiles

#: Longest time until the files are looked at again: somebody may replace them, and a machine may sleep.
_LOOK_AGAIN_SECONDS: Final = 3600.0
#: Pauses after failures: a gateway may be back in a moment, and there are weeks left.
_PAUSES: Final = wait_random_exponential(multiplier=15, min=5, max=3600)
_log = structlog.get_logger()


class RenewalFailed(Exception):
    """A certificate was not renewed; the one before stays in use. The message says why."""


@dataclass(frozen=True)
class InstalledCertificate:
    """The certificate in a program's files."""

    pem: bytes
    life: Life

    @property
    def serial(self) -> str:
        return serial_number(self.pem)


def read_certificate(files: CertificateFiles) -> InstalledCertificate:
    """Return the certificate in the files. Blocks.

    Raises:
        RenewalFailed: there is none.
    """
    try:
        pem = input_file.read(files.certificate)
        return InstalledCertificate(pem, Life(*validity(pem)))
    except (OSError, ValueError) as error:
        raise RenewalFailed(f"cannot read the certificate {files.certificate}: {error}") from error


def check_replaceable(files: CertificateFiles) -> None:
    """Check that this process can replace the files, before a certificate is signed for nothing. Blocks.

    Raises:
        RenewalFailed: they belong to another user, who could not read the new ones, or the folder cannot be written.
    """
    try:
        owner = files.key.stat().st_uid
    except OSError as error:
        raise RenewalFailed(f"cannot read the key {files.key}: {error.strerror}") from error
    if owner != os.geteuid():
        raise RenewalFailed(f"{files.key} belongs to another user")
    check_writable(files.certificate.parent)


def check_writable(folder: Path) -> None:
    """Check that this process can write files into a folder. Blocks.

    Raises:
        RenewalFailed: it cannot, or there is no such folder.
    """
    if not os.access(folder, os.W_OK):
        raise RenewalFailed(f"the folder {folder} cannot be written")


def install(files: CertificateFiles, renewed: KeyPair, before: InstalledCertificate | None) -> None:
    """Replace certificate and key, unless another process has done so since ``before`` was read. Blocks.

    Without ``before`` there was none to read.

    Raises:
        RenewalFailed: servers of the cluster would not accept the certificate; nothing was replaced.
        OSError: the files cannot be written. Busy: another process is replacing them.
    """
    folder = files.certificate.parent
    with locked(folder), _scratch(folder) as scratch:
        if before is not None and input_file.read(files.certificate) != before.pem:
            return
        certificate, key = Path(scratch, "tls.crt"), Path(scratch, "tls.key")
        renewed.write(certificate, key)
        if not certificate_end(files.authority, certificate, key):
            raise RenewalFailed(f"the renewed certificate does not fit the authority in {files.authority}")
        renewed.write(files.certificate, files.key)


@contextmanager
def _scratch(folder: Path) -> Iterator[str]:
    """Return a folder within ``folder``, whose lock is held; removed at the end, like those of killed processes."""
    for left in folder.glob(".renewed-*"):
        shutil.rmtree(left, ignore_errors=True)
    with TemporaryDirectory(dir=folder, prefix=".renewed-") as scratch:
        yield scratch


class Renewer:
    """Keeps the certificate in a program's files from expiring.

    ``renew`` has a new one signed. ``installed`` is called with the certificate at the start and after each change.
    ``outdated`` says whether the certificate is to be renewed whatever its age; it may block. ``first``: the files are
    the program's own, so the first certificate is had signed as well, and another in place of a damaged one.
    """

    def __init__(
        self,
        files: CertificateFiles,
        renew: Callable[[], Awaitable[KeyPair]],
        installed: Callable[[InstalledCertificate], None] = lambda _: None,
        outdated: Callable[[CertificateFiles], bool] = lambda _: False,
        *,
        first: bool = False,
    ) -> None:
        self._files = files
        self._renew = renew
        self._installed = installed
        self._outdated = outdated
        self._first = first
        self._known: InstalledCertificate | None = None
        self._wake = asyncio.Event()

    def look_again(self) -> None:
        """Look at once whether the certificate is to be renewed; call it on the event loop."""
        self._wake.set()

    async def run(self) -> None:
        """Renew in time until cancelled."""
        retrying = AsyncRetrying(sleep=self._pause, retry=retry_if_exception_type(Exception), wait=_PAUSES)
        while True:
            seconds: float = await retrying(self._attempt)
            await self._pause(seconds)

    async def _pause(self, seconds: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._wake.wait()
        self._wake.clear()

    async def _attempt(self) -> float:
        """Renew the certificate if that is due; return the seconds until it should be looked at again."""
        try:
            found = await self._look_first() if self._first else await self._look()
            left = self._seconds_left(found)
            if left <= 0 or await asyncio.to_thread(self._outdated, self._files):
                await self._replace(found)
                left = _LOOK_AGAIN_SECONDS
        except Exception as error:
            expires = f"{self._known.life.ends:%Y-%m-%d}" if self._known is not None else ""
            _log.warning(
                "certificate not renewed", file=str(self._files.certificate), reason=str(error), expires=expires
            )
            raise
        return min(left, _LOOK_AGAIN_SECONDS)

    async def _replace(self, before: InstalledCertificate | None) -> None:
        if self._first:
            await asyncio.to_thread(check_writable, self._files.certificate.parent)
        else:
            await asyncio.to_thread(check_replaceable, self._files)
        await asyncio.to_thread(install, self._files, await self._renew(), before)
        found = await self._look()
        _log.info("certificate renewed", serial=found.serial, expires=f"{found.life.ends:%Y-%m-%d}")
        if await asyncio.to_thread(self._outdated, self._files):
            raise RenewalFailed("the gateway signs under an authority that is being replaced")

    async def _look(self) -> InstalledCertificate:
        found = await asyncio.to_thread(read_certificate, self._files)
        if found != self._known:
            self._known = found
            self._installed(found)
        return found

    async def _look_first(self) -> InstalledCertificate | None:
        with suppress(RenewalFailed):
            return await self._look()
        return None

    def _seconds_left(self, found: InstalledCertificate | None) -> float:
        """Return the seconds until a certificate is to be renewed; 0 without one."""
        if found is None:
            return 0
        renewal = found.life.renewal_at(str(self._files.certificate) + found.serial)
        return (renewal - datetime.datetime.now(datetime.UTC)).total_seconds()
