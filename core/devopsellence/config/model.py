"""Validated configuration, and a resolved environment. Cheap to import: messages are built on demand."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from devopsellence.config.problems import ConfigError, ConfigFinding
from devopsellence.names import check_name

if TYPE_CHECKING:
    from devopsellence.api.v1 import workload_pb2
    from devopsellence.config.schema import RootSection


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

    def as_document(self) -> dict[str, Any]:
        """Return a document in the field names of the file with all defaults; loading gives the same result."""
        from devopsellence.config.export import document

        return document(self)


@dataclass(frozen=True)
class Config:
    """Validated configuration file with all environments."""

    organization: str
    project: str
    default_environment: str
    build: BuildConfig
    registry: RegistryConfig | None
    # The names under `environments`, in the order of the file.
    environments: tuple[str, ...]
    # Absolute.
    path: Path
    _base: RootSection = field(repr=False)
    _overlaid: Mapping[str, RootSection] = field(repr=False)
    # Findings of an environment without an overlay; only about ingress.
    _incomplete: tuple[ConfigFinding, ...] = field(default=(), repr=False)

    def resolve(self, environment: str) -> Resolved:
        """Resolve ``environment``; without an overlay, the file applies unchanged.

        Raises:
            InvalidName: ``environment`` is not a valid name.
            ConfigError: no overlay, but the file leaves hosts or rules of the ingress to overlays.
        """
        from devopsellence.config.resolve import resolved

        check_name("environment", environment)
        if environment not in self._overlaid and self._incomplete:
            raise ConfigError(self._incomplete)
        return resolved(self, environment, self._overlaid.get(environment, self._base))
