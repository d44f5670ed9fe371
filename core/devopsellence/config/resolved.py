"""Resolved environment: plain data, with messages of the API. Cheap to import: no protobuf."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from devopsellence.api.v1 import workload_pb2


@dataclass(frozen=True)
class BuildConfig:
    """Build of the app image. ``context`` is absolute; ``dockerfile`` is relative to the context (as in Compose)."""

    context: Path
    dockerfile: str
    platforms: list[str]


@dataclass(frozen=True)
class RegistryConfig:
    """Registry of the app image; ``username`` and ``password_secret`` are both set or both empty."""

    repository: str
    username: str
    password_secret: str


@dataclass(frozen=True)
class RegistryLoginConfig:
    """Login to the registry ``host``, as in image names."""

    host: str
    username: str
    password_secret: str


@dataclass(frozen=True)
class Resolved:
    """Resolved environment: defaults filled in, overlay merged, images not yet pinned.

    ``services`` are sorted by name; ``image.reference`` is empty and ``image.app`` true for the app image.
    ``release_task`` is the task named ``release``; ``tasks`` are all further tasks, sorted by name.
    """

    organization: str
    project: str
    environment: str
    services: tuple[workload_pb2.Service, ...]
    release_task: workload_pb2.Task | None
    tasks: tuple[workload_pb2.Task, ...]
    ingress: workload_pb2.Ingress | None
    rollout: workload_pb2.RolloutPolicy
    build: BuildConfig
    registry: RegistryConfig | None
    # Sorted by host.
    registries: tuple[RegistryLoginConfig, ...] = ()
