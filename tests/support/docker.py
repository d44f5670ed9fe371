"""Taking away what an agent has made on the engine, also while the engine is still at it."""

from __future__ import annotations

import subprocess

from devopsellence.nodeagent.docker.names import LABEL_NODE_UID
from tests.support.until import until

_KINDS = (
    (("ps", "-aq"), ("rm", "-f", "-v")),
    (("network", "ls", "-q"), ("network", "rm")),
    (("volume", "ls", "-q"), ("volume", "rm")),
)


def remove(node_uid: str) -> None:
    """Remove the containers, networks and volumes of a node. What is in use a moment longer is tried again, because a
    call that an agent has left behind ends after it."""
    until("nothing of the node is left", lambda: not _left(node_uid), seconds=60, every=0.2)


def _left(node_uid: str) -> list[str]:
    """What was there this time; all of it has been asked to go."""
    found = []
    for listing, removal in _KINDS:
        ids = _docker(*listing, "--filter", f"label={LABEL_NODE_UID}={node_uid}").split()
        if ids:
            _docker(*removal, *ids)
        found += ids
    return found


def _docker(*words: str) -> str:
    return subprocess.run(["docker", *words], capture_output=True, text=True, check=False, timeout=60).stdout
