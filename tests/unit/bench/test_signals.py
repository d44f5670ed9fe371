"""End of a benchmark by a signal."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

from tests.support.project import PROJECT

# A shell without job control starts programs in the background with SIGINT ignored.
PROGRAM = """
import asyncio, signal, sys
signal.signal(signal.SIGINT, signal.SIG_IGN)
from bench.__main__ import end_on_signals
end_on_signals()

async def measure():
    try:
        print("measuring", flush=True)
        await asyncio.Event().wait()
    finally:
        print("cleaned up", flush=True)

asyncio.run(measure())
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_ended_benchmark_cleans_up_also_in_the_background(number: signal.Signals) -> None:
    with subprocess.Popen([sys.executable, "-c", PROGRAM], stdout=subprocess.PIPE, text=True, cwd=PROJECT) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "measuring\n"
        process.send_signal(number)
        assert process.communicate(timeout=30)[0] == "cleaned up\n"
    assert process.returncode == 128 + number
