"""Routers of the nodes, which operators need not reach: what heartbeats say about their trust and certificates."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from contextlib import suppress

from devopsellence.api.v1.stored_pb2 import Heartbeat
from devopsellence.store.etcd import Etcd
from devopsellence.store.informer import Informer
from devopsellence.store.record import message_of


def router_problem(beat: Heartbeat, root: str, *, renewed: bool) -> str:
    """Return why the router of a node is not ready for a new CA, as a sentence; "" if it is, or meets no other router.

    ``root``: SHA-256 of the CA's certificate. ``renewed``: the router is to have a certificate of it as well.
    """
    tls = beat.router_tls
    if not beat.HasField("router_tls"):
        # Without an address, other nodes forward no requests to it, nor it to them.
        return (
            f"the agent of {beat.node} does not tell whom its router trusts: upgrade it" if beat.router_address else ""
        )
    if root not in tls.trusted:
        return f"the router of {beat.node} does not trust the new CA"
    if renewed and tls.authority != root:
        return f"the router of {beat.node} has no certificate of the new CA"
    return ""


async def wait_routers(
    etcd: Etcd, uids: Mapping[str, str], root: str, progress: Callable[[str], None], *, renewed: bool, seconds: float
) -> list[str]:
    """Wait until no router has a :func:`router_problem`; return the problems that there are after ``seconds``.

    ``uids``: machines of the nodes concerned, by name.
    """
    changed = asyncio.Event()
    beats = Informer(etcd, etcd.keys.heartbeats_prefix, Heartbeat, lambda _key: changed.set())

    def problems() -> list[str]:
        known = filter(None, map(message_of, beats.records.values()))
        concerned = (beat for beat in known if uids.get(beat.node) == beat.uid)
        return sorted(filter(None, (router_problem(beat, root, renewed=renewed) for beat in concerned)))

    following = asyncio.create_task(beats.run())
    try:
        await beats.synced()
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while found := problems():
                    progress(f"Waiting for {len(found)} of the nodes' routers: {found[0]}")
                    changed.clear()
                    await changed.wait()
        return problems()
    finally:
        following.cancel()
        await asyncio.wait([following])
