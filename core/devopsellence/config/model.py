"""Validated configuration. Cheap to import: environments are resolved to messages on demand."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from devopsellence.config.problems import ConfigError, ConfigFinding
from devopsellence.config.resolved import BuildConfig, RegistryConfig, Resolved
from devopsellence.names import check_name

if TYPE_CHECKING:
    from devopsellence.config.schema import RootSection


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
        from devopsellence.config.resolve import resolve

        check_name("environment", environment)
        if environment not in self._overlaid and self._incomplete:
            raise ConfigError(self._incomplete)
        root = self._overlaid.get(environment, self._base)
        return resolve(root, environment, self.build, self.registry)
