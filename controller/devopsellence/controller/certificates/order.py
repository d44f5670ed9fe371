"""Order attempt: one attempt to obtain a certificate, from the ACME order to the chain.

Only the Certificate record is kept: the next leader begins a new order for the same key.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Protocol

import structlog

from devopsellence.api.v1 import stored_pb2 as pb
from devopsellence.clock import Now
from devopsellence.controller.certificates import next_step, record
from devopsellence.controller.certificates.csr import CertificateChain, CertificateMismatch, read_chain
from devopsellence.controller.certificates.demand import AcmeAccount, IngressServer
from devopsellence.controller.certificates.failure import FailureKind, IssuanceError, IssuanceFailure, IssuancePace
from devopsellence.controller.certificates.threads import in_thread
from devopsellence.controller.certificates.writer import CertificateWriter, Superseded
from devopsellence.controller.model.events import new_event
from devopsellence.store.errors import StoreError
from devopsellence.store.keys import EnvironmentRef
from devopsellence.store.size import RecordTooLarge

CERTIFICATE_OBTAINED = "certificate_obtained"
CERTIFICATE_RENEWED = "certificate_renewed"
CERTIFICATE_FAILED = "certificate_failed"
_log = structlog.get_logger()


class CertificateOrder(Protocol):
    """Order at an authority: acme.AcmeOrder. Methods block and raise IssuanceError."""

    @property
    def challenges(self) -> Sequence[pb.Challenge]: ...

    def prove(self) -> None: ...

    def finalize(self) -> str: ...


class CertificateAuthority(Protocol):
    """ACME client that begins orders: acme.AcmeClient. Blocks and raises IssuanceError."""

    def order(self, account: AcmeAccount, csr_pem: str, /) -> CertificateOrder: ...


class OrderAttempt:
    """Attempt to obtain a certificate for ``request``, the checked signing request of a node."""

    def __init__(
        self,
        ref: EnvironmentRef,
        host: str,
        account: AcmeAccount,
        request: pb.SigningRequest,
        writer: CertificateWriter,
        clock: Callable[[], Now],
        pace: IssuancePace,
    ) -> None:
        self.ref = ref
        self.host = host
        self.account = account
        self.request = request
        self._writer = writer
        self._clock = clock
        self._pace = pace
        self._servers: Sequence[IngressServer] = ()
        self._tokens: frozenset[str] = frozenset()
        self._not_served: Sequence[str] = ()
        self._changed = asyncio.Event()

    def update_servers(self, servers: Sequence[IngressServer]) -> None:
        """Set the nodes that serve the host now."""
        self._servers = servers
        self._changed.set()

    async def run(self, orders: Callable[[], Awaitable[CertificateAuthority]], room: asyncio.Semaphore) -> None:
        """Run the order to success or failure and record the result; ``room`` limits concurrent orders.

        Raises:
            Superseded: the certificate is no longer wanted.
            StoreError: another controller leads.
        """
        try:
            async with room:
                pem = await self._order(orders)
            chain = read_chain(pem, self.request.csr_pem, self.host, self._clock().utc)
        except (Superseded, StoreError):
            raise
        except IssuanceError as error:
            await self._fail(error.failure)
        except CertificateMismatch as error:
            await self._fail(
                IssuanceFailure(FailureKind.OTHER, f"the certificate issued for {self.host} is rejected: {error}")
            )
        except Exception:  # noqa: BLE001 - a bug: it stops this host alone
            _log.exception("certificate not obtained", environment=str(self.ref), host=self.host)
            await self._fail(IssuanceFailure(FailureKind.OTHER, "internal error of the controller, see its log"))
        else:
            await self._obtained(chain)

    async def _obtained(self, chain: CertificateChain) -> None:
        try:
            await self._edit(
                lambda before, at: (
                    record.obtained(before, chain, self.request, at.utc),
                    [
                        new_event(
                            at.utc,
                            CERTIFICATE_RENEWED if before.source else CERTIFICATE_OBTAINED,
                            f"{self.host} has a certificate from {chain.issuer} until {chain.not_after.isoformat()}",
                        )
                    ],
                )
            )
        except RecordTooLarge as error:
            # The chain comes from the authority, the encrypted key from a node.
            await self._fail(IssuanceFailure(FailureKind.OTHER, f"the certificate cannot be stored: {error}"))

    async def _order(self, orders: Callable[[], Awaitable[CertificateAuthority]]) -> str:
        authorities = await orders()
        order = await in_thread(lambda: authorities.order(self.account, self.request.csr_pem))
        challenges = order.challenges
        self._tokens = frozenset(challenge.token for challenge in challenges)
        if challenges:
            await self._edit(
                lambda before, at: (record.challenged(before, challenges, "the nodes serve the challenge", at.utc), ())
            )
            await self._until_served()
            await in_thread(order.prove)
        await self._edit(lambda before, at: (record.finalizing(before, at.utc), ()))
        return await in_thread(order.finalize)

    async def _until_served(self) -> None:
        """Wait until all reachable nodes serve the challenges, or until the time for that has passed."""
        with suppress(TimeoutError):
            async with asyncio.timeout(self._pace.answers):
                while next_step.not_served(self._servers, self._tokens):
                    self._changed.clear()
                    await self._changed.wait()
        self._not_served = next_step.not_served(self._servers, self._tokens)
        if self._not_served:
            nodes = ", ".join(self._not_served)
            _log.warning("challenge not served", environment=str(self.ref), host=self.host, nodes=nodes)

    async def _fail(self, failure: IssuanceFailure) -> None:
        if self._not_served:
            detail = f"{failure.detail} (challenge not served by {', '.join(self._not_served)})"
            failure = IssuanceFailure(failure.kind, detail, failure.retry_after)
        await self._edit(lambda before, at: failing(before, failure, at, self._pace))

    async def _edit(self, change: Callable[[pb.Certificate, Now], tuple[pb.Certificate, Sequence[pb.Event]]]) -> None:
        await self._writer.edit(self.ref, self.host, self.request.id, lambda before: change(before, self._clock()))


def failing(
    certificate: pb.Certificate, failure: IssuanceFailure, at: Now, pace: IssuancePace
) -> tuple[pb.Certificate, Sequence[pb.Event]]:
    """Return the record after a failed attempt, and its event."""
    changed = next_step.failed(certificate, failure, at.utc, pace)
    again = changed.issuance.next_attempt_at.ToJsonString()
    kept = "; the present certificate is kept" if certificate.source else ""
    message = f"no certificate for {certificate.host}: {changed.issuance.reason}{kept}; next attempt at {again}"
    return changed, [new_event(at.utc, CERTIFICATE_FAILED, message, severity=pb.Event.WARNING)]
