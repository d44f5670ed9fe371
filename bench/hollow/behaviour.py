"""How hollow containers behave: by their service's environment, so that a release can be bad everywhere, and by what
is wrong with one machine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

#: Seconds after its start from which it passes its checks, or ``never``.
READY: Final = "HOLLOW_READY"
#: ``<seconds>:<exit code>``: it ends by itself so long after each start.
END: Final = "HOLLOW_END"
_NEVER: Final = "never"


@dataclass(frozen=True, slots=True)
class Behaviour:
    """Seconds. ``ready``: None is never. ``end``: after how long and with which exit code; None: it runs on."""

    ready: float | None = 0.0
    end: tuple[float, int] | None = None

    @classmethod
    def of(cls, environ: Mapping[str, str]) -> Behaviour:
        """What a container's variables ask for; ValueError if they are no numbers."""
        ready, end = environ.get(READY, "0"), environ.get(END, "")
        seconds, _, code = end.partition(":")
        return cls(
            None if ready == _NEVER else float(ready),
            (float(seconds), int(code or "0")) if end else None,
        )


@dataclass(slots=True)
class Faults:
    """What is wrong with one machine; may be changed at any time."""

    #: Seconds of any call, half of it before the engine acts and half before its answer.
    call_seconds: float = 0.0
    pull_seconds: float = 0.0
    #: Seconds that a container takes to end once it is asked to.
    stop_seconds: float = 0.0
    #: No container of these services passes its checks.
    sick: set[str] = field(default_factory=set)
    #: These services end at once with exit code 1.
    crashing: set[str] = field(default_factory=set)
    #: These images are neither here nor to be had.
    missing: set[str] = field(default_factory=set)
