"""Configuration: reading, validating and resolving devopsellence.yml.

``file`` finds and reads the file; ``yaml_parser`` parses YAML into a ``yaml_tree`` with line and column of every value.
``schema``, ``scalars``, ``quantities`` and ``cross_checks`` define the format, ``validate`` applies the definitions,
``overlay`` merges the changes of an environment, ``loading`` combines all steps. ``resolve`` converts an environment to
the protobuf messages of ``resolved``, ``export`` converts messages back to a document, ``render`` writes YAML.
``project`` reads only the names of organization and project. All errors are a ``ConfigError`` with path, line and
column.

No access to etcd, Docker or the terminal may go in here. Importing the package loads neither pydantic nor protobuf, to
keep ``identity`` fast; :func:`load` imports both. ``scalars`` and ``quantities`` are covered by
tests/unit/config/test_schema.py, ``loading`` by test_hostile.py and test_problems.py, ``export`` and ``render`` by
test_resolve.py.
"""

from __future__ import annotations

from devopsellence.config.file import FILE_NAME, find
from devopsellence.config.loading import load, parse
from devopsellence.config.model import Config
from devopsellence.config.problems import ConfigError, ConfigFinding
from devopsellence.config.project import ProjectIdentity, identity
from devopsellence.config.render import to_yaml
from devopsellence.config.resolved import BuildConfig, RegistryConfig, Resolved
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
