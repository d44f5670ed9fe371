"""Output of removed containers, kept for a while on this node: a bounded folder of the agent.

The engine deletes a container's log with the container, so the agent copies the end of the log before. A file has a
header, a line of JSON, and then the log in the engine's own format (``docker.frames``), so that it is read as a log is.
The folder belongs to the agent's user, as the engine's logs belong to root. Methods block.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import structlog

from devopsellence.nodeagent.docker.frames import FrameParser, LineJoiner, LogText, MalformedFrame
from devopsellence.nodeagent.docker.model import Container
from devopsellence.nodeagent.state_files import replace_file
from devopsellence.store.keys import EnvironmentRef

#: Containers kept per service, and runs per task; the oldest go first.
MAX_CONTAINERS: Final = 5
#: Limit for all environments of the node.
MAX_BYTES: Final = 64 * 1024 * 1024
_SHORT_ID: Final = 12
_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class ArchivedLog:
    """Kept output of a removed container. ``task`` is empty for a service's container. ``removed_at``: nanoseconds
    since the epoch."""

    service: str
    task: str
    release: int
    #: Id, 12 digits.
    container: str
    removed_at: int
    path: Path

    def lines(self) -> Iterator[LogText]:
        """Yield the lines; a damaged end is left out.

        Raises:
            OSError: the file cannot be read, or is no longer kept.
        """
        _, _, content = self.path.read_bytes().partition(b"\n")
        joiner = LineJoiner()
        try:
            for stderr, payload in FrameParser().feed(content):
                yield from joiner.feed(stderr, payload)
        except MalformedFrame as error:
            _log.warning("kept output is damaged", path=str(self.path), error=str(error))
        yield from joiner.finish()


class LogArchive:
    """Kept output of the removed containers of a node, in ``folder``."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def save(self, container: Container, frames: bytes, removed_at: int) -> None:
        """Keep the output of a container about to be removed, and drop the oldest of others beyond the limits.

        Raises:
            OSError: the folder cannot be written.
        """
        folder = self._folder_of(EnvironmentRef.parse(container.environment))
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        short = container.id[:_SHORT_ID]
        path = folder / f"{removed_at:020}-{short}.log"
        log = ArchivedLog(container.service, container.task, container.release, short, removed_at, path)
        for earlier in folder.glob(f"*-{short}.log"):
            # Of a removal that was cut off, or refused by the engine.
            earlier.unlink(missing_ok=True)
        replace_file(path, _header(log) + frames, sync=False)
        same = [kept for kept in _logs_in(folder) if (kept.service, kept.task) == (log.service, log.task)]
        for old in same[:-MAX_CONTAINERS]:
            old.path.unlink(missing_ok=True)
        self._limit_size()

    def of(self, ref: EnvironmentRef) -> Sequence[ArchivedLog]:
        """Return the kept output of an environment, oldest first; an unreadable file is left out."""
        return _logs_in(self._folder_of(ref))

    def forget(self, ref: EnvironmentRef) -> None:
        """Remove all kept output of an environment."""
        shutil.rmtree(self._folder_of(ref), ignore_errors=True)

    def _folder_of(self, ref: EnvironmentRef) -> Path:
        return self._folder / str(ref).replace("/", "+")

    def _limit_size(self) -> None:
        sizes = {path: path.stat().st_size for path in self._folder.glob("*/*.log")}
        total = sum(sizes.values())
        for path in sorted(sizes, key=lambda path: path.name):
            if total <= MAX_BYTES:
                return
            total -= sizes[path]
            path.unlink(missing_ok=True)


def _header(log: ArchivedLog) -> bytes:
    fields = {name: value for name, value in asdict(log).items() if name != "path"}
    return json.dumps(fields).encode() + b"\n"


def _logs_in(folder: Path) -> list[ArchivedLog]:
    logs = []
    # The names begin with the time.
    for path in sorted(folder.glob("*.log")):
        try:
            with path.open("rb") as file:
                stored: dict[str, Any] = json.loads(file.readline())
            logs.append(
                ArchivedLog(
                    str(stored["service"]),
                    str(stored["task"]),
                    int(stored["release"]),
                    str(stored["container"]),
                    int(stored["removed_at"]),
                    path,
                )
            )
        except (OSError, ValueError, KeyError, TypeError) as error:
            _log.warning("kept output cannot be read", path=str(path), error=str(error))
    return logs
