"""Layout of the project: packages, scripts, and the example in the README."""

from __future__ import annotations

import ast
import os
import re
from collections.abc import Iterable
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from tests.support.project import PROJECT

ROOTS = ("proto", "core", "controller", "nodeagent", "cli")


def in_project(paths: Iterable[Path]) -> list[str]:
    """Return the paths relative to the project, sorted."""
    return sorted(str(path.relative_to(PROJECT)) for path in paths)


@pytest.mark.parametrize("root", ROOTS)
def test_namespace_package_has_no_init(root: str) -> None:
    for part in ("devopsellence", "devopsellence/api/v1", "devopsellence/etcd/v3"):
        assert not (PROJECT / root / part / "__init__.py").exists(), (
            f"{root}/{part}/__init__.py hides the other roots' part of the namespace (PEP 420): delete it"
        )


@pytest.mark.parametrize(
    "package",
    in_project(
        path
        for root in ROOTS
        # proto/ holds generated code alone, described by the .proto files.
        if root != "proto"
        for path in (PROJECT / root / "devopsellence").rglob("*")
        if any(path.glob("*.py"))
    ),
)
def test_package_has_a_docstring(package: str) -> None:
    init = PROJECT / package / "__init__.py"
    assert init.exists(), f"{package} holds Python files and no __init__.py"
    docstring = ast.get_docstring(ast.parse(init.read_text()))
    assert docstring, f"{init.relative_to(PROJECT)} has no docstring: say what belongs in {package} and what may not"


@pytest.mark.parametrize("script", [".ci/run", *in_project((PROJECT / "deploy").rglob("*.sh"))])
def test_script_stops_at_the_first_failure(script: str) -> None:
    text = (PROJECT / script).read_text()
    if text.startswith("#!/usr/bin/env bash"):
        assert "\nset -euo pipefail\n" in text
        assert os.access(PROJECT / script, os.X_OK), f"{script} is not executable"
    elif text.startswith("#!/bin/sh"):  # in an image, where there is no bash
        assert "\nset -eu\n" in text
    else:
        assert text.startswith("# Sourced by")


def test_readme_example_is_the_shop_on_a_public_host() -> None:
    yaml = YAML(typ="safe")
    shown = re.search(r"```yaml\n(.*?)```", (PROJECT / "README.md").read_text(), re.DOTALL)
    assert shown is not None
    example = (PROJECT / "examples/shop/devopsellence.yml").read_text()
    public = yaml.load(example.replace("shop.localhost", "shop.example.com"))
    assert public["ingress"].pop("tls") == {"mode": "off"}, "no authority certifies a name of one's own machine"
    assert yaml.load(shown[1]) == public


def test_git_is_run_by_a_single_module() -> None:
    """Git runs programs that a repository names; ``deploy/git.py`` switches them off."""
    callers = {
        str(path.relative_to(PROJECT))
        for root in ROOTS
        for path in (PROJECT / root).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and re.fullmatch(r"(\S*/)?git", node.value)
    }
    assert callers == {"cli/devopsellence/cli/deploy/git.py"}


def test_commands_print_through_the_output_that_escapes() -> None:
    """``click.echo`` and rich's own console would pass text from nodes to the terminal as it is."""
    printing = {
        path.name
        for path in (PROJECT / "cli").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if (isinstance(node, ast.Attribute) and node.attr in ("echo", "secho"))
        or (isinstance(node, ast.ImportFrom) and node.module == "rich.console" and _imports_console(path, node))
    }
    assert printing == {"confirm.py", "console.py", "main.py", "output.py"}


def _imports_console(path: Path, imported: ast.ImportFrom) -> bool:
    """Return whether a module makes a console, not only names its type."""
    return any(name.name == "Console" for name in imported.names) and "Console(" in path.read_text()
