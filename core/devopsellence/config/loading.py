"""Loading and validation of devopsellence.yml with all environments, reporting all problems at once."""

from __future__ import annotations

import os
from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from devopsellence.config import yaml_parser
from devopsellence.config.file import read_file
from devopsellence.config.model import Config
from devopsellence.config.problems import MAX_PROBLEMS, ConfigError, ConfigFinding, ConfigProblem, dotted, in_order
from devopsellence.config.resolved import BuildConfig, RegistryConfig
from devopsellence.config.yaml_tree import MapEntry, MapNode, Node, Scalar, locate, plain

if TYPE_CHECKING:
    from devopsellence.config.schema import RootSection


def load(path: Path) -> Config:
    """Load the configuration from ``path``.

    Raises:
        ConfigError: the file cannot be read, is not YAML, or is invalid; with all problems, in the order of the file.
    """
    return parse(read_file(path), path)


def parse(text: str, path: Path) -> Config:
    """Parse ``text`` as :func:`load` does; ``path`` is the path of the file to be written."""
    file = str(path)
    document, problems = yaml_parser.parse(file, text)
    collector = _FindingCollector(file)
    collector.add(document, problems)
    base = _check_base(document)
    collector.add(document, [problem for problem in base.problems if problem not in base.withheld])
    overlaid = _check_overlays(document, base, collector)
    if collector.findings or base.root is None:
        raise ConfigError(in_order(collector.findings))
    return _config(path, base, overlaid, document)


class _Base:
    """Validated document without overlays."""

    def __init__(
        self,
        root: RootSection | None,
        problems: list[ConfigProblem],
        default: object,
        environments: dict[str, MapEntry],
    ) -> None:
        self.root = root
        self.problems = problems
        self.known = {(problem.path, problem.fact) for problem in problems}
        self.environments = environments
        # If the default environment has an overlay, the base may omit hosts and rules of the ingress.
        parts = (("ingress", "hosts"), ("ingress", "rules"))
        omitted = [problem for problem in problems if problem.path in parts and problem.fact == "is required"]
        self.withheld = omitted if isinstance(default, str) and default in environments else []


class _FindingCollector:
    """Collector of the findings of one file."""

    def __init__(self, file: str) -> None:
        self.file = file
        self.findings: list[ConfigFinding] = []

    def add(self, root: Node, problems: Iterable[ConfigProblem]) -> None:
        for problem in problems:
            mark = problem.mark or locate(root, problem.path, on_key=problem.on_key)[0]
            self._append(problem.path, dotted(problem.path), problem, mark.line, mark.column)

    def add_overlaid(self, name: str, overlay: MapEntry, base: _Base, problems: Iterable[ConfigProblem]) -> None:
        """Add problems of the document with an overlay, except problems of the base itself."""
        for problem in problems:
            mark, own = locate(overlay.value, problem.path, on_key=problem.on_key, start=overlay.mark)
            if not own and (problem.path, problem.fact) in base.known and problem not in base.withheld:
                continue
            where = f"{dotted(('environments', name))}: {dotted(problem.path)}"
            self._append(("environments", name, *problem.path), where, problem, mark.line, mark.column)

    def _append(self, path: tuple[str | int, ...], where: str, problem: ConfigProblem, line: int, column: int) -> None:
        message = f"{where} {problem.fact}".lstrip()
        self.findings.append(ConfigFinding(dotted(path), message, self.file, line, column))


def _check_base(document: Node) -> _Base:
    from devopsellence.config.validate import check

    values = plain(document)
    root, problems = check(values)
    entry = document.entries.get("environments") if isinstance(document, MapNode) else None
    environments = entry.value.entries if entry and isinstance(entry.value, MapNode) else {}
    default = values.get("default_environment", "production") if isinstance(values, dict) else None
    return _Base(root, problems, default, environments)


def _check_overlays(document: Node, base: _Base, collector: _FindingCollector) -> dict[str, RootSection]:
    """Validate the document of every environment; return the valid ones, add problems to ``collector``."""
    from devopsellence.config.overlay import apply_overlay, unknown_entries
    from devopsellence.config.schema import MAX_ENVIRONMENTS
    from devopsellence.config.validate import check

    result: dict[str, RootSection] = {}
    # Each is a validation of the whole document; that there are too many is a problem of the base.
    for name, entry in islice(base.environments.items(), MAX_ENVIRONMENTS):
        overlay = entry.value
        if isinstance(overlay, Scalar) and overlay.value is None:
            overlay = MapNode(entry.mark, {})
        if (
            not isinstance(overlay, MapNode)
            or not isinstance(document, MapNode)
            or len(collector.findings) > MAX_PROBLEMS
        ):
            continue
        collector.add(document, unknown_entries(overlay, document, ("environments", name)))
        root, problems = check(plain(apply_overlay(document, overlay)))
        collector.add_overlaid(name, MapEntry(entry.mark, overlay), base, problems)
        if root is not None:
            result[name] = root
    return result


def _config(path: Path, base: _Base, overlaid: dict[str, RootSection], document: Node) -> Config:
    root = base.root
    assert root is not None  # noqa: S101 checked by the caller; for the type checker
    # Not Path.resolve(), which follows symbolic links: the docker CLI does not.
    absolute = Path(os.path.abspath(path))  # noqa: PTH100
    build = BuildConfig(
        Path(os.path.abspath(absolute.parent / root.build.context)),  # noqa: PTH100
        root.build.dockerfile,
        list(root.build.platforms),
    )
    registry = root.registry
    incomplete = _FindingCollector(str(path))
    incomplete.add(document, base.withheld)
    return Config(
        organization=root.organization,
        project=root.project,
        default_environment=root.default_environment,
        build=build,
        registry=RegistryConfig(registry.repository, registry.username, registry.password_secret) if registry else None,
        environments=tuple(overlaid),
        path=absolute,
        _base=root,
        _overlaid=overlaid,
        _incomplete=tuple(in_order(incomplete.findings)),
    )
