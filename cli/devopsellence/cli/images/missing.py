"""Whether a node has room for what a deploy would send it. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from devopsellence.cli.output import CliError, Finding, NextAction

#: What a layer takes while it is loaded: as it was sent, in the archive that the engine unpacks first, and as itself.
FACTOR: Final = 3
#: What is left for everything else on the disk.
MARGIN_MIB: Final = 256
_MIB: Final = 1 << 20


@dataclass(frozen=True)
class Load:
    """What one node would have to take: ``missing`` bytes of layers, of which ``staged`` have arrived already."""

    node: str
    missing: int
    staged: int
    free_mib: int

    @property
    def need_mib(self) -> int:
        """What has to be free on its disk; 0 when nothing is to be sent."""
        if not self.missing:
            return 0
        return -(-(FACTOR * self.missing - self.staged) // _MIB) + MARGIN_MIB


def check_room(loads: Iterable[Load]) -> CliError | None:
    """The error for nodes that have too little, all of them at once; None when all have enough."""
    short = [load for load in loads if load.need_mib > load.free_mib]
    if not short:
        return None
    findings = [_finding(load) for load in short]
    if len(short) == 1:
        return CliError("no_room", findings[0].message, findings=findings)
    names = ", ".join(load.node for load in short)
    return CliError("no_room", f"{len(short)} nodes have too little room for the images: {names}", findings=findings)


def _finding(load: Load) -> Finding:
    layers = f"{load.missing / _MIB:.0f} MiB of new layers"
    message = f"node {load.node} has {load.free_mib} MiB free and needs {load.need_mib} MiB for {layers}"
    mend = NextAction("make room there", "docker system prune, on that machine")
    return Finding("no_room", message, next_actions=(mend,))
