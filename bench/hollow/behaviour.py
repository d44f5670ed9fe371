"""Behaviour of hollow containers: environment variables make a release fail everywhere, faults one machine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

#: Seconds from start until probes pass, or ``never``.
READY: Final = "HOLLOW_READY"
#: ``<seconds>:<exit code>``: exit after every start.
END: Final = "HOLLOW_END"
_NEVER: Final = "never"


@dataclass(frozen=True, slots=True)
class Behaviour:
    """Behaviour of a container. ``ready``: seconds, or None for never. ``end``: seconds and exit code, or None."""

    ready: float | None = 0.0
    end: tuple[float, int] | None = None

    @classmethod
    def of(cls, environ: Mapping[str, str]) -> Behaviour:
        """Parse the behaviour from a container's variables; ValueError for malformed numbers."""
        ready, end = environ.get(READY, "0"), environ.get(END, "")
        seconds, _, code = end.partition(":")
        return cls(
            None if ready == _NEVER else float(ready),
            (float(seconds), int(code or "0")) if end else None,
        )


@dataclass(slots=True)
class Faults:
    """Faults of a machine; may be changed at any time."""

    #: Seconds of every call, half before the engine acts and half before the answer.
    call_seconds: float = 0.0
    pull_seconds: float = 0.0
    #: Seconds that a container takes to stop.
    stop_seconds: float = 0.0
    #: Seconds by which the engine's clock was set forward, or back.
    clock_seconds: float = 0.0
    #: Services whose probes fail.
    sick: set[str] = field(default_factory=set)
    #: Services that exit at once with code 1.
    crashing: set[str] = field(default_factory=set)
    #: Images neither present nor available in a registry.
    missing: set[str] = field(default_factory=set)
