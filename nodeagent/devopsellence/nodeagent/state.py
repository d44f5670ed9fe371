"""State folder of the agent: everything needed to go on without etcd, also directly after a reboot.

``assignments/`` has the last assignment of each environment, ``memory/`` the restart histories, ``status/`` the last
reported status (for people, while etcd is away), ``tasks/`` the records of release tasks, ``ingress/`` the ingress
parts. There is a file per environment, in ``ingress/`` per environment and part. ``containers.json`` has the containers
that the agent has created (``docker.ledger``). Files are written to a temporary file, synced and renamed. Assignments
can contain confidential values, so only the agent's user can read the folder. Secrets are encrypted; the identity to
decrypt them is in ``identity``.
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
#: Separator in file names in place of "/"; not valid in names.
_SEPARATOR: Final = "+"
#: Names on disk of fields of RestartHistory that have other names there, so that an upgraded agent reads old files.
_STORED_NAMES: Final = {
    "failure": "trouble",
    "last_start": "begun",
    "ready_container": "proved",
    "stopped_container": "stopped",
    "counted_exit": "examined",
    "replaced_container": "discarded",
}
_log = structlog.get_logger()


class StateError(Exception):
    """The state folder cannot be used; the message says why, and how to fix it."""


class StateFolder:
    """State folder of an agent, locked against a second agent until closed. Methods block.

    Raises:
        StateError: the folder cannot be created, or another agent uses it.
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
        """Unlock the folder."""
        if self._lock is not None:
            self._lock.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def assignments(self) -> dict[EnvironmentRef, stored_pb2.Assignment]:
        """Return all readable assignments; an unreadable file is logged and left in place."""
        records: dict[EnvironmentRef, stored_pb2.Assignment] = {}
        for path in sorted((self._folder / "assignments").glob("*.json")):
            try:
                ref = EnvironmentRef.parse(path.stem.replace(_SEPARATOR, "/"))
                records[ref] = decode(stored_pb2.Assignment, str(path), path.read_bytes())
            except (OSError, ValueError, MalformedRecord) as error:
                _log.warning("an assignment on disk cannot be read", path=str(path), error=str(error))
        return records

    def save_assignment(self, ref: EnvironmentRef, assignment: stored_pb2.Assignment) -> None:
        """Write an assignment; it is on disk on return.

        Raises:
            OSError.
        """
        self._write("assignments", ref, encode(assignment), sync=True)

    def restart_histories(self, ref: EnvironmentRef, now: Now) -> dict[tuple[str, str], RestartHistory]:
        """Return the restart histories of an environment; empty if absent or unreadable."""
        path = self._path("memory", ref)
        try:
            stored = json.loads(path.read_bytes())
            return {(entry["service"], entry["hash"]): _history_from_json(entry["memory"], now) for entry in stored}
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, KeyError, TypeError) as error:
            _log.warning("the counters on disk cannot be read", path=str(path), error=str(error))
            return {}

    def save_restart_histories(self, ref: EnvironmentRef, histories: RestartHistories) -> None:
        """Write restart histories, without sync: after a crash of the machine they can be a little old.

        Raises:
            OSError.
        """
        stored = [
            {"service": service, "hash": spec_hash, "memory": _history_to_json(history)}
            for (service, spec_hash), history in sorted(histories.items())
        ]
        self._write("memory", ref, json.dumps(stored).encode(), sync=False)

    def task_runs(self, ref: EnvironmentRef) -> tuple[TaskRun, ...]:
        """Return the records of an environment's release tasks, oldest first.

        Raises:
            StateError: the records cannot be read. That is not the same as no records: a task may have run.
        """
        path = self._path("tasks", ref)
        try:
            return tuple(task_run_from_json(load) for load in json.loads(path.read_bytes()))
        except FileNotFoundError:
            return ()
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise StateError(
                f"the record of release tasks {path} cannot be read, so whether this one has run is not known; "
                f"once you have made sure that it has not, remove the file and restart the agent ({error})"
            ) from error

    def save_task_runs(self, ref: EnvironmentRef, runs: Sequence[TaskRun]) -> None:
        """Write the records of release tasks; they are on disk on return.

        Raises:
            OSError.
        """
        self._write("tasks", ref, json.dumps([task_run_to_json(run) for run in runs]).encode(), sync=True)

    def parts(self) -> dict[tuple[EnvironmentRef, str], stored_pb2.NodeIngress]:
        """Return all readable ingress parts by environment and part; an unreadable file is logged and left in place."""
        records: dict[tuple[EnvironmentRef, str], stored_pb2.NodeIngress] = {}
        for path in sorted((self._folder / "ingress").glob("*.json")):
            try:
                stored = decode(stored_pb2.NodeIngress, str(path), path.read_bytes())
                ref = EnvironmentRef(stored.organization, stored.project, stored.environment)
            except (OSError, ValueError, MalformedRecord) as error:
                _log.warning("a part of an ingress on disk cannot be read", path=str(path), error=str(error))
            else:
                records[ref, stored.part] = stored
        return records

    def save_part(self, ref: EnvironmentRef, part: str, stored: stored_pb2.NodeIngress) -> None:
        """Write an ingress part; it is on disk on return.

        Raises:
            OSError.
        """
        write_file(self._part(ref, part), encode(stored), sync=True)

    def forget_part(self, ref: EnvironmentRef, part: str) -> None:
        """Remove an ingress part."""
        self._part(ref, part).unlink(missing_ok=True)

    def save_status(self, ref: EnvironmentRef, status: bytes) -> None:
        """Write a status, without sync.

        Raises:
            OSError.
        """
        self._write("status", ref, status, sync=False)

    def forget(self, ref: EnvironmentRef) -> None:
        """Remove all files of an environment."""
        for kind in _KINDS:
            self._path(kind, ref).unlink(missing_ok=True)
        for path in (self._folder / "ingress").glob(f"{str(ref).replace('/', _SEPARATOR)}{_SEPARATOR}*.json"):
            path.unlink(missing_ok=True)

    def _part(self, ref: EnvironmentRef, part: str) -> Path:
        """Return the path of an ingress part, by hash: a DNS name can be too long for a file name."""
        short = hashlib.sha256(part.encode()).hexdigest()[:32]
        return self._folder / "ingress" / f"{str(ref).replace('/', _SEPARATOR)}{_SEPARATOR}{short}.json"

    def _path(self, kind: str, ref: EnvironmentRef) -> Path:
        return self._folder / kind / f"{str(ref).replace('/', _SEPARATOR)}.json"

    def _write(self, kind: str, ref: EnvironmentRef, content: bytes, *, sync: bool) -> None:
        write_file(self._path(kind, ref), content, sync=sync)


