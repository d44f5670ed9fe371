"""Rules for names, docstrings and packages, so that a stranger finds the way: docs/glossary.md has the vocabulary."""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.project import PROJECT

PROGRAMS = ("core/devopsellence", *(f"{name}/devopsellence/{name}" for name in ("controller", "nodeagent", "cli")))
MODULES = sorted(path for program in PROGRAMS for path in (PROJECT / program).rglob("*.py") if "_pb2" not in path.name)
TREES = {path: ast.parse(path.read_text()) for path in MODULES}
PAGES = sorted([PROJECT / "README.md", PROJECT / "CHANGELOG.md", *(PROJECT / "docs").rglob("*.md")])

#: A first line that begins so is understood only together with the name below it.
OPENING = re.compile(r"(what|who|whom|whose|which|whether|how|when|where|why|that|one|it)\b", re.IGNORECASE)
PRONOUN = re.compile(
    r"\b(it|its|one|ones|what|who|whom|whose|which|that|those|these|they|them|their|each|both|other|others)\b",
    re.IGNORECASE,
)
TEST_OPENING = re.compile(r"test_(what|who|whom|whose|which|one|of|without|it|that|those|nobody|nothing)(_|$)")
LARGEST_PACKAGE = 18
LEAST_TESTED = 3 / 4
MOST_PRONOUNS = 0.06
WIDEST_LINE = 120


def relative(path: Path) -> str:
    return str(path.relative_to(PROJECT))


def docstrings(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Line and text of the docstrings of a module, its classes and its functions."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            text = ast.get_docstring(node)
            if text:
                yield getattr(node, "lineno", 1), text


def classes() -> Iterator[tuple[str, Path]]:
    """Public classes of all programs, with their modules."""
    for path, tree in TREES.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                yield node.name, path


def retired() -> set[str]:
    """Words of the glossary's last section: class and module names do without them."""
    section = (PROJECT / "docs/glossary.md").read_text().partition("\n## Retired names\n")[2]
    return set(re.findall(r"`(\w+)`", section))


def words(name: str) -> set[str]:
    """Lower-case words of a name in CamelCase or snake_case."""
    return {word.lower() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", name)}


def prose(page: Path) -> Iterator[tuple[int, str]]:
    """Lines of a page, with their numbers, but for tables, code and lines with a link that cannot be broken."""
    fenced = False
    for number, line in enumerate(page.read_text().splitlines(), 1):
        if line.lstrip().startswith("```"):
            fenced = not fenced
        elif not fenced and not line.startswith("|"):
            yield number, line


@pytest.mark.parametrize("program", PROGRAMS)
def test_docstrings_begin_with_a_noun_or_a_verb(program: str) -> None:
    assert [
        f"{relative(path)}:{line}: {text.splitlines()[0]}"
        for path, tree in TREES.items()
        if relative(path).startswith(program)
        for line, text in docstrings(tree)
        if OPENING.match(text)
    ] == []


def test_docstrings_name_things_rather_than_point_at_them() -> None:
    texts = [text for tree in TREES.values() for _, text in docstrings(tree)]
    total = sum(len(re.findall(r"\w+", text)) for text in texts)
    pronouns = sum(len(PRONOUN.findall(text)) for text in texts)
    assert pronouns <= MOST_PRONOUNS * total, f"{pronouns} of {total} words in docstrings are pronouns"


def test_packages_stay_small() -> None:
    sizes = Counter(relative(path.parent) for path in MODULES if path.name not in ("__init__.py", "__main__.py"))
    assert {package: size for package, size in sizes.items() if size > LARGEST_PACKAGE} == {}


def test_public_class_names_are_used_twice_at_most() -> None:
    places: dict[str, list[str]] = {}
    for name, path in classes():
        places.setdefault(name, []).append(relative(path))
    assert {name: paths for name, paths in places.items() if len(paths) > 2} == {}


def test_classes_and_modules_avoid_retired_names() -> None:
    avoided = retired()
    assert avoided, "docs/glossary.md has no section 'Retired names'"
    named = [*classes(), *((path.stem, path) for path in MODULES)]
    assert sorted(f"{relative(path)}: {name}" for name, path in named if words(name) & avoided) == []


def unit_tests(package: Path) -> Path:
    """The folder of the unit tests of a package."""
    parts = package.relative_to(PROJECT).parts
    return PROJECT.joinpath("tests/unit", *(parts[2:] if parts[0] == "core" else (parts[0], *parts[3:])))


@pytest.mark.parametrize("package", sorted({path.parent for path in MODULES} - {PROJECT / PROGRAMS[0]}), ids=relative)
def test_modules_have_a_test_of_their_name_or_the_package_says_where(package: Path) -> None:
    modules = [path.stem for path in package.glob("*.py") if not path.stem.startswith("__")]
    tested = [module for module in modules if (unit_tests(package) / f"test_{module}.py").exists()]
    places = re.findall(r"\btests/[\w/]*\w(?:\.py)?", ast.get_docstring(TREES[package / "__init__.py"]) or "")
    assert [place for place in places if not (PROJECT / place).exists()] == []
    assert places or len(tested) >= LEAST_TESTED * len(modules), f"{package} has {tested} of {modules}"


@pytest.mark.parametrize("folder", ["unit", "integration", "cluster", "machines", "schedules"])
def test_test_names_say_thing_and_situation(folder: str) -> None:
    assert [
        f"{relative(path)}:{number}: {line.strip()}"
        for path in sorted((PROJECT / "tests" / folder).rglob("test_*.py"))
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if TEST_OPENING.match(line.strip().removeprefix("async ").removeprefix("def "))
    ] == []


@pytest.mark.parametrize("page", PAGES, ids=relative)
def test_pages_wrap_their_lines(page: Path) -> None:
    assert [number for number, line in prose(page) if len(line) > WIDEST_LINE] == []
