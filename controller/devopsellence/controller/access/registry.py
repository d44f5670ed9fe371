"""Registry of gateways: follows the candidates, and keeps the record ``access/gateways`` while it leads."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from contextlib import suppress

import structlog
from tenacity import AsyncRetrying, retry_if_exception, wait_random_exponential

from devopsellence.api.v1 import stored_pb2 as pb
from devopsellence.clock import Now
from devopsellence.controller.access.gateways import announced, plan_gateways
from devopsellence.controller.reconcile.workers import run_all
from devopsellence.gateways import InvalidGateways, gateway_addresses
from devopsellence.store.codec import encode
from devopsellence.store.errors import Fenced, StoreError
from devopsellence.store.etcd import Compare, Etcd, Put
from devopsellence.store.fenced import FencedWriter, Outdated
from devopsellence.store.informer import Informer
from devopsellence.store.record import message_of, revision_of

_log = structlog.get_logger()


class GatewayRegistry:
    """Registry for one term of office."""

    def __init__(self, etcd: Etcd, writer: FencedWriter, clock: Callable[[], Now]) -> None:
        self._key = etcd.keys.gateways
        self._writer = writer
        self._clock = clock
        self._changed = asyncio.Event()
        self._candidates = Informer(
            etcd, etcd.keys.election_prefix, pb.Candidate, self._on_change, on_connection=self._changed.set
        )
        self._record = Informer(etcd, self._key, pb.Gateways, self._on_change, on_connection=self._changed.set)
        self._absent: Mapping[str, float] = {}

    async def run(self) -> None:
        """Keep the record until cancelled.

        Raises:
            Fenced: another controller leads.
        """
        await run_all(self._candidates.run(), self._record.run(), self._follow())

    async def _follow(self) -> None:
        retrying = AsyncRetrying(
            retry=retry_if_exception(_may_pass), wait=wait_random_exponential(multiplier=0.05, min=0.01, max=30)
        )
        while True:
            recheck: float | None = await retrying(self._attempt)
            wait = None if recheck is None else max(0.0, recheck - self._clock().mono)
            with suppress(TimeoutError):
                async with asyncio.timeout(wait):
                    await self._changed.wait()

    async def _attempt(self) -> float | None:
        try:
            return await self._write()
        except (Fenced, Outdated):
            raise  # Outdated: the watch has not shown the last write yet
        except StoreError as error:
            _log.warning("gateways not recorded", reason=str(error))
            raise
        except Exception:
            _log.exception("gateways not recorded")
            raise

    async def _write(self) -> float | None:
        """Write the record if it has to change; return the time of the next plan."""
        self._changed.clear()
        if not (self._candidates.connected and self._record.connected):
            return None
        now, record = self._clock(), self._record.records.get(self._key)
        candidates = [message_of(candidate) for candidate in self._candidates.records.values()]
        live = announced(candidate.gateway for candidate in candidates if candidate is not None)
        plan = plan_gateways(live, _listed(message_of(record)), self._absent, now.mono)
        self._absent = plan.absent
        if plan.addresses is not None:
            message = pb.Gateways(addresses=plan.addresses)
            message.updated_at.FromDatetime(now.utc)
            compares = [Compare.unmodified(self._key, revision_of(record))]
            await self._writer.commit(
                compares, [Put(self._key, encode(message))], [], f"{self._key} was written meanwhile"
            )
            _log.info("gateways recorded", addresses=plan.addresses)
        return plan.recheck

    def _on_change(self, _key: str) -> None:
        self._changed.set()


def _may_pass(error: BaseException) -> bool:
    # Also a bug: no reason to stop leading. A write without an answer may have happened: the watch tells.
    return isinstance(error, Exception) and not isinstance(error, Fenced)


def _listed(record: pb.Gateways | None) -> tuple[str, ...]:
    """Return the addresses of a record; a record that agents ignore is replaced."""
    with suppress(InvalidGateways):
        return gateway_addresses(record) if record is not None else ()
    return ()
