"""Files of the authority that signs certificates on a machine of the control plane.

The cryptography library is imported with the first use of the authority.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from devopsellence import input_file

if TYPE_CHECKING:
    from devopsellence.certificates.authority import CertificateAuthority


@dataclass(frozen=True)
class IssuingFiles:
    """PEM files of the authority that signs, and of the roots that everybody trusts."""

    certificate: Path
    key: Path
    trusted: Path

    @property
    def exist(self) -> bool:
        """Return True if there is a certificate; False also for the placeholder of a systemd unit."""
        try:
            return b"-----BEGIN CERTIFICATE-----" in input_file.read(self.certificate)
        except OSError:
            return False

    def load(self) -> CertificateAuthority:
        """Return the authority. Blocks.

        Raises:
            CertificateError: the files cannot be used.
        """
        from devopsellence.certificates.authority import CertificateAuthority

        return CertificateAuthority.load(self.certificate, self.key, trusted=self.trusted)
