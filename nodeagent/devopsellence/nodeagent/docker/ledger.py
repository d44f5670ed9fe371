"""Ledger of the containers that this agent has created: on disk before each creation (see ``docker.ownership``).

Also of the volumes that exist because an image declares them (``VOLUME``), which go with their services. A volume that
is lost from the ledger stays.
"""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any, Final, Self, TypeAlias

import structlog

from devopsellence.nodeagent.docker import errors
from devopsellence.nodeagent.docker.model import Container, ImageVolume
from devopsellence.nodeagent.docker.ownership import OwnedContainer, adopted_entry, adopted_volumes, with_volumes
from devopsellence.nodeagent.state_files import StateFiles
from devopsellence.nodeagent.util.threads import ThreadPool

_NONCE_BYTES: Final = 16
_State: TypeAlias = tuple[tuple[OwnedContainer, ...], tuple[ImageVolume, ...], tuple[tuple[str, str], ...]]
_Content: TypeAlias = tuple[list[OwnedContainer], tuple[ImageVolume, ...], dict[str, str]]
_log = structlog.get_logger()


class ContainerLedger:
    """Entries of this agent's containers. Lives on the event loop; call :meth:`load` first.

    ``disk``: thread of ``files``; None for a ledger in memory, never written.
    """

    def __init__(self, path: Path, disk: ThreadPool | None, files: StateFiles) -> None:
        self._path = path
        self._disk = disk
        self._files = files
        self._entries: list[OwnedContainer] = []
        self._ids: dict[str, OwnedContainer] = {}
        #: Ids of removed containers, whose entries only keep others from taking their names.
        self._gone: set[str] = set()
        self._volumes: tuple[ImageVolume, ...] = ()
        #: Names of volumes used in place of configured ones, by the configured name.
        self._stand_ins: dict[str, str] = {}
        self._saved: _State = ((), (), ())
        self._saving: asyncio.Task[None] | None = None

    @classmethod
    def in_memory(cls) -> Self:
        """Return a ledger that is never written."""
        return cls(Path(), None, StateFiles(Path()))

    async def load(self) -> None:
        """Load the entries from disk. Without a readable file, existing containers are adopted by name and labels."""
        if self._disk is None:
            return
        try:
            entries, self._volumes, self._stand_ins = await self._disk.run(self._read)
        except FileNotFoundError:
            return
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            _log.warning(
                "the ledger of containers cannot be read; containers are adopted by name and labels",
                path=str(self._path),
                error=str(error),
            )
            return
        self._replace(entries)
        self._saved = self._state

    def knows(self, container: str) -> bool:
        """Return True for the id of a container of this agent."""
        return container in self._ids

    async def nonce(self, name: str) -> str:
        """Return the nonce for a container about to be created under this name; on disk on return.

        The nonce of a creation that was cut off is used again, because the engine may still carry it out.

        Raises:
            LedgerNotWritten.
        """
        pending = next((entry for entry in self._entries if entry.name == name and not entry.id), None)
        if pending is None:
            pending = OwnedContainer(name, secrets.token_hex(_NONCE_BYTES))
            self._replace(
                [*(entry for entry in self._entries if entry.name != name or entry.id not in self._gone), pending]
            )
        try:
            await self._save()
        except OSError as error:
            problem = self._files.problem or f"{self._path} cannot be written: {error.strerror or error}"
            raise errors.LedgerNotWritten(problem) from error
        return pending.nonce

    def created(self, nonce: str, container: str) -> None:
        """Note the id of a container created with this nonce."""
        entries = [
            replace(entry, id=container) if entry.nonce == nonce and not entry.id else entry for entry in self._entries
        ]
        self._change(entries)

    def admit(self, containers: Iterable[Container], image_labels: Mapping[str, Mapping[str, str]]) -> set[str]:
        """Return the ids of those of these containers that are this agent's, adopting those without an entry.

        ``image_labels``: by image id, for containers not known yet.
        """
        admitted = set()
        # The newest running one last: it has the data of its service.
        for container in sorted(containers, key=lambda container: (container.up, container.release)):
            if container.id not in self._ids:
                entry = adopted_entry(container, image_labels.get(container.image_id), self._entries)
                if entry is None:
                    continue
                _log.info("container adopted", name=container.name, container=container.id)
                pending = [known for known in self._entries if not (known.name == entry.name and not known.id)]
                self._volumes = with_volumes(self._volumes, adopted_volumes(container))
                self._change([*pending, entry])
            admitted.add(container.id)
        return admitted

    def gone(self, container: str) -> None:
        """Note that a container was removed, by anybody."""
        if container in self._ids:
            self._gone.add(container)

    def forget(self, container: str) -> None:
        """Forget a container that the agent has removed."""
        if container in self._ids:
            self._change([entry for entry in self._entries if entry.id != container])

    @property
    def ids(self) -> frozenset[str]:
        """Ids of this agent's containers, including some that are removed."""
        return frozenset(self._ids)

    def prune(self, existing: Iterable[str], names: Iterable[str]) -> None:
        """Forget the containers that do not exist, unless somebody else's container has the name.

        ``existing``: those of :attr:`ids` that exist. ``names``: of all containers with the agent's labels.
        """
        ids, taken = frozenset(existing), frozenset(names)
        self._change([entry for entry in self._entries if not entry.id or entry.id in ids or entry.name in taken])

    def image_volumes(self, environment: str) -> tuple[ImageVolume, ...]:
        """Return the volumes of an environment that its images declare."""
        return tuple(volume for volume in self._volumes if volume.environment == environment)

    def use_volumes(self, volumes: Iterable[ImageVolume]) -> dict[str, str]:
        """Note volumes that a container about to be created gets; return their names by path.

        A path has the name that it had before. :meth:`nonce` writes the change to disk.
        """
        used = {}
        for volume in volumes:
            place = (volume.environment, volume.service, volume.target)
            known = [old.name for old in self._volumes if old.place == place]
            if not known:
                # It may have been configured meanwhile.
                known = [self._stand_ins.pop(volume.name, volume.name)]
                self._volumes = (*self._volumes, replace(volume, name=known[0]))
            used[volume.target] = known[-1]
        return used

    def volume_name(self, name: str) -> str:
        """Return the name of the volume to use for a configured one: that of its stand-in, if it has one."""
        return self._stand_ins.get(name, name)

    def keep_volumes(self, configured: Iterable[ImageVolume], suggested: Iterable[ImageVolume]) -> None:
        """Keep volumes that are configured by now after their services.

        ``suggested``: configured under the name that a volume of the image has at the path. If the image's volume there
        has another name, as an anonymous one of version 0.1 has, it stands in for the configured volume.
        """
        if not self._volumes:
            return
        names = {volume.name for volume in configured}
        by_place = {volume.place: volume.name for volume in suggested}
        stand_ins = {by_place[volume.place]: volume.name for volume in self._volumes if volume.place in by_place}
        self._stand_ins |= {name: used for name, used in stand_ins.items() if name != used}
        self.drop_volumes({*names, *stand_ins.values()})

    def drop_volumes(self, names: Collection[str]) -> None:
        """Forget volumes: they are removed, or stay."""
        self._volumes = tuple(volume for volume in self._volumes if volume.name not in names)
        self._save_later()

    async def flush(self) -> None:
        """Write all changes; a failure is logged."""
        if self._saving is not None:
            await self._saving

    @property
    def _state(self) -> _State:
        return tuple(self._entries), self._volumes, tuple(sorted(self._stand_ins.items()))

    def _read(self) -> _Content:
        """Read the file on the thread of the disk. OSError, or an error of :func:`_parsed`."""
        content = self._files.read(self._path)
        parsed = _parsed(content)
        self._files.adopt(self._path, content)
        return parsed

    def _change(self, entries: list[OwnedContainer]) -> None:
        """Replace the entries, in memory at once and on disk soon: what is lost is found by name and nonce."""
        self._replace(entries)
        self._save_later()

    def _save_later(self) -> None:
        if self._disk is not None and self._state != self._saved and self._saving is None:
            self._saving = asyncio.create_task(self._save_soon())

    def _replace(self, entries: list[OwnedContainer]) -> None:
        self._entries = entries
        self._ids = {entry.id: entry for entry in entries if entry.id}
        self._gone &= self._ids.keys()

    async def _save_soon(self) -> None:
        try:
            await self._save()
        except OSError as error:
            _log.warning("the ledger of containers cannot be written", path=str(self._path), error=str(error))
        finally:
            self._saving = None

    async def _save(self) -> None:
        while (state := self._state) != self._saved:
            if self._disk is None:
                return
            content = json.dumps(_document(state), indent=1).encode()
            # A write that fails is repeated by ``state_keeper``.
            await self._disk.run(partial(self._files.write, self._path, content, sync=True))
            self._saved = state


def _document(state: _State) -> dict[str, Any]:
    entries, volumes, stand_ins = state
    return {
        "containers": [asdict(entry) for entry in entries],
        "image_volumes": [asdict(volume) for volume in volumes],
        "stand_ins": [{"name": name, "used": used} for name, used in stand_ins],
    }


def _parsed(content: bytes) -> _Content:
    """Return entries, volumes and stand-ins. ValueError, KeyError, TypeError or AttributeError if it is no ledger."""
    stored = json.loads(content)
    return (
        [_entry(entry) for entry in stored["containers"]],
        tuple(_volume(volume) for volume in stored.get("image_volumes", ())),
        {str(volume["name"]): str(volume["used"]) for volume in stored.get("stand_ins", ())},
    )


def _entry(stored: Mapping[str, object]) -> OwnedContainer:
    return OwnedContainer(str(stored["name"]), str(stored["nonce"]), str(stored["id"]))


def _volume(stored: Mapping[str, object]) -> ImageVolume:
    return ImageVolume(*(str(stored[field]) for field in ("name", "environment", "service", "target")))
