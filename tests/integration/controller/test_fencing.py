"""Fencing: a former leader writes nothing, proven by the revisions of etcd over more than a hundred pauses.

``FENCING_SEED`` repeats a run's choices; the moments at which etcd and the machine answer remain their own.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import uuid
from pathlib import Path

import pytest

from devopsellence.store.etcd import Etcd
from devopsellence.store.settings import Settings
from tests.integration.controller.audit import Findings, audit, next_revision, read_history
from tests.integration.controller.fenced import Bustle, Controllers, Pauses, candidates, pause_at_random
from tests.support.etcd import EtcdServer

pytestmark = pytest.mark.etcd
GROUPS = 5
PAUSES_OF_A_GROUP = 22


def _settings(server: EtcdServer) -> Settings:
    return server.settings(f"/test-{uuid.uuid4().hex[:12]}/")


async def _group(settings: Settings, folder: Path, controllers: int, seed: str) -> tuple[Pauses, Findings]:
    """Run an environment with controllers and a share of the pauses."""
    rng = random.Random(seed)
    async with Etcd(settings) as etcd:
        since = await next_revision(etcd)
        with Controllers(etcd, settings, folder, controllers) as standing:
            await standing.all_stand()
            bustle = Bustle(etcd, rng)
            await bustle.begin()
            busy = asyncio.create_task(bustle.go_on())
            try:
                pauses = await pause_at_random(standing, rng, PAUSES_OF_A_GROUP)
            finally:
                busy.cancel()
                await asyncio.gather(busy, return_exceptions=True)
            await bustle.finish()
        return pauses, audit(await read_history(etcd, since), etcd.keys)


async def test_paused_leader_writes_nothing_after_its_lease(etcd_server: EtcdServer, tmp_path: Path) -> None:
    seed = os.environ.get("FENCING_SEED") or uuid.uuid4().hex[:8]
    print(f"FENCING_SEED={seed}")  # noqa: T201 - shown when it fails
    groups = await asyncio.gather(
        *(
            _group(_settings(etcd_server), tmp_path / str(number), 3 if number == 0 else 2, f"{seed}/{number}")
            for number in range(GROUPS)
        )
    )
    for pauses, findings in groups:
        assert findings.defects == [], pauses.done
        assert len(findings.leaders) > 1, "the pauses deposed no leader"
        assert findings.writes > pauses.count, "too little was written to tell"
    assert sum(pauses.count for pauses, _ in groups) >= 100
    assert sum(pauses.at_a_write for pauses, _ in groups) >= 20


async def test_audit_finds_leader_without_fence(settings: Settings, etcd: Etcd, tmp_path: Path) -> None:
    """Check the audit itself: a leader without a fence, paused before a write until after its lease, is found."""
    since = await next_revision(etcd)
    with Controllers(etcd, settings, tmp_path, 1, UNFENCED="yes") as standing:
        await standing.all_stand()
        standing.send(await standing.leader(), signal.SIGUSR1)
        bustle = Bustle(etcd, random.Random(1))
        await bustle.begin()
        assert await standing.stopped("c0")
        await candidates(etcd, lambda line: not line)
        standing.send("c0", signal.SIGCONT)
        await standing.all_stand()
        await bustle.finish()
        findings = audit(await read_history(etcd, since), etcd.keys)
    assert len(findings.defects) == 1
    assert "while None led" in findings.defects[0]
