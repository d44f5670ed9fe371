"""Annotated example, documentation and fixture at once: valid, with all fields of the format."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest

from devopsellence.config import load, yaml_parser
from devopsellence.config.schema import RootSection, Section, model_at
from devopsellence.config.yaml_tree import plain

REPOSITORY = Path(__file__).parents[3]
EXAMPLE = REPOSITORY / "examples/annotated/devopsellence.yml"
REFERENCE = REPOSITORY / "docs/configuration.md"

Field = tuple[str, str]


def models(model: type[Section] = RootSection) -> Iterator[type[Section]]:
    """Every model of the format, found from the root."""
    yield model
    for hint in get_type_hints(model).values():
        yield from (below for kind in kinds(hint) for below in models(kind))


def kinds(hint: Any) -> Iterator[type[Section]]:
    if isinstance(hint, type) and issubclass(hint, Section):
        yield hint
    for argument in get_args(hint):
        yield from kinds(argument)


ALL = sorted({(model.__name__, field) for model in models() for field in model.model_fields})


def used(value: Any, path: tuple[str | int, ...] = ()) -> Iterator[Field]:
    """Every field that a document uses."""
    if isinstance(value, dict):
        model = model_at(path)
        for key, below in value.items():
            if model is not None:
                yield model.__name__, key
            yield from used(below, (*path, key))
    elif isinstance(value, list):
        for index, below in enumerate(value):
            yield from used(below, (*path, index))


def test_example_loads_without_findings() -> None:
    config = load(EXAMPLE)
    assert config.environments == ("staging",)
    assert {service.name for service in config.resolve("staging").services} >= {"web", "redis", "memcached"}


def test_every_field_of_the_format_occurs_in_the_example() -> None:
    node, _ = yaml_parser.parse(str(EXAMPLE), EXAMPLE.read_text())
    assert sorted(set(ALL) - set(used(plain(node)))) == []


def test_format_has_82_fields() -> None:
    assert len(ALL) == 82
    assert ("ServiceSection", "depends_on") in ALL
    assert ("TlsSection", "ca_directory_url") in ALL


@pytest.mark.parametrize(("model", "field"), ALL)
def test_every_field_is_in_the_reference(model: str, field: str) -> None:
    text = REFERENCE.read_text()
    assert f"`{field}`" in text or f".{field}`" in text, model