def write_file(path: Path, content: bytes, *, sync: bool) -> None:
    """Replace the content of a file, readable only for this user; on disk on return if ``sync``.

    Raises:
        OSError.
    """
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
    """Sync a folder, which puts renames in the folder on disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _history_to_json(history: RestartHistory) -> dict[str, Any]:
    """Return a restart history as plain JSON."""
    return {_STORED_NAMES.get(name, name): value for name, value in dataclasses.asdict(history).items()}


def _history_from_json(stored: Mapping[str, Any], now: Now) -> RestartHistory:
    """Return a restart history from JSON.

    Monotonic clocks restart at a reboot, so the backoff is restored from the wall clock, up to the longest backoff.
    """
    names = {_STORED_NAMES.get(field.name, field.name): field.name for field in dataclasses.fields(RestartHistory)}
    values = {names[key]: value for key, value in stored.items() if key in names}
    end = values.get("last_end")
    wait = min(max(0.0, float(values.get("retry_wall", 0.0)) - now.wall), BACKOFF_CAP * (1 + SPREAD))
    values |= {
        "failure": FailureCause(values.get("failure", "")),
        "retry": now.mono + wait,
        "last_end": ContainerExit(**{**end, "log_lines": tuple(end["log_lines"])}) if end else None,
    }
    return RestartHistory(**values)
