"""docs/architecture.md keeps up with the rooms."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.support.project import PROJECT

PAGE = (PROJECT / "docs/architecture.md").read_text()
ROOTS = {"CLI": "cli/devopsellence/cli", "Controller": "controller/devopsellence/controller"}
ROOTS["Agent"] = "nodeagent/devopsellence/nodeagent"
CORE = PROJECT / "core/devopsellence"


def section(title: str) -> str:
    """Text below a heading of the page."""
    return PAGE.partition(f"\n## {title}\n")[2].partition("\n## ")[0]


def packages() -> list[str]:
    """Names of the packages directly below the programs and core."""
    roots = [PROJECT / root for root in ROOTS.values()] + [CORE]
    folders = {path.parent.name for root in roots for path in root.glob("*/__init__.py")}
    return sorted(folders - {"cli", "controller", "nodeagent"})


def steps() -> list[tuple[str, str]]:
    """Program and module of each step in the way of one release."""
    program, found = "", []
    for row in section("The way of one release").splitlines():
        cells = [cell.strip() for cell in row.strip("|").split("|")]
        if not row.startswith("|") or len(cells) != 3 or cells[0].startswith("-"):
            continue
        program = cells[0] or program
        found += [(program, module) for module in re.findall(r"`([a-z_/]+)`", cells[2])]
    return found


@pytest.mark.parametrize("package", packages())
def test_picture_shows_every_package(package: str) -> None:
    assert re.search(rf"[─ ]{package}/", section("Rooms"))


@pytest.mark.parametrize(("program", "module"), steps())
def test_steps_of_a_release_name_existing_modules(program: str, module: str) -> None:
    def exists(root: Path) -> bool:
        return (root / f"{module}.py").exists() or (root / module / "__init__.py").exists()

    assert exists(PROJECT / ROOTS[program]) or exists(CORE)


def test_way_of_a_release_passes_all_programs() -> None:
    assert {program for program, _ in steps()} == set(ROOTS)
