"""State folder of the agent: everything needed to go on without etcd, also directly after a reboot.

``assignments/`` has the last assignment of each environment, ``memory/`` the restart histories, ``status/`` the last
reported status (for people, while etcd is away), ``tasks/`` the records of release tasks, ``ingress/`` the ingress
parts, ``logs/`` the output of removed containers (``log_archive``). There is a file per environment, in ``ingress/``
per environment and part. ``containers.json`` has the containers that the agent has created (``docker.ledger``),
``access.json`` the addresses of the gateways (``access``), and ``audit.jsonl`` calls of the API that no gateway has
stored yet (``audit``).
Assignments can contain confidential values, so only the agent's user can read the folder. Secrets are encrypted; the
identity to decrypt them is in ``identity``. How files are read and written is in ``state_files``.
"""

from __future__ import annotations

import dataclasses
import errno
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
from devopsellence.nodeagent.docker.model import ContainerExit, UnhealthyContainer
from devopsellence.nodeagent.plan.actions import RestartHistories
from devopsellence.nodeagent.plan.history import BACKOFF_CAP, SPREAD, FailureCause, RestartHistory
from devopsellence.nodeagent.plan.task_run import TaskRun, task_run_from_json, task_run_to_json
from devopsellence.nodeagent.state_files import StateFiles, set_aside
from devopsellence.store.codec import decode, encode
from devopsellence.store.errors import MalformedRecord
from devopsellence.store.keys import EnvironmentRef

_TASKS: Final = "tasks"
_ACCESS: Final = "access.json"
_AUDIT: Final = "audit.jsonl"
_KINDS: Final = ("assignments", "memory", "status", _TASKS, "ingress")
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
        self.files = StateFiles(folder)
        #: Why an assignment on disk could not be read, by environment.
        self.unreadable_assignments: dict[EnvironmentRef, str] = {}
        #: Environments with an ingress part on disk that could not be read.
        self.unreadable_parts: set[EnvironmentRef] = set()
        self._folder = folder
        self._lock: IO[str] | None = None
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._lock = _open_lock(folder / "lock")
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self.files.make_folder(folder)
            for kind in _KINDS:
                self._make(folder / kind)
        except BlockingIOError as error:
            self.close()
            raise StateError(
                f"another agent already runs with the state folder {folder}; stop it, or give another --state-dir"
            ) from error
        except OSError as error:
            self.close()
            raise StateError(
                f"the state folder {folder} cannot be used: {error.filename}: {error.strerror}; "
                "give a folder that this user can write with --state-dir"
            ) from error

    @property
    def logs(self) -> Path:
        """Folder for the output of removed containers (``log_archive``)."""
        return self._folder / "logs"

    def _make(self, folder: Path) -> None:
        """Create a folder. What is in place of the records of release tasks is left there: they cannot be made again,
        and no task runs before somebody has looked (:meth:`task_runs`)."""
        if folder.name != _TASKS or folder.is_dir() or not os.path.lexists(folder):
            self.files.make_folder(folder)

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
        """Return all readable assignments; an unreadable file is logged and left in place, see
        :attr:`unreadable_assignments`."""
        records: dict[EnvironmentRef, stored_pb2.Assignment] = {}
        for path in sorted((self._folder / "assignments").glob("*.json")):
            try:
                ref = EnvironmentRef.parse(path.stem.replace(_SEPARATOR, "/"))
            except ValueError as error:
                _log.warning("a file among the assignments names no environment", path=str(path), error=str(error))
                continue
            try:
                content = self.files.read(path)
                records[ref] = decode(stored_pb2.Assignment, str(path), content)
            except (OSError, ValueError, MalformedRecord) as error:
                _log.warning("an assignment on disk cannot be read", path=str(path), error=str(error))
                self.unreadable_assignments[ref] = f"the assignment on disk cannot be read: {error}"
            else:
                self.files.adopt(path, content)
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
            content = self.files.read(path)
            stored = {
                (entry["service"], entry["hash"]): _history_from_json(entry["memory"], now)
                for entry in json.loads(content)
            }
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, KeyError, TypeError) as error:
            _log.warning("the restart histories on disk cannot be read", path=str(path), error=str(error))
            return {}
        self.files.adopt(path, content)
        return stored

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
            content = self.files.read(path)
            runs = tuple(task_run_from_json(load) for load in json.loads(content))
        except FileNotFoundError:
            return ()
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise StateError(
                f"the record of release tasks {path} cannot be read, so whether this one has run is not known; "
                f"once you have made sure that it has not, remove the file and restart the agent ({error})"
            ) from error
        self.files.adopt(path, content)
        return runs

    def save_task_runs(self, ref: EnvironmentRef, runs: Sequence[TaskRun]) -> None:
        """Write the records of release tasks; they are on disk on return.

        Raises:
            OSError: nothing is written later either: the caller does not do what the record says.
        """
        content = json.dumps([task_run_to_json(run) for run in runs]).encode()
        self.files.write(self._path(_TASKS, ref), content, sync=True, keep_trying=False)

    def parts(self) -> dict[tuple[EnvironmentRef, str], stored_pb2.NodeIngress]:
        """Return all readable ingress parts by environment and part; an unreadable file is logged and left in place."""
        records: dict[tuple[EnvironmentRef, str], stored_pb2.NodeIngress] = {}
        for path in sorted((self._folder / "ingress").glob("*.json")):
            ref = _ref_of_part(path)
            try:
                content = self.files.read(path)
                stored = decode(stored_pb2.NodeIngress, str(path), content)
                ref = EnvironmentRef(stored.organization, stored.project, stored.environment)
            except (OSError, ValueError, MalformedRecord) as error:
                _log.warning("a part of an ingress on disk cannot be read", path=str(path), error=str(error))
                if ref is not None:
                    self.unreadable_parts.add(ref)
            else:
                self.files.adopt(path, content)
                records[ref, stored.part] = stored
        return records

    def save_part(self, ref: EnvironmentRef, part: str, stored: stored_pb2.NodeIngress) -> None:
        """Write an ingress part; it is on disk on return.

        Raises:
            OSError.
        """
        self.files.write(self._part(ref, part), encode(stored), sync=True)

    def forget_part(self, ref: EnvironmentRef, part: str) -> None:
        """Remove an ingress part."""
        self.files.remove(self._part(ref, part))

    def access(self) -> stored_pb2.AccessCopy | None:
        """Return the access data; None if there is none. An unreadable file is logged and left in place."""
        path = self._folder / _ACCESS
        try:
            content = self.files.read(path)
            copy = decode(stored_pb2.AccessCopy, str(path), content)
        except FileNotFoundError:
            return None
        except (OSError, MalformedRecord) as error:
            _log.warning("the access data on disk cannot be read", path=str(path), error=str(error))
            return None
        self.files.adopt(path, content)
        return copy

    def save_access(self, copy: stored_pb2.AccessCopy, *, sync: bool) -> None:
        """Write the access data.

        Raises:
            OSError.
        """
        self.files.write(self._folder / _ACCESS, encode(copy), sync=sync)

    def audit(self) -> bytes:
        """Return the calls that no gateway has stored yet; empty if there are none or the file cannot be read."""
        path = self._folder / _AUDIT
        try:
            content = self.files.read(path)
        except FileNotFoundError:
            return b""
        except OSError as error:
            _log.warning("the calls of the API on disk cannot be read", path=str(path), error=str(error))
            return b""
        self.files.adopt(path, content)
        return content

    def save_audit(self, content: bytes) -> None:
        """Write the calls that no gateway has stored yet; they are on disk on return.

        Raises:
            OSError.
        """
        self.files.write(self._folder / _AUDIT, content, sync=True)

    def save_status(self, ref: EnvironmentRef, status: bytes) -> None:
        """Write a status, without sync.

        Raises:
            OSError.
        """
        self._write("status", ref, status, sync=False)

    def forget(self, ref: EnvironmentRef) -> None:
        """Remove all files of an environment."""
        for kind in _KINDS:
            self.files.remove(self._path(kind, ref))
        for path in (self._folder / "ingress").glob(f"{str(ref).replace('/', _SEPARATOR)}{_SEPARATOR}*.json"):
            self.files.remove(path)

    def _part(self, ref: EnvironmentRef, part: str) -> Path:
        """Return the path of an ingress part, by hash: a DNS name can be too long for a file name."""
        short = hashlib.sha256(part.encode()).hexdigest()[:32]
        return self._folder / "ingress" / f"{str(ref).replace('/', _SEPARATOR)}{_SEPARATOR}{short}.json"

    def _path(self, kind: str, ref: EnvironmentRef) -> Path:
        return self._folder / kind / f"{str(ref).replace('/', _SEPARATOR)}.json"

    def _write(self, kind: str, ref: EnvironmentRef, content: bytes, *, sync: bool) -> None:
        self.files.write(self._path(kind, ref), content, sync=sync)


