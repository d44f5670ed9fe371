"""Creation of a container that is this agent's for certain: nonce on disk, container, id on disk.

Cut anywhere, the next listing or the next creation under the same name finds the container by name and nonce.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol

import structlog

from devopsellence.nodeagent.docker import errors, model, names
from devopsellence.nodeagent.docker.interface import ContainerEngine, DockerApi
from devopsellence.nodeagent.docker.model import ForeignContainer
from devopsellence.nodeagent.docker.ownership import MountedVolumes, image_volume
from devopsellence.store.keys import EnvironmentRef

_NO_OWNER: Final = ("", "")
_log = structlog.get_logger()


class CallRunner(Protocol):
    """Function that runs a call to the engine. ``about``: id of the container that the call is about."""

    async def __call__(self, call: Callable[[DockerApi], Any], /, *, about: str = "") -> Any: ...


@dataclass(frozen=True, slots=True)
class CreatedContainer:
    """A container that now exists. ``existing``: the container, if an earlier call had created it, as asked for at the
    stamp ``asked`` of the cache."""

    id: str
    name: str
    existing: model.Container | None = None
    asked: int | None = None


async def create_container(
    engine: ContainerEngine,
    name: str,
    body: Callable[[], Mapping[str, Any]],
    owner: tuple[str, str] = _NO_OWNER,
    call: CallRunner | None = None,
) -> CreatedContainer:
    """Create a container named ``name``, or by an alternative name if somebody else's container has that.

    ``body`` returns the body of the request, on the thread of the call. ``owner``: environment and service, for
    messages about a taken name. ``call``: as ``engine.call``, the default.

    Raises:
        NamesInUse: others have all names.
        NotFound: a container that had a name is gone; the next attempt gets the name.
        LedgerNotWritten, ContainerHung (it has a name), and the errors of :meth:`DockerApi.create`.
    """
    for candidate in names.alternatives(name):
        if (created := await _create(engine, candidate, body, owner, call or engine.call)) is not None:
            return created
    raise errors.NamesInUse(
        f"containers that the agent has not created have taken its names {', '.join(names.alternatives(name))}; "
        f"rename or remove them (docker rename {name} {name}-other)"
    )


async def mounted_volumes(
    engine: ContainerEngine,
    ref: EnvironmentRef,
    service: tuple[str, str, str],
    configured: Mapping[str, str],
    call: CallRunner | None = None,
) -> MountedVolumes:
    """Return the volumes for a container: ``configured`` ones, and those that its image declares at other paths.

    ``service``: uid of the node, name of the service, image. ``configured``: names by path. The volumes are on disk
    with the nonce of the container.

    Raises:
        ImageNotAvailable, and the other errors of the engine.
    """
    node_uid, name, image = service
    targets = await (call or engine.call)(lambda docker: docker.images.volumes(image))
    missing = (target for target in targets if target not in configured)
    declared = engine.owned.use_volumes(image_volume(node_uid, ref, name, target) for target in missing)
    return MountedVolumes({path: engine.owned.volume_name(own) for path, own in configured.items()}, declared)


async def _create(
    engine: ContainerEngine, name: str, body: Callable[[], Mapping[str, Any]], owner: tuple[str, str], call: CallRunner
) -> CreatedContainer | None:
    """Create a container; return None if somebody else's container has the name."""
    nonce = await engine.owned.nonce(name)
    try:
        container = str(await call(lambda docker: docker.create(name, _with_nonce(body(), nonce))))
    except errors.Conflict:
        asked, known = engine.cache.stamp(), _holder(engine, name)
        holder = await call(lambda docker: docker.inspect_any(known or name), about=known)
    else:
        engine.owned.created(nonce, container)
        return CreatedContainer(container, name)
    if (own := await engine.admit(holder)) is not None:
        return CreatedContainer(own.id, own.name, own, asked)
    environment, service = owner
    engine.cache.put_foreign(ForeignContainer(holder.id, holder.name, environment, service, takes_name=True))
    _log.warning("a container of somebody else has taken a name", name=name, container=holder.id)
    return None


def _holder(engine: ContainerEngine, name: str) -> str:
    """Return the id of the container with this name, as far as is known; empty if it is not."""
    own = ((container.name, container.id) for container in engine.cache.containers.values())
    foreign = ((container.name, container.id) for container in engine.cache.foreign.values())
    return dict((*own, *foreign)).get(name, "")


def _with_nonce(body: Mapping[str, Any], nonce: str) -> dict[str, Any]:
    return {**body, "Labels": {**body["Labels"], names.LABEL_NONCE: nonce}}
