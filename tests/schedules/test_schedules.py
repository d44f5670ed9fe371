"""Random schedules of deploys, faults and changes by hand, each ending as the last release asks for.

What happens: kills, pauses, partitions, full and read-only disks, hung containers, an Envoy that does not follow, keys
deleted by hand, and more (``schedule.StepKind``). At no time is a container stopped that has requests.

``SCHEDULES="17 23" pytest tests/schedules`` plays other seeds, ``make soak`` the first 300; ``python -m tests.schedules
17`` shows a schedule with its log.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.support.need import need_etcd, need_own_mounts
from tests.support.project import PROJECT

#: Each has an event loop, and so a core, to itself.
PROCESSES = 2
SEEDS = os.environ.get("SCHEDULES", "").split() or [str(seed) for seed in range(1, 36)]
pytestmark = [pytest.mark.etcd, pytest.mark.timeout(200 + 8 * len(SEEDS))]


async def _play(seeds: Sequence[str], log: Path) -> tuple[int, str]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "tests.schedules", "--log", str(log), *seeds),
        cwd=PROJECT,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        output, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
    return process.returncode or 0, output.decode()


async def test_schedule_ends_in_state_of_last_release(tmp_path: Path) -> None:
    need_etcd()
    need_own_mounts()
    shares = [share for number in range(PROCESSES) if (share := SEEDS[number::PROCESSES])]
    ends = await asyncio.gather(*(_play(share, tmp_path / f"{number}.log") for number, share in enumerate(shares)))
    assert all(code == 0 for code, _ in ends), "\n".join(output for _, output in ends)
    for share, (_, output) in zip(shares, ends, strict=True):
        assert f"{len(share)} schedules, 0 of them ended wrongly" in output
