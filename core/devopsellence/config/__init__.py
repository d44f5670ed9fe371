"""devopsellence.yml: from the file to what an environment runs.

``source`` finds and reads the file; ``compose`` and ``nodes`` turn it into a tree that knows its places. ``scalars``,
``quantities``, ``schema`` and ``rules`` say what the format is, ``check`` applies them, ``overlay`` lays an environment
over the document. ``resolve`` turns the result into messages, ``document`` turns them back, ``render``
writes YAML. Every error names its path, line and column.

Nothing here reaches etcd, Docker or the terminal. Importing the package loads neither pydantic nor protobuf, so that
``identity`` is quick; :func:`load` does.
"""

from __future__ import annotations

from devopsellence.config.file import FILE_NAME, find
from devopsellence.config.loading import load, parse
from devopsellence.config.model import BuildConfig, Config, RegistryConfig, Resolved
from devopsellence.config.problems import ConfigError, ConfigFinding
from devopsellence.config.project import ProjectIdentity, identity
from devopsellence.config.render import to_yaml
from devopsellence.names import InvalidName, check_name

__all__ = [
    "FILE_NAME",
    "BuildConfig",
    "Config",
    "ConfigError",
    "ConfigFinding",
    "InvalidName",
    "ProjectIdentity",
    "RegistryConfig",
    "Resolved",
    "check_name",
    "find",
    "identity",
    "load",
    "parse",
    "to_yaml",
]
