"""Clients on this machine."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from tests.support.load.plan import Plan
from tests.support.load.result import Result, merge_results, read_report, read_result
from tests.support.until import until

_REPOSITORY: Final = Path(__file__).parents[3]
_END_SECONDS: Final = 30.0


class Load:
    """Clients of ``plan`` in ``processes`` processes inside the block; ``result`` is there afterwards.

    The block begins once a client is answered, so that everything inside happens under load; without ``wait``, at
    once.
    """

    def __init__(self, plan: Plan, *, processes: int = 1, wait: bool = True) -> None:
        self._plans = plan.split(processes)
        self._wait = wait
        self._processes: list[subprocess.Popen[bytes]] = []
        self.result = Result()

    def __enter__(self) -> Self:
        self._folder = tempfile.TemporaryDirectory(prefix="devopsellence-load-")
        environ = {**os.environ, "PYTHONPATH": str(_REPOSITORY)}
        for number, plan in enumerate(self._plans):
            command = [sys.executable, "-m", "tests.support.load.clients", plan.to_json(), str(self._report(number))]
            self._processes.append(subprocess.Popen(command, env=environ))
        if self._wait:
            try:
                until("somebody is answered", lambda: all(self.answered(number) for number in range(len(self._plans))))
            except BaseException:
                self._end()
                raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._end()

    def join(self) -> None:
        """Wait for the end of the plan's time."""
        for process, plan in zip(self._processes, self._plans, strict=True):
            process.wait(timeout=plan.seconds + _END_SECONDS)

    def answered(self, process: int = 0) -> Counter[str]:
        """Return the number of answered requests so far, by version of the service."""
        return Counter(read_report(self._report(process)).get("answered", {}))

    @property
    def failed(self) -> int:
        """Number of failed requests so far."""
        return sum(read_report(self._report(number)).get("failed", 0) for number in range(len(self._plans)))

    def _end(self) -> None:
        for process in self._processes:
            process.terminate()
        try:
            for process in self._processes:
                process.wait(timeout=_END_SECONDS)
            self.result = merge_results(read_result(self._report(number)) for number in range(len(self._plans)))
        finally:
            for process in self._processes:
                process.kill()
                process.wait()
            self._folder.cleanup()

    def _report(self, number: int) -> Path:
        return Path(self._folder.name) / f"{number}.json"
