"""constraints.txt pins all distributions of an installation with their hashes, and names no index."""

from __future__ import annotations

import re
from importlib import metadata

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.support.project import PROJECT, pyproject

PIN = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]*)==([A-Za-z0-9.!+]+)((?: +--hash=sha256:[0-9a-f]{64})+)\Z")


def lines() -> list[str]:
    """Return the lines of the file, continued ones joined, without comments."""
    text = (PROJECT / "constraints.txt").read_text().replace("\\\n", "")
    return [line for line in text.splitlines() if line and not line.startswith("#")]


def pins() -> dict[str, str]:
    return {canonicalize_name(pin[1]): pin[2] for line in lines() if (pin := PIN.match(line))}


def reached(requirements: list[str]) -> dict[str, str]:
    """Return all distributions required here, with the installed version ("" for a missing one)."""
    found: dict[str, str] = {}
    todo = [(Requirement(text), "") for text in requirements]
    while todo:
        requirement, extra = todo.pop()
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": extra}):
            continue
        name = canonicalize_name(requirement.name)
        seen = name in found
        try:
            distribution = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            found[name] = ""
            continue
        found[name] = distribution.version
        extras = requirement.extras if seen else {*requirement.extras, ""}
        todo += [(Requirement(text), extra) for text in distribution.requires or () for extra in extras]
    return found


def test_constraints_pin_versions_with_hashes_and_name_no_index() -> None:
    assert lines()
    assert [line for line in lines() if not PIN.match(line)] == []


def test_installed_distributions_are_pinned() -> None:
    project = pyproject()["project"]
    installed = reached([*project["dependencies"], *project["optional-dependencies"]["dev"]])
    assert "typing-extensions" in installed, "the requirements of requirements are followed"
    assert {name: version for name, version in installed.items() if pins().get(name) != version} == {}, (
        "constraints.txt and what is installed differ: run 'make setup', or 'make lock' if pyproject.toml has changed"
    )


def test_build_and_optional_etcd_are_pinned() -> None:
    project = pyproject()
    names = [*project["build-system"]["requires"], *project["project"]["optional-dependencies"]["etcd"]]
    assert {canonicalize_name(Requirement(name).name) for name in names} <= pins().keys()
