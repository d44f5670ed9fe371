"""YAML in the guides is part of the example, which integration tests deploy."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

PROJECT = Path(__file__).parents[3]
EXAMPLE = YAML(typ="safe").load((PROJECT / "examples/services/devopsellence.yml").read_text())
GUIDES = sorted((PROJECT / "docs/guides").glob("*.md"))
# Keys that the example cannot have, because they need a registry.
_NOT_IN_EXAMPLE = {"registry", "registries"}


def _blocks() -> list[Any]:
    blocks = []
    for guide in GUIDES:
        for number, text in enumerate(re.findall(r"```yaml\n(.*?)```", guide.read_text(), re.DOTALL)):
            blocks.append(pytest.param(YAML(typ="safe").load(text), id=f"{guide.stem}-{number}"))
    return blocks


def _is_part(part: Any, whole: Any) -> bool:
    if isinstance(part, dict):
        return isinstance(whole, dict) and all(key in whole and _is_part(part[key], whole[key]) for key in part)
    return bool(part == whole)


@pytest.mark.parametrize("block", _blocks())
def test_yaml_in_guides_is_part_of_the_deployed_example(block: dict[str, Any]) -> None:
    if block.keys() <= _NOT_IN_EXAMPLE:
        return
    assert _is_part(block, EXAMPLE)
