"""Renewal of the operator's own certificate, beside a command: quietly, and never in its way."""

from __future__ import annotations

import asyncio
import datetime
import logging
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from devopsellence import input_file
from devopsellence.access.certificate import validity
from devopsellence.api.v1.stored_pb2 import Authorities
from devopsellence.certificates.files import Busy, KeyPair, finish_replacement
from devopsellence.certificates.life import Life
from devopsellence.certificates.renewal import RenewalFailed, check_replaceable, install, read_certificate
from devopsellence.certificates.trust import AuthorityNeeded, should_renew, trust
from devopsellence.cli.access_token import TokenSettings
from devopsellence.server_certificate import CertificateFiles
from devopsellence.store.codec import decode
from devopsellence.store.errors import StoreError

if TYPE_CHECKING:
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
    """Renew the operator's certificate after two thirds of its life, or while the cluster's root is replaced.

    What fails is tried again by the next command.
    """
    settings = etcd.settings
    if settings.ca_cert is None or settings.cert is None or settings.key is None:
        return
    if isinstance(settings, TokenSettings):
        # Its end was chosen.
        return
    files = CertificateFiles(settings.ca_cert, settings.cert, settings.key)
    with suppress(OSError, ValueError, Busy, StoreError, RenewalFailed, AuthorityNeeded):
        async with asyncio.timeout(_SECONDS):
            record = await _authorities(etcd)
            life = Life(*validity(input_file.read(files.certificate)))
            is_due = datetime.datetime.now(datetime.UTC) >= life.renewal_due
            if is_due or (record is not None and _is_outdated(files, record)):
                await _renew(etcd, files)
                if record is not None:
                    trust(files, record)


def _is_outdated(files: CertificateFiles, record: Authorities) -> bool:
    """Trust a new authority, and return True if the certificate is to be renewed for it.

    Also if it is not signed under that one yet: whoever replaces the authority sees by the renewal that this operator
    trusts it.
    """
    with suppress(AuthorityNeeded):
        if trust(files, record):
            return True
    return should_renew(files, record)


async def _authorities(etcd: Etcd) -> Authorities | None:
    item = await etcd.get(etcd.keys.authorities)
    return decode(Authorities, item.key, item.value) if item is not None else None


async def _renew(etcd: Etcd, files: CertificateFiles) -> None:
    # Imported late, because most commands do not get here.
    from devopsellence.certificates.request import new_request

    check_replaceable(files)
    before, request = read_certificate(files), new_request()
    try:
        chain = await etcd.renew_certificate(request.csr)
        install(files, KeyPair(chain, request.key), before)
    except (RenewalFailed, StoreError) as error:
        _log.debug("the certificate was not renewed: %s", error)
        raise
    _log.info("the certificate was renewed")
