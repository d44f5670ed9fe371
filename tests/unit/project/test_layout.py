"""What holds the folders, the packaging and the commands together. These read the project's own files."""

from __future__ import annotations

import ast
import os
import re
from collections.abc import Iterable
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from tests.support.project import PROJECT, pyproject

ROOTS = ("proto", "core", "controller", "nodeagent", "cli")
TARGETS = {"help", "setup", "check", "test", "proto", "lock", "demo", "demo-down", "cluster", "cluster-down", "bench"}


def in_project(paths: Iterable[Path]) -> list[str]:
    """The paths as seen from the project's folder, sorted."""
    return sorted(str(path.relative_to(PROJECT)) for path in paths)


@pytest.mark.parametrize("root", ROOTS)
def test_no_root_makes_devopsellence_a_regular_package(root: str) -> None:
    for part in ("devopsellence", "devopsellence/api", "devopsellence/api/v1"):
        assert not (PROJECT / root / part / "__init__.py").exists(), (
            f"{root}/{part}/__init__.py hides the other roots' part of the namespace (PEP 420): delete it"
        )


def test_packaging_and_type_checks_know_the_same_roots() -> None:
    tool = pyproject()["tool"]
    assert tuple(tool["hatch"]["build"]["dev-mode-dirs"]) == ROOTS
    assert tool["hatch"]["build"]["targets"]["wheel"]["packages"] == [f"{root}/devopsellence" for root in ROOTS]
    assert tuple(tool["mypy"]["mypy_path"]) == ROOTS


@pytest.mark.parametrize(
    "package",
    in_project(
        path
        for root in ROOTS
        for path in (PROJECT / root / "devopsellence").rglob("*")
        if any(path.glob("*.py")) and "api" not in path.relative_to(PROJECT).parts
    ),
)
def test_every_package_says_what_belongs_in_it(package: str) -> None:
    init = PROJECT / package / "__init__.py"
    assert init.exists(), f"{package} holds Python files and no __init__.py"
    docstring = ast.get_docstring(ast.parse(init.read_text()))
    assert docstring, f"{init.relative_to(PROJECT)} has no docstring: say what belongs in {package} and what may not"


def test_help_lists_every_target() -> None:
    makefile = (PROJECT / "Makefile").read_text()
    documented = set(re.findall(r"^([a-z-]+):.*?## \S", makefile, re.MULTILINE))
    assert documented == TARGETS
    phony = re.search(r"^\.PHONY: (.*)$", makefile, re.MULTILINE)
    assert phony is not None
    assert set(phony[1].split()) >= TARGETS


@pytest.mark.parametrize("script", [".ci/run", *in_project((PROJECT / "deploy").rglob("*.sh"))])
def test_scripts_stop_at_the_first_failure(script: str) -> None:
    text = (PROJECT / script).read_text()
    if text.startswith("#!/usr/bin/env bash"):
        assert "\nset -euo pipefail\n" in text
        assert os.access(PROJECT / script, os.X_OK), f"{script} is not executable"
    elif text.startswith("#!/bin/sh"):  # in an image, where there is no bash
        assert "\nset -eu\n" in text
    else:
        assert text.startswith("# Sourced by")


def test_the_readme_shows_the_example_as_it_is_for_a_public_host() -> None:
    yaml = YAML(typ="safe")
    shown = re.search(r"```yaml\n(.*?)```", (PROJECT / "README.md").read_text(), re.DOTALL)
    assert shown is not None
    example = (PROJECT / "examples/shop/devopsellence.yml").read_text()
    public = yaml.load(example.replace("shop.localhost", "shop.example.com"))
    assert public["ingress"].pop("tls") == {"mode": "off"}, "no authority certifies a name of one's own machine"
    assert yaml.load(shown[1]) == public
