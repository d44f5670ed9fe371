"""What the agent keeps on disk, so that it goes on without etcd, also straight after a reboot.

``assignments/`` holds the last assignment of each environment as it was read, ``memory/`` the counters and backoffs,
``status/`` what was last reported (for people, while etcd is away), ``tasks/`` which release tasks were started and how
they ended, ``ingress/`` what the controller sent about an environment's hosts. One file per environment (there, per
host); written to a temporary file, synced, renamed. Assignments can hold values that are nobody else's business: the
folder is the agent's alone. Secrets in them are sealed; what opens them is ``identity``'s.
"""

from __future__ import annotations

import dataclasses
import fcntl
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Final, Self

import structlog

from devopsellence.api.v1 import stored_pb2
from devopsellence.clock import Now
from devopsellence.nodeagent.docker.model import ContainerExit
from devopsellence.nodeagent.plan.actions import RestartHistories
from devopsellence.nodeagent.plan.history import BACKOFF_CAP, SPREAD, FailureCause, RestartHistory
from devopsellence.nodeagent.plan.task_run import TaskRun, task_run_from_json, task_run_to_json
from devopsellence.store.codec import decode, encode
from devopsellence.store.errors import MalformedRecord
from devopsellence.store.keys import EnvironmentRef

_KINDS: Final = ("assignments", "memory", "status", "tasks", "ingress")
#: In file names, instead of "/"; no name may contain it.
_SEPARATOR: Final = "+"
_log = structlog.get_logger()


class StateError(Exception):
    """The state folder cannot be used; says why, and what to do."""


