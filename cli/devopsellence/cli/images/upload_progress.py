"""Progress of image uploads: a bar per node on a terminal, else a line at the start and at the end."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final, Self

from devopsellence.cli.util.text import plural, span

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from devopsellence.cli.images.missing import MissingImages
    from devopsellence.cli.output import Output

_OPERATION: Final = "deploy"
_UNITS: Final = ("bytes", "kB", "MB", "GB")


class UploadBar:
    """Upload progress of a node."""

    def __init__(self, node: str, output: Output, progress: Progress | None) -> None:
        self._node = node
        self._output = output
        self._progress = progress
        self._task: TaskID | None = None
        self._started = 0.0
        self._sent = 0
        self._missing: MissingImages | None = None

    def begin(self, total: int, missing: MissingImages) -> None:
        """Start an attempt to upload ``total`` bytes."""
        if self._progress is not None:
            if self._task is None:
                self._task = self._progress.add_task(self._node, total=total, there=missing.there)
            else:
                self._progress.reset(self._task, total=total)
        elif self._missing is None:
            message = f"{plural(len(missing.layers), 'layer')}, {size_text(total)}"
            text = f"{self._node}: uploading {message} ({missing.there} already there)"
            self._print(text, stage="sending", bytes=total, layers=len(missing.layers), layers_there=missing.there)
        if self._missing is None:
            self._started = time.monotonic()
        self._missing = missing

    def advance(self, count: int) -> None:
        """Count bytes sent."""
        self._sent += count
        self.skip(count)

    def skip(self, count: int) -> None:
        """Count bytes already uploaded by an earlier attempt."""
        if self._progress is not None and self._task is not None:
            self._progress.update(self._task, advance=count)

    def end(self) -> None:
        """Print that the node has all images."""
        seconds = time.monotonic() - self._started
        rate = f"{size_text(int(self._sent / seconds))}/s" if seconds > 0 else ""
        text = f"{self._node}: images uploaded: {size_text(self._sent)} in {span(seconds)}, {rate}"
        self._print(text, stage="sent", bytes=self._sent, seconds=round(seconds, 3))

    def _print(self, text: str, **data: Any) -> None:
        self._output.progress(_OPERATION, text, node=self._node, **data)


class UploadProgress:
    """Upload bars of all nodes; a context manager."""

    def __init__(self, output: Output) -> None:
        self._output = output
        self._progress: Progress | None = None

    def bar(self, node: str) -> UploadBar:
        """Return a new bar for a node."""
        return UploadBar(node, self._output, self._progress)

    def __enter__(self) -> Self:
        if self._output.live:
            from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

            self._progress = Progress(
                TextColumn("{task.description}", markup=False),
                BarColumn(),
                DownloadColumn(),
                TransferSpeedColumn(),
                TextColumn("{task.fields[there]} layers already there", markup=False),
                console=self._output.console(),
                transient=True,
            )
            self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._progress is not None:
            self._progress.stop()


def size_text(count: int) -> str:
    """Return bytes in the largest fitting unit: ``12.3 MB``."""
    amount, unit = float(count), 0
    while amount >= 999.95 and unit < len(_UNITS) - 1:
        amount, unit = amount / 1000, unit + 1
    return f"{count} bytes" if unit == 0 else f"{amount:.1f} {_UNITS[unit]}"
