"""Project names of a file, without validation of the rest."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from devopsellence.config import ConfigError, ProjectIdentity, identity


def of(tmp_path: Path, text: str) -> ProjectIdentity:
    path = tmp_path / "devopsellence.yml"
    path.write_text(text)
    return identity(path)


def test_project_names_are_read_without_validating_the_rest(tmp_path: Path) -> None:
    text = "organization: acme\nproject: ShopApp\ndefault_environment: staging\nservices: 3\nunknown: x\n"
    assert of(tmp_path, text) == ProjectIdentity("acme", "ShopApp", "staging")


def test_default_environment_is_production(tmp_path: Path) -> None:
    assert of(tmp_path, "organization: acme\nproject: shop\n").default_environment == "production"


def test_missing_and_invalid_names_are_reported_together(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        of(tmp_path, "services: {}\nproject: a b\ndefault_environment: [x]\n")
    assert [(finding.line, finding.path, finding.message.split(":")[0]) for finding in caught.value.findings] == [
        (1, "organization", "organization is required"),
        (2, "project", 'project "a b" is not a name'),
        (3, "default_environment", "default_environment must be text, not a list"),
    ]


@pytest.mark.parametrize("text", ["", "- a", "just text", "a: [", "organization:\nproject: x"])
def test_file_without_names_is_an_error(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError):
        of(tmp_path, text)


def test_project_names_need_neither_pydantic_nor_protobuf() -> None:
    heavy = "{'pydantic', 'google.protobuf', 'click', 'grpc'}"
    code = f"import sys, devopsellence.config; print(sorted({heavy} & set(sys.modules)))"
    env = {"PYTHONPATH": ":".join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=env)
    assert done.stdout == "[]\n"
