"""The docker command against this machine's engine, and removal of the objects of a test's node."""

from __future__ import annotations

from devopsellence.nodeagent.docker.names import LABEL_NODE_UID
from tests.support.run import run
from tests.support.until import until

_OBJECTS = (
    (("ps", "-aq"), ("rm", "-f", "-v")),
    (("network", "ls", "-q"), ("network", "rm")),
    (("volume", "ls", "-q"), ("volume", "rm")),
)


def docker(*arguments: str, check: bool = True) -> str:
    """Return the output of ``docker ARGUMENTS``; AssertionError if the command fails, unless ``check`` is False."""
    return run(["docker", *arguments], check=check).stdout.strip()


def run_container(image: str, node_uid: str, *options: str) -> str:
    """Start a container labelled as one of the node; return the id. SIGTERM ends the container at once."""
    label = f"--label={LABEL_NODE_UID}={node_uid}"
    script = "trap 'exit 0' TERM; while :; do sleep 0.1; done"
    return docker("run", "-d", label, *options, image, "/bin/sh", "-c", script)


def remove_node_objects(node_uid: str) -> None:
    """Remove the containers, networks and volumes of a node.

    Objects still in use are tried again: a call that an agent left behind ends after the agent.
    """
    until("nothing of the node is left", lambda: not _remove(node_uid), seconds=60, every=0.2)


def _remove(node_uid: str) -> list[str]:
    """Ask the engine to remove the objects of a node; return the ids found."""
    removed = []
    for listing, removal in _OBJECTS:
        ids = docker(*listing, "--filter", f"label={LABEL_NODE_UID}={node_uid}", check=False).split()
        if ids:
            docker(*removal, *ids, check=False)
        removed += ids
    return removed
