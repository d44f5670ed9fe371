"""Nodes that a deploy leaves out: unreachable ones, whose images are on other nodes.

Such a node catches up by itself: the rollout does not wait for it, and its assignment names nodes to pull the images
from. A node that fails although etcd still sees its agent and its Docker Engine at work takes part in the rollout, so
it needs the images, or has to be cordoned.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable, Mapping
from typing import Final

from devopsellence.api.v1.stored_pb2 import Heartbeat
from devopsellence.cli.output import CliError, Finding, NextAction
from devopsellence.cli.store.reader import concurrently
from devopsellence.store.codec import decode
from devopsellence.store.errors import MalformedRecord
from devopsellence.store.etcd import Etcd
from devopsellence.store.informer import Informer

#: Errors of an agent that is dead, or that has no Docker Engine.
_LOST_CODES: Final = frozenset({"agent_unreachable", "docker_unavailable"})
#: Seconds until the heartbeat of a dead agent is gone, with its lease of ten seconds, or an agent has noticed that its
#: Docker Engine does not answer.
_NOTICED_SECONDS: Final = 15.0


def may_be_lost(failed: Mapping[str, CliError]) -> list[str]:
    """Return the nodes of ``failed`` (errors by node) whose agent or Docker Engine may be gone."""
    return [node for node, error in failed.items() if error.code in _LOST_CODES]


def served_elsewhere(failed: Collection[str], wanted: Mapping[str, Iterable[str]]) -> frozenset[str]:
    """Return the ``failed`` nodes whose ``wanted`` images, by node, are all on nodes that have not failed."""
    served = {image for node, images in wanted.items() if node not in failed for image in images}
    return frozenset(node for node in failed if served.issuperset(wanted[node]))


def not_sent(failed: Mapping[str, CliError], served: Collection[str]) -> CliError:
    """Return the error about all ``failed`` nodes; those in ``served`` may be left out with ``node cordon``."""
    findings = []
    for node, error in sorted(failed.items()):
        leave_out = [NextAction("or leave the node out", f"devopsellence node cordon {node}")] if node in served else []
        findings.append(Finding(error.code, error.message, next_actions=(*error.next_actions, *leave_out)))
    names = ", ".join(sorted(failed))
    message = f"images could not be uploaded to {names}, so no release was written; uploaded layers are kept"
    if optional := sorted(node for node in failed if node in served):
        message += f"; to deploy without {', '.join(optional)}, run devopsellence node cordon {optional[0]}"
    return CliError("images_not_sent", message, findings=findings)


async def unreachable_of(etcd: Etcd, nodes: Iterable[str]) -> frozenset[str]:
    """Return those of ``nodes`` that etcd sees without an agent or without a Docker Engine, by now or soon."""
    names = list(nodes)
    lost = await concurrently(_is_lost(etcd, name) for name in names)
    return frozenset(name for name, is_lost in zip(names, lost, strict=True) if is_lost)


async def _is_lost(etcd: Etcd, node: str) -> bool:
    key = etcd.keys.heartbeat(node)
    stored = await etcd.get(key)
    if stored is None:
        return True
    try:
        if decode(Heartbeat, key, stored.value).without_engine:
            return True
    except MalformedRecord:
        return False
    # A key without a lease does not vanish.
    return bool(stored.lease) and await _gets_lost(etcd, key)


async def _gets_lost(etcd: Etcd, key: str) -> bool:
    lost = asyncio.Event()

    def look(_key: str) -> None:
        record = informer.records.get(key)
        if record is None or (record.message is not None and record.message.without_engine):
            lost.set()

    informer = Informer(etcd, key, Heartbeat, look)
    following = asyncio.create_task(informer.run())
    try:
        async with asyncio.timeout(_NOTICED_SECONDS):
            await informer.synced()
            look(key)
            await lost.wait()
    except TimeoutError:
        return False
    finally:
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)
    return True
