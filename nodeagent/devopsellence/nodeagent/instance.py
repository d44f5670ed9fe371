"""Instance of the agent: an id per process, and the ids of earlier processes with the same state folder.

The folder is locked, so those processes have ended: their heartbeat may be replaced at once. The heartbeat of any other
process with this node's uid belongs to a second agent: on a cloned machine, or with another state folder.
"""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import Final

import structlog

from devopsellence.nodeagent.state import write_file
from devopsellence.nodeagent.status.heartbeat_owner import AgentProcess

INSTANCES_FILE: Final = "instances"
# A restored etcd may show the heartbeat of a process before the last one.
_KEPT: Final = 20
_log = structlog.get_logger()


def new_process(folder: Path) -> AgentProcess:
    """Return a new id with the earlier ids, and add the new one to the file in ``folder``. Blocks.

    ``folder`` must be locked. A file that cannot be read or written is logged and has no other effect: an earlier
    process then counts as another agent until its lease has expired.
    """
    path, instance = folder / INSTANCES_FILE, secrets.token_hex(6)
    former: list[str] = []
    try:
        former = path.read_text(encoding="ascii").split()[-_KEPT:]
    except FileNotFoundError:
        pass
    except (OSError, UnicodeDecodeError) as error:
        _log.warning("the ids of earlier agents cannot be read", path=str(path), error=str(error))
    try:
        write_file(path, "\n".join([*former, instance, ""]).encode(), sync=False)
    except OSError as error:
        _log.warning("the id of this agent cannot be saved", path=str(path), error=str(error))
    return AgentProcess(instance, frozenset(former))