def _ref_of_part(path: Path) -> EnvironmentRef | None:
    """Return the environment of the file of an ingress part; None if the name is that of no such file."""
    try:
        return EnvironmentRef.parse(path.stem.rpartition(_SEPARATOR)[0].replace(_SEPARATOR, "/"))
    except ValueError:
        return None


def _open_lock(path: Path) -> IO[str]:
    """Open the lock, also on a read-only disk; what is no file is set aside.

    Raises:
        OSError.
    """
    if os.path.lexists(path) and not path.is_file():
        set_aside(path)
    try:
        return path.open("a")
    except OSError as error:
        if error.errno != errno.EROFS:
            raise
    return path.open("r")


def _history_to_json(history: RestartHistory) -> dict[str, Any]:
    """Return a restart history as plain JSON."""
    return {_STORED_NAMES.get(name, name): value for name, value in dataclasses.asdict(history).items()}


def _history_from_json(stored: Mapping[str, Any], now: Now) -> RestartHistory:
    """Return a restart history from JSON.

    Monotonic clocks restart at a reboot, so the backoff is restored from the wall clock, up to the longest backoff.
    """
    names = {_STORED_NAMES.get(field.name, field.name): field.name for field in dataclasses.fields(RestartHistory)}
    values = {names[key]: value for key, value in stored.items() if key in names}
    end, unhealthy = values.get("last_end"), values.get("last_unhealthy")
    wait = min(max(0.0, float(values.get("retry_wall", 0.0)) - now.wall), BACKOFF_CAP * (1 + SPREAD))
    values |= {
        "failure": FailureCause(values.get("failure", "")),
        "retry": now.mono + wait,
        "last_end": ContainerExit(**{**end, "log_lines": tuple(end["log_lines"])}) if end else None,
        "last_unhealthy": UnhealthyContainer(**{**unhealthy, "log_lines": tuple(unhealthy["log_lines"])})
        if unhealthy
        else None,
    }
    return RestartHistory(**values)
