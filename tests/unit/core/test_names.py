"""The rule for names, and that the store's is the same."""

from __future__ import annotations

import pytest

from devopsellence.config import InvalidName, check_name
from devopsellence.names import image_volume_source
from devopsellence.store import keys


@pytest.mark.parametrize("name", ["a", "ShopApp", "web-1", "a.b_c", "0", "x" * 63])
def test_names(name: str) -> None:
    assert check_name("node", name) == name


@pytest.mark.parametrize("name", ["", "-a", ".a", "_a", "a/b", "a b", "ä", "a\n", "x" * 64, "..", "a\0"])
def test_invalid_name_is_refused_with_the_rule(name: str) -> None:
    with pytest.raises(InvalidName, match=r"node .* is not a name: a name is letters, digits"):
        check_name("node", name)


def test_store_uses_the_same_rule() -> None:
    assert keys.check_name is check_name
    assert keys.InvalidName is InvalidName


@pytest.mark.parametrize(
    ("service", "target", "source"),
    [
        ("redis", "/data", "redis_volume_data"),
        ("db", "/var/lib/postgresql/data", "db_volume_var_lib_postgresql_data"),
        ("app", "/srv/a_b", "app_volume_srv_a_b_7daf27"),
        ("app", "/Data", "app_volume_Data_d33637"),
    ],
)
def test_source_of_a_volume_that_an_image_declares(service: str, target: str, source: str) -> None:
    assert image_volume_source(service, target) == source


def test_sources_of_image_volumes_are_names_and_differ_also_without_case() -> None:
    targets = ["/a/b", "/a_b", "/A/b", "/a.b", "/a-b", "/a b", "/ü", "/" + "x" * 80, "/" + "x" * 81, "/" + "X" * 80]
    sources = {check_name("volume", image_volume_source("a" * 40, target)).lower() for target in targets}
    sources |= {image_volume_source("b" * 63, target).lower() for target in targets}
    assert len(sources) == 2 * len(targets)
    assert all(check_name("volume", source) for source in sources)