class StateFolder:
    """One agent's folder, locked against a second agent until it is closed. Methods block.

    Raises:
        StateError: the folder cannot be made or is another agent's.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock: IO[str] | None = None
        try:
            for kind in _KINDS:
                (folder / kind).mkdir(parents=True, exist_ok=True, mode=0o700)
            folder.chmod(0o700)
            self._lock = (folder / "lock").open("w")
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self.close()
            raise StateError(
                f"another agent already runs with the state folder {folder}; stop it, or give another --state-dir"
            ) from error
        except OSError as error:
            raise StateError(
                f"the state folder {folder} cannot be used: {error.strerror}; "
                "give a folder that this user can write with --state-dir"
            ) from error

    def close(self) -> None:
        """Let another agent have it."""
        if self._lock is not None:
            self._lock.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def assignments(self) -> dict[EnvironmentRef, stored_pb2.Assignment]:
        """Every assignment that can be read; one that cannot is named in the log and left where it is."""
        found: dict[EnvironmentRef, stored_pb2.Assignment] = {}
        for path in sorted((self._folder / "assignments").glob("*.json")):
            try:
                env = EnvironmentRef.parse(path.stem.replace(_SEPARATOR, "/"))
                found[env] = decode(stored_pb2.Assignment, str(path), path.read_bytes())
            except (OSError, ValueError, MalformedRecord) as error:
                _log.warning("an assignment on disk cannot be read", path=str(path), error=str(error))
        return found

    def save_assignment(self, env: EnvironmentRef, assignment: stored_pb2.Assignment) -> None:
        """Returns once it is on disk. OSError if it cannot be written."""
        self._write("assignments", env, encode(assignment), sync=True)

    def restart_histories(self, env: EnvironmentRef, now: Now) -> dict[tuple[str, str], RestartHistory]:
        """The memories of an environment; none if there are none or they cannot be read."""
        path = self._path("memory", env)
        try:
            stored = json.loads(path.read_bytes())
            return {(entry["service"], entry["hash"]): _history_from_json(entry["memory"], now) for entry in stored}
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, KeyError, TypeError) as error:
            _log.warning("the counters on disk cannot be read", path=str(path), error=str(error))
            return {}

    def save_restart_histories(self, env: EnvironmentRef, memories: RestartHistories) -> None:
        """Not synced: after a crash of the machine the counters may be a little old. OSError if it fails."""
        stored = [
            {"service": service, "hash": spec_hash, "memory": dataclasses.asdict(memory)}
            for (service, spec_hash), memory in sorted(memories.items())
        ]
        self._write("memory", env, json.dumps(stored).encode(), sync=False)

    def task_runs(self, env: EnvironmentRef) -> tuple[TaskRun, ...]:
        """What is known of the release tasks that were run here, oldest first.

        Raises:
            StateError: there is a record that cannot be read. That is not the same as none: a task may have run.
        """
        path = self._path("tasks", env)
        try:
            return tuple(task_run_from_json(load) for load in json.loads(path.read_bytes()))
        except FileNotFoundError:
            return ()
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise StateError(
                f"the record of release tasks {path} cannot be read, so whether this one has run is not known; "
                f"once you have made sure that it has not, remove the file and restart the agent ({error})"
            ) from error

    def save_task_runs(self, env: EnvironmentRef, runs: Sequence[TaskRun]) -> None:
        """Returns once they are on disk. OSError if they cannot be written."""
        self._write("tasks", env, json.dumps([task_run_to_json(each) for each in runs]).encode(), sync=True)

    def parts(self) -> dict[tuple[EnvironmentRef, str], stored_pb2.NodeIngress]:
        """Every part of an ingress that can be read, by environment and part; one that cannot is named in the log and
        left where it is."""
        found: dict[tuple[EnvironmentRef, str], stored_pb2.NodeIngress] = {}
        for path in sorted((self._folder / "ingress").glob("*.json")):
            try:
                stored = decode(stored_pb2.NodeIngress, str(path), path.read_bytes())
                env = EnvironmentRef(stored.organization, stored.project, stored.environment)
            except (OSError, ValueError, MalformedRecord) as error:
                _log.warning("a part of an ingress on disk cannot be read", path=str(path), error=str(error))
            else:
                found[env, stored.part] = stored
        return found

    def save_part(self, env: EnvironmentRef, part: str, stored: stored_pb2.NodeIngress) -> None:
        """Returns once it is on disk. OSError if it cannot be written."""
        write_file(self._part(env, part), encode(stored), sync=True)

    def forget_part(self, env: EnvironmentRef, part: str) -> None:
        """It is needed no more."""
        self._part(env, part).unlink(missing_ok=True)

    def save_status(self, env: EnvironmentRef, status: bytes) -> None:
        """OSError if it cannot be written."""
        self._write("status", env, status, sync=False)

    def forget(self, env: EnvironmentRef) -> None:
        """The environment left this node."""
        for kind in _KINDS:
            self._path(kind, env).unlink(missing_ok=True)
        for path in (self._folder / "ingress").glob(f"{str(env).replace('/', _SEPARATOR)}{_SEPARATOR}*.json"):
            path.unlink(missing_ok=True)

    def _part(self, env: EnvironmentRef, part: str) -> Path:
        """By a hash: a host's name may be too long for a file's."""
        short = hashlib.sha256(part.encode()).hexdigest()[:32]
        return self._folder / "ingress" / f"{str(env).replace('/', _SEPARATOR)}{_SEPARATOR}{short}.json"

    def _path(self, kind: str, env: EnvironmentRef) -> Path:
        return self._folder / kind / f"{str(env).replace('/', _SEPARATOR)}.json"

    def _write(self, kind: str, env: EnvironmentRef, content: bytes, *, sync: bool) -> None:
        write_file(self._path(kind, env), content, sync=sync)


def write_file(path: Path, content: bytes, *, sync: bool) -> None:
    """Put ``content`` in place of a file, for nobody else to read; on disk when it returns, if ``sync``. OSError."""
    temporary = path.with_suffix(".tmp")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        if sync:
            os.fsync(descriptor)
    temporary.replace(path)
    if sync:
        _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    """A rename is on disk only when its folder is."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _history_from_json(stored: Mapping[str, Any], now: Now) -> RestartHistory:
    """A memory from disk. Monotonic clocks start anew at a reboot, so the wall clock carries the wait across, and no
    wait gets longer by that than the longest there is."""
    known = {field.name for field in dataclasses.fields(RestartHistory)}
    values = {key: value for key, value in stored.items() if key in known}
    end = values.get("last_end")
    wait = min(max(0.0, float(values.get("retry_wall", 0.0)) - now.wall), BACKOFF_CAP * (1 + SPREAD))
    values |= {
        "trouble": FailureCause(values.get("trouble", "")),
        "retry": now.mono + wait,
        "last_end": ContainerExit(**{**end, "log_lines": tuple(end["log_lines"])}) if end else None,
    }
    return RestartHistory(**values)
