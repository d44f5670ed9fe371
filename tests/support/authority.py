"""Throwaway certificate authority, whose certificates are made by the code of the command line."""

from __future__ import annotations

import datetime
import re
import uuid
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from devopsellence.agent_identity import server_name
from devopsellence.certificates.authority import CertificateAuthority, CertificateRequest
from devopsellence.certificates.issuing import IssuingFiles
from devopsellence.server_certificate import CertificateFiles
from devopsellence.store.settings import ETCD_SERVER_NAME, Settings


class Authority:
    """Certificate authority below ``folder``. Its servers, such as members of etcd, are at ``addresses``."""

    def __init__(self, folder: Path, *, addresses: Sequence[str] = ("127.0.0.1",)) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.created_at = datetime.datetime.now(datetime.UTC)
        self.ca_cert = folder / "ca.crt"
        self._folder = folder
        self._addresses = tuple(addresses)
        self._authority = CertificateAuthority.create("throwaway authority", self.created_at)
        self.ca_cert.write_bytes(self._authority.trusted)
        self._issuing: CertificateAuthority | None = None

    def issue_by_intermediate(self) -> IssuingFiles:
        """Have all further certificates issued by an issuing authority, as in a cluster; return its files."""
        self._issuing = self._authority.create_issuing("throwaway issuing authority", self.created_at)
        files = IssuingFiles(self._folder / "issuing.crt", self._folder / "issuing.key", self.ca_cert)
        self._issuing.issued.write(files.certificate, files.key)
        return files

    def issue(self, common_name: str, *names: str, days_old: int = 0, file: str = "") -> CertificateFiles:
        """Return a new certificate for ``common_name``: a client's, or also that of a server called ``names``.

        Args:
            days_old: age of the certificate in days; certificates live for a year, or 90 days by an intermediate.
            file: name without suffix of the two files, replaced if present; by default no file is used twice.
        """
        request = CertificateRequest(common_name, names)
        issued = (self._issuing or self._authority).issue(request, self.created_at - datetime.timedelta(days=days_old))
        stem = file or f"{re.sub('[^a-zA-Z0-9-]', '-', common_name)}-{uuid.uuid4().hex[:8]}"
        files = CertificateFiles(self.ca_cert, self._folder / f"{stem}.crt", self._folder / f"{stem}.key")
        issued.write(files.certificate, files.key)
        return files

    def issue_server(self, common_name: str, *, days_old: int = 0) -> CertificateFiles:
        """Return a new certificate of a server at the addresses, such as a member of etcd."""
        return self.issue(common_name, ETCD_SERVER_NAME, *self._addresses, days_old=days_old)

    def issue_agent(self, uid: str) -> CertificateFiles:
        """Return a new certificate of the agent of node ``uid``, in place of the one issued before."""
        return self.issue(f"node:{uid}", server_name(uid), file=f"agent-{uid}")


def settings_with(settings: Settings, files: CertificateFiles) -> Settings:
    """Return ``settings`` with another client certificate."""
    return replace(settings, ca_cert=files.authority, cert=files.certificate, key=files.key)
