"""Certificate of this controller, signed by itself where the issuing authority is on its machine.

The key is made at each start and kept in the runtime folder alone, so no two controllers share one, and a start after
months needs nobody. Identity and names are those of the certificate that the controller was installed with, whose end
does not matter then.
"""

from __future__ import annotations

import asyncio
import datetime
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from os import environ
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from devopsellence.certificates.authority import CertificateRequest, request_like
from devopsellence.certificates.files import KeyPair
from devopsellence.certificates.issuing import IssuingFiles
from devopsellence.certificates.pem import CertificateError, load_certificate
from devopsellence.certificates.renewal import Renewer
from devopsellence.server_certificate import CertificateFiles
from devopsellence.store.identities import USER_CONTROLLER

#: Folder of the systemd unit (systemd.exec(5)); below, or in the folder of temporary files, is one for each process.
_RUNTIME_DIRECTORY: Final = "RUNTIME_DIRECTORY"


@dataclass(frozen=True)
class OwnCertificate:
    """Files of the certificate; :meth:`run` keeps it renewed."""

    files: CertificateFiles
    _issuing: IssuingFiles
    _request: CertificateRequest

    async def run(self) -> None:
        """Renew the certificate in time until cancelled."""
        await Renewer(self.files, self._renewed).run()

    async def _renewed(self) -> KeyPair:
        return await asyncio.to_thread(self.sign)

    def sign(self) -> KeyPair:
        """Return a new certificate with a new key. Blocks.

        Raises:
            CertificateError: the authority cannot sign.
        """
        return self._issuing.load().issue(self._request, datetime.datetime.now(datetime.UTC))


@contextmanager
def own_certificate(installed: Path, issuing: IssuingFiles) -> Iterator[OwnCertificate]:
    """Make a certificate like the ``installed`` one, which is gone at the end of the block.

    Raises:
        CertificateError: the installed certificate is not a controller's, or the authority cannot sign.
    """
    request = request_like(load_certificate(installed))
    if request.common_name != USER_CONTROLLER:
        raise CertificateError(f"{installed} is a certificate of {request.common_name!r}, not of a controller")
    runtime = environ.get(_RUNTIME_DIRECTORY) or None
    with TemporaryDirectory(dir=runtime, prefix="devopsellence-controller-") as folder:
        files = CertificateFiles(issuing.trusted, Path(folder, "tls.crt"), Path(folder, "tls.key"))
        own = OwnCertificate(files, issuing, request)
        own.sign().write(files.certificate, files.key)
        yield own
