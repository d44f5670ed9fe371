"""Going on with a broken stream where it broke: which lines have been seen. Pure."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Final

from devopsellence.cli.agent.log_line import NANOS, Line

# How far back lines are asked for again on account of a container that has said less than another.
_MARGIN: Final = 30 * NANOS


@dataclass(slots=True)
class _Seen:
    """What one container has said: its last time, and what it said at that very time."""

    at: int = -1
    then: Counter[tuple[bool, bytes]] = field(default_factory=Counter)
    # What is still to be passed over of ``then``, after the stream was taken up again.
    again: Counter[tuple[bool, bytes]] = field(default_factory=Counter)


class Resume:
    """Remembers how far each container of a stream has been heard.

    Containers' lines arrive in order, those of different containers not quite: after a break, lines are asked for from
    :attr:`since` on, and :meth:`admit` leaves out those that were there before.
    """

    def __init__(self) -> None:
        self._seen: dict[str, _Seen] = {}

    @property
    def since(self) -> int | None:
        """From when on lines are to be asked for again; None when none has been seen."""
        if not self._seen:
            return None
        times = [seen.at for seen in self._seen.values()]
        return max(min(times), max(times) - _MARGIN)

    def restart(self) -> None:
        """The stream begins again, at or before :attr:`since`."""
        for seen in self._seen.values():
            seen.again = seen.then.copy()

    def admit(self, line: Line, *, resumed: bool) -> bool:
        """Whether ``line`` is new; ``resumed``: the stream has begun again, so it may not be."""
        seen = self._seen.setdefault(line.container, _Seen())
        said = (line.stderr, line.text)
        if resumed and line.at < seen.at:
            return False
        if resumed and line.at == seen.at and seen.again[said]:
            seen.again[said] -= 1
            return False
        if line.at != seen.at:
            seen.at = line.at
            seen.then.clear()
            seen.again.clear()
        seen.then[said] += 1
        return True
