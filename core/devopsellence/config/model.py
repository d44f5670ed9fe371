"""A validated configuration, and what an environment makes of it. Cheap to import; messages are built on demand."""

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
    """How the app image is built. ``context`` is absolute; ``dockerfile`` is relative to it (as in Compose)."""

    context: Path
    dockerfile: str
    platforms: list[str]


@dataclass(frozen=True)
class RegistryConfig:
    """Where the app image is pushed and pulled from; ``username`` and ``password_secret`` are set both or neither."""

    repository: str
    username: str
    password_secret: str


@dataclass(frozen=True)
class Resolved:
    """What an environment runs: defaults filled in, its overlay merged, images not yet pinned.

    ``services`` are sorted by name; ``image.reference`` is empty and ``image.app`` true where the app image is used.
    ``release_task`` is the task named ``release``; ``tasks`` are the others, sorted by name.
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
        """A document in the file's own field names with every default filled in; it loads to the same again."""
        from devopsellence.config.export import document

        return document(self)


@dataclass(frozen=True)
class Config:
    """A whole file, validated with every environment that it names."""

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
    # What an environment without an overlay would lack; only ever about ingress.
    _incomplete: tuple[ConfigFinding, ...] = field(default=(), repr=False)

    def resolve(self, environment: str) -> Resolved:
        """What ``environment`` runs; one without an overlay runs the file as it stands.

        Raises:
            InvalidName: no environment can be called so.
            ConfigError: it has no overlay, and the file leaves the ingress's hosts or rules to the overlays.
        """
        from devopsellence.config.resolve import resolved

        check_name("environment", environment)
        if environment not in self._overlaid and self._incomplete:
            raise ConfigError(self._incomplete)
        return resolved(self, environment, self._overlaid.get(environment, self._base))
