"""A prefix of etcd mirrored to disk: the common base of assignments and ingress parts.

The copy on disk is in use while etcd cannot be read, also directly after a restart of the agent. "Cannot be read" is
not "empty": only a valid record meant for this node replaces or ends the copy.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

import structlog
from google.protobuf.message import Message

from devopsellence.nodeagent.state import StateFolder
from devopsellence.nodeagent.util.threads import ThreadPool
from devopsellence.store.etcd import Etcd
from devopsellence.store.informer import Informer
from devopsellence.store.keys import EnvironmentRef

M = TypeVar("M", bound=Message)
_log = structlog.get_logger()


@dataclass(frozen=True)
class NodeContext:
    """Identity of this node, with the places where its agent reads and keeps state."""

    etcd: Etcd
    node: str
    node_uid: str
    folder: StateFolder
    #: One thread: writes reach the disk in order.
    disk: ThreadPool


class EtcdMirror(Generic[M]):
    """Base: an informer on one prefix, and a folder for the last valid records.

    ``changed(ref)`` is called on the event loop when an environment has to be reconciled again. Subclasses implement
    ``_on_key``, called on the event loop with every key whose record changed.
    """

    def __init__(
        self, context: NodeContext, prefix: str, message: type[M], changed: Callable[[EnvironmentRef], None]
    ) -> None:
        self._context = context
        self._keys = context.etcd.keys
        self._changed = changed
        self._informer: Informer[M] = Informer(context.etcd, prefix, message, self._on_key)

    @property
    def problem(self) -> str:
        """Reason why etcd cannot be read at the moment; empty while the informer is up to date."""
        return self._informer.problem

    def _on_key(self, key: str) -> None:
        raise NotImplementedError

    async def _try_save(self, write: Callable[[], None], failure: str, **details: str) -> str:
        """Run ``write`` on the disk thread; return why it failed, empty if it has not. An OSError is logged as
        ``failure``.

        A full disk must not stop the work at hand, so the error ends here; ``state_keeper`` repeats the write.
        """
        try:
            await self._context.disk.run(write)
        except OSError as error:
            _log.error(failure, **details, error=str(error))
            return self._context.folder.files.problem or str(error)
        return ""
