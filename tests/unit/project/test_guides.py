"""What the guides show is what the example has, and the tests deploy the example."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

PROJECT = Path(__file__).parents[3]
EXAMPLE = YAML(typ="safe").load((PROJECT / "examples/services/devopsellence.yml").read_text())
GUIDES = sorted((PROJECT / "docs/guides").glob("*.md"))
# What the example cannot have, because it needs a registry.
_ONLY_TOLD = {"registry"}


def _blocks() -> list[Any]:
    found = []
    for guide in GUIDES:
        for number, text in enumerate(re.findall(r"```yaml\n(.*?)```", guide.read_text(), re.DOTALL)):
            found.append(pytest.param(YAML(typ="safe").load(text), id=f"{guide.stem}-{number}"))
    return found


def _is_part(part: Any, whole: Any) -> bool:
    if isinstance(part, dict):
        return isinstance(whole, dict) and all(key in whole and _is_part(part[key], whole[key]) for key in part)
    return bool(part == whole)


@pytest.mark.parametrize("block", _blocks())
def test_every_example_in_the_guides_is_part_of_the_one_that_is_deployed(block: dict[str, Any]) -> None:
    if block.keys() <= _ONLY_TOLD:
        return
    assert _is_part(block, EXAMPLE)


def test_there_are_guides() -> None:
    assert {guide.stem for guide in GUIDES} == {"supporting-services", "secrets", "release-tasks", "ingress"}
