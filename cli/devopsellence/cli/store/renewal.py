"""Renewal of the operator's own certificate, beside a command: quietly, and never in its way."""

from __future__ import annotations

import asyncio
import datetime
import logging
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from devopsellence import input_file
from devopsellence.access.certificate import validity
from devopsellence.certificates.files import Busy, KeyPair, finish_replacement
from devopsellence.certificates.life import Life
from devopsellence.store.errors import StoreError

if TYPE_CHECKING:
    from pathlib import Path

    from devopsellence.store.etcd import Etcd
    from devopsellence.store.settings import Settings

#: Time that a command may take longer for it, once in two months.
_SECONDS: Final = 3.0
_log = logging.getLogger(__name__)


def finish_renewal(settings: Settings) -> None:
    """Finish the renewal of a command that was killed in the middle of it."""
    if settings.cert is not None and settings.key is not None:
        with suppress(OSError):
            finish_replacement(settings.cert, settings.key)


async def renew_if_due(etcd: Etcd) -> None:
    """Renew the operator's certificate after two thirds of its life. What fails is tried again by the next command."""
    settings = etcd.settings
    if settings.ca_cert is None or settings.cert is None or settings.key is None:
        return
    with suppress(OSError, ValueError):
        life = Life(*validity(input_file.read(settings.cert)))
        if datetime.datetime.now(datetime.UTC) >= life.renewal_due:
            await _renew(etcd, settings.ca_cert, settings.cert, settings.key)


async def _renew(etcd: Etcd, ca_cert: Path, cert: Path, key: Path) -> None:
    # Imported late, because most commands do not get here.
    from devopsellence.certificates.renewal import RenewalFailed, check_replaceable, install, read_certificate
    from devopsellence.certificates.request import new_request
    from devopsellence.server_certificate import CertificateFiles

    files = CertificateFiles(ca_cert, cert, key)
    try:
        async with asyncio.timeout(_SECONDS):
            check_replaceable(files)
            before, request = read_certificate(files), new_request()
            chain = await etcd.renew_certificate(request.csr)
            install(files, KeyPair(chain, request.key), before)
    except (RenewalFailed, Busy, StoreError, OSError) as error:
        _log.debug("the certificate was not renewed: %s", error)
    else:
        _log.info("the certificate was renewed")
