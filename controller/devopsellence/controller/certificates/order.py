"""One attempt at one certificate, from the order to the chain. Nothing of it is kept but what its record says: whoever
leads next begins with a new order, for the same key."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Protocol

import structlog

from devopsellence.api.v1 import stored_pb2 as pb
from devopsellence.controller.certificates import next_step, record
from devopsellence.controller.certificates.csr import WrongAnswer, read_chain
from devopsellence.controller.certificates.demand import Account, Server
from devopsellence.controller.certificates.failure import Failure, IssuanceError, Kind, Pace
from devopsellence.controller.certificates.threads import in_thread
from devopsellence.controller.certificates.writer import Records, Superseded
from devopsellence.controller.model.events import event
from devopsellence.controller.model.snapshot import Moment
from devopsellence.store.errors import StoreError
from devopsellence.store.keys import EnvironmentRef

CERTIFICATE_OBTAINED = "certificate_obtained"
CERTIFICATE_RENEWED = "certificate_renewed"
CERTIFICATE_FAILED = "certificate_failed"
_log = structlog.get_logger()


class Order(Protocol):
    """One order at an authority: acme.Order. Its methods block and raise IssuanceError."""

    @property
    def challenges(self) -> Sequence[pb.Challenge]: ...

    def prove(self) -> None: ...

    def finalize(self) -> str: ...


class Orders(Protocol):
    """Where orders are begun: acme.Authorities. Blocks and raises IssuanceError."""

    def order(self, account: Account, csr_pem: str, /) -> Order: ...


class Attempt:
    """``request`` is the signing request that a node has answered with; it has been checked."""

    def __init__(
        self,
        ref: EnvironmentRef,
        host: str,
        account: Account,
        request: pb.SigningRequest,
        records: Records,
        clock: Callable[[], Moment],
        pace: Pace,
    ) -> None:
        self.ref = ref
        self.host = host
        self.account = account
        self.request = request
        self._records = records
        self._clock = clock
        self._pace = pace
        self._servers: Sequence[Server] = ()
        self._tokens: frozenset[str] = frozenset()
        self._unanswered: Sequence[str] = ()
        self._looked = asyncio.Event()

    def look(self, servers: Sequence[Server]) -> None:
        """These are those who serve the host now."""
        self._servers = servers
        self._looked.set()

    async def run(self, orders: Callable[[], Awaitable[Orders]], room: asyncio.Semaphore) -> None:
        """Bring it to an end, good or bad, and write that down; ``room`` is held meanwhile.

        Raises:
            Superseded: nobody wants it any more.
            StoreError: another controller leads.
        """
        try:
            async with room:
                pem = await self._order(orders)
            chain = read_chain(pem, self.request.csr_pem, self.host, self._clock().wall)
        except (Superseded, StoreError):
            raise
        except IssuanceError as error:
            await self._fail(error.failure)
        except WrongAnswer as error:
            await self._fail(Failure(Kind.OTHER, f"the certificate that came for {self.host} is refused: {error}"))
        except Exception:  # noqa: BLE001 - a defect of ours: it stops this host alone
            _log.exception("certificate not obtained", environment=str(self.ref), host=self.host)
            await self._fail(Failure(Kind.OTHER, "the controller met a defect of its own, which its log tells"))
        else:
            await self._edit(
                lambda before, at: (
                    record.obtained(before, chain, self.request, at.wall),
                    [
                        event(
                            at.wall,
                            CERTIFICATE_RENEWED if before.source else CERTIFICATE_OBTAINED,
                            f"{self.host} has a certificate by {chain.issuer} until {chain.not_after.isoformat()}",
                        )
                    ],
                )
            )

    async def _order(self, orders: Callable[[], Awaitable[Orders]]) -> str:
        authorities = await orders()
        order = await in_thread(lambda: authorities.order(self.account, self.request.csr_pem))
        given = order.challenges
        self._tokens = frozenset(one.token for one in given)
        if given:
            await self._edit(
                lambda before, at: (record.challenged(before, given, "the nodes are to answer", at.wall), ())
            )
            await self._until_answered()
            await in_thread(order.prove)
        await self._edit(lambda before, at: (record.finalizing(before, at.wall), ()))
        return await in_thread(order.finalize)

    async def _until_answered(self) -> None:
        """Return when all who are there answer the challenges, or have had the time for it."""
        with suppress(TimeoutError):
            async with asyncio.timeout(self._pace.answers):
                while next_step.unanswered(self._servers, self._tokens):
                    self._looked.clear()
                    await self._looked.wait()
        self._unanswered = next_step.unanswered(self._servers, self._tokens)
        if self._unanswered:
            nodes = ", ".join(self._unanswered)
            _log.warning("challenge not answered", environment=str(self.ref), host=self.host, nodes=nodes)

    async def _fail(self, failure: Failure) -> None:
        if self._unanswered:
            silent = f"{failure.detail} (not answered by {', '.join(self._unanswered)})"
            failure = Failure(failure.kind, silent, failure.retry_after)
        await self._edit(lambda before, at: failing(before, failure, at, self._pace))

    async def _edit(
        self, change: Callable[[pb.Certificate, Moment], tuple[pb.Certificate, Sequence[pb.Event]]]
    ) -> None:
        await self._records.edit(self.ref, self.host, self.request.id, lambda before: change(before, self._clock()))


def failing(
    certificate: pb.Certificate, failure: Failure, at: Moment, pace: Pace
) -> tuple[pb.Certificate, Sequence[pb.Event]]:
    """The record after a failed attempt, and what to tell of it."""
    made = next_step.failed(certificate, failure, at.wall, pace)
    again = made.issuance.next_attempt_at.ToJsonString()
    kept = "; the one that is there is kept" if certificate.source else ""
    message = f"no certificate for {certificate.host}: {made.issuance.reason}{kept}; next attempt at {again}"
    return made, [event(at.wall, CERTIFICATE_FAILED, message, severity=pb.Event.WARNING)]
