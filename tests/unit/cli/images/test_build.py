from __future__ import annotations

import re

import pytest

from devopsellence.cli.images.build import image_name, image_repository, platform_flag
from devopsellence.cli.images.reference import parse_reference
from devopsellence.store.keys import EnvironmentRef

ID = f"sha256:{'0123456789ab' + 'c' * 52}"


@pytest.mark.parametrize(
    ("project", "begins"),
    [("ShopApp", "shopapp-"), ("a.b_c", "a-b-c-"), ("0", "0-"), ("A--", "a-"), ("x" * 63, "x" * 63)],
)
def test_image_name_is_valid_for_docker(project: str, begins: str) -> None:
    name = image_name(EnvironmentRef("acme", project, "production"), ID)
    assert name.startswith(f"devopsellence/{begins}")
    assert name.endswith(":0123456789ab")
    assert re.fullmatch(r"[a-z0-9/:-]+", name)
    assert parse_reference(name).tag == "0123456789ab"


def test_similar_projects_have_different_image_names() -> None:
    names = {
        image_repository(EnvironmentRef(organization, project, "production"))
        for organization in ("acme", "Acme")
        for project in ("Shop", "shop")
    }
    assert len(names) == 4


def test_environments_of_a_project_share_image_names() -> None:
    assert image_repository(EnvironmentRef("a", "b", "production")) == image_repository(
        EnvironmentRef("a", "b", "staging")
    )


@pytest.mark.parametrize(
    ("wanted", "engines", "flag"),
    [
        (["linux/amd64"], "linux/amd64", []),
        (["linux/arm64", "linux/amd64"], "linux/amd64", []),
        (["linux/arm64"], "linux/amd64", ["--platform=linux/arm64"]),
        ([], "linux/amd64", []),
    ],
)
def test_platform_flag_only_for_another_platform(wanted: list[str], engines: str, flag: list[str]) -> None:
    assert platform_flag(wanted, engines) == flag
