"""Signers of certificates: the cluster's authority on this machine, or a gateway that is asked for it."""

from __future__ import annotations

import datetime
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from devopsellence import input_file
from devopsellence.certificates.authority import CertificateRequest
from devopsellence.certificates.facts import common_name, why_expires
from devopsellence.certificates.files import KeyPair
from devopsellence.certificates.life import LEAF_LIFE, LEAST_LIFE
from devopsellence.certificates.request import new_request
from devopsellence.cli.output import CliError, NextAction
from devopsellence.store.errors import NotServed
from devopsellence.store.etcd import Etcd
from devopsellence.store.settings import Settings


class Signer(Protocol):
    """Signer of certificates, such as a :class:`~devopsellence.certificates.authority.CertificateAuthority`."""

    @property
    def trusted(self) -> bytes:
        """PEM of the authorities that others trust."""

    def issue(
        self,
        request: CertificateRequest,
        now: datetime.datetime,
        *,
        key: ec.EllipticCurvePrivateKey | None = None,
        life: datetime.timedelta | None = None,
    ) -> KeyPair:
        """Return a certificate for ``key``, by default a new one; ``life``: None for the usual one."""

    def why_renew(self, certificate: x509.Certificate, request: CertificateRequest, now: datetime.datetime) -> str:
        """Return the reason to renew a certificate of :attr:`trusted`; "" for none."""


@dataclass(frozen=True)
class GatewaySigner:
    """A gateway, for the operator with these ``settings``. The key is made here; the gateway knows names and rights.

    ``call`` connects, awaits and disconnects.
    """

    settings: Settings
    call: Callable[[Callable[[Etcd], Awaitable[bytes]]], bytes]

    @property
    def trusted(self) -> bytes:
        return input_file.read(self.settings.ca_cert) if self.settings.ca_cert is not None else b""

    def issue(
        self,
        request: CertificateRequest,
        now: datetime.datetime,
        *,
        key: ec.EllipticCurvePrivateKey | None = None,
        life: datetime.timedelta | None = None,
    ) -> KeyPair:
        """Return a certificate for an operator, who has access already. Not ``now``, but the gateway's clock counts.

        Raises:
            CliError: ``signing_unavailable``, or that of the gateway's refusal.
        """
        made = new_request(key)

        async def sign(etcd: Etcd) -> bytes:
            try:
                return await etcd.sign_certificate(made.csr, request.common_name, life)
            except NotServed as error:
                where = ", ".join(self.settings.endpoints)
                message = f"{where} signs no certificates: it is no gateway, or has no issuing authority"
                action = NextAction("on the machine with the cluster's CA", "the same command")
                raise CliError("signing_unavailable", message, next_actions=[action]) from error

        return KeyPair(self.call(sign), made.key)

    def why_renew(self, certificate: x509.Certificate, request: CertificateRequest, now: datetime.datetime) -> str:
        """Return the reason to renew the certificate of an operator, which has no names but its identity."""
        if common_name(certificate) != request.common_name:
            return f"issued for {common_name(certificate)!r}, not {request.common_name!r}"
        return why_expires(certificate, now)


def check_life(signer: Signer, life: datetime.timedelta) -> None:
    """Check before anything is written that a signer gives a certificate the life of the caller's choice.

    Raises:
        CliError: ``usage`` (exit code 2).
    """
    if isinstance(signer, GatewaySigner) and not LEAST_LIFE <= life <= LEAF_LIFE:
        message = f"--expires: gateways sign for 5m to {LEAF_LIFE.days}d; other times need the cluster's CA here"
        raise CliError("usage", message, exit_code=2)
