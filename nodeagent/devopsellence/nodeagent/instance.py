"""Instance of the agent: an id per process, and the ids of earlier processes with the same state folder.

The folder is locked, so the processes since the last boot have ended: their heartbeat may be replaced at once. Before
that boot it may have been another machine, whose clone this is, with an agent that still runs. Any other process with
this node's uid belongs to a second agent.
"""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import Final

import structlog

from devopsellence.nodeagent.state_files import StateFiles
from devopsellence.nodeagent.status.heartbeat_owner import AgentProcess

INSTANCES_FILE: Final = "instances"
#: Random id of a boot of the kernel (proc_sys_kernel(5)).
BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")
# A restored etcd may show the heartbeat of a process before the last one.
_KEPT: Final = 20
_log = structlog.get_logger()


def new_process(files: StateFiles, boot_id: Path = BOOT_ID) -> AgentProcess:
    """Return a new id with the earlier ids since the last boot, and add the new one to a file of the folder. Blocks.

    The folder must be locked. A file that cannot be read or written is logged and has no other effect: an earlier
    process then counts as another agent until its lease has expired.
    """
    path, instance = files.root / INSTANCES_FILE, secrets.token_hex(6)
    former: list[str] = []
    boot = _boot(boot_id)
    try:
        stored_boot, *stored = files.read(path).decode("ascii").split() or [""]
        former = stored[-_KEPT:] if stored_boot == boot else []
    except FileNotFoundError:
        pass
    except (OSError, UnicodeDecodeError) as error:
        _log.warning("the ids of earlier agents cannot be read", path=str(path), error=str(error))
    try:
        files.write(path, "\n".join([boot, *former, instance, ""]).encode(), sync=False)
    except OSError as error:
        _log.warning("the id of this agent cannot be saved", path=str(path), error=str(error))
    return AgentProcess(instance, frozenset(former))


def _boot(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii").strip() or "unknown"
    except (OSError, UnicodeDecodeError):
        return "unknown"
