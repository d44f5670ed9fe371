"""Chain ids, tags, configurations and archives of images."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile

import pytest

from devopsellence.nodeagent.images.layers import (
    LayerFile,
    all_chain_ids,
    build_archive,
    chain_ids,
    config_problem,
    is_project_tag,
)

A, B, C = (f"sha256:{letter * 64}" for letter in "abc")


def test_chain_id_depends_on_all_layers_below() -> None:
    upper = f"sha256:{hashlib.sha256(f'{A} {B}'.encode()).hexdigest()}"
    assert chain_ids([A, B]) == [A, upper]
    assert chain_ids([A, B, C])[2] == f"sha256:{hashlib.sha256(f'{upper} {C}'.encode()).hexdigest()}"
    assert chain_ids([]) == []


def test_same_layer_on_different_layers_has_a_different_chain_id() -> None:
    known = all_chain_ids([[A, B], [C]])
    assert chain_ids([A, B])[1] in known
    assert chain_ids([C, B])[1] not in known
    assert chain_ids([B])[0] not in known


@pytest.mark.parametrize(
    ("tag", "own"),
    [
        ("devopsellence/shop-1a2b3c:0123456789ab", True),
        ("devopsellence/my-shop-1a2b3c:0123456789ab", True),
        ("devopsellence/test:small", False),
        ("devopsellence/shop-1a2b3c:0123456789a", False),
        ("devopsellence/shop-1a2b3c:0123456789ab\n", False),
        ("devopsellence/../shop-1a2b3c:0123456789ab", False),
        ("example.com/devopsellence/shop-1a2b3c:0123456789ab", False),
        ("redis:7", False),
        ("", False),
    ],
)
def test_own_image_names_are_recognized(tag: str, own: bool) -> None:
    assert is_project_tag(tag) is own


def test_project_tag_belongs_to_a_single_image() -> None:
    assert is_project_tag("devopsellence/shop-1a2b3c:aaaaaaaaaaaa", A)
    assert not is_project_tag("devopsellence/shop-1a2b3c:aaaaaaaaaaaa", B)


def test_config_must_match_digest_and_layers() -> None:
    def of(document: object) -> tuple[bytes, str]:
        config = json.dumps(document).encode()
        return config, f"sha256:{hashlib.sha256(config).hexdigest()}"

    config, image = of({"rootfs": {"diff_ids": [A, B]}})
    assert config_problem(config, image, [A, B]) == ""
    assert "different layers" in config_problem(config, image, [B, A])
    assert "digest" in config_problem(config + b" ", image, [A, B])
    nonsense: list[object] = [[], {}, {"rootfs": 1}, 7, None]
    for broken in nonsense:
        config, image = of(broken)
        assert "lists no layers" in config_problem(config, image, [])


def test_archive_lists_all_layers_and_contains_the_given_ones() -> None:
    content = b"x" * 700
    layer = LayerFile(len(content), lambda: iter([content[:500], content[500:]]))
    pieces = build_archive(A, b"{}", "devopsellence/shop-1a2b3c:aaaaaaaaaaaa", [B, C, C], {C: layer})
    with tarfile.open(fileobj=io.BytesIO(b"".join(pieces))) as tar:
        names = tar.getnames()
        manifest = json.loads(tar.extractfile("manifest.json").read())  # type: ignore[union-attr]
        layer_content = tar.extractfile(f"{'c' * 64}/layer.tar").read()  # type: ignore[union-attr]
    assert names == ["manifest.json", f"{'a' * 64}.json", f"{'c' * 64}/layer.tar"]
    assert manifest == [
        {
            "Config": f"{'a' * 64}.json",
            "RepoTags": ["devopsellence/shop-1a2b3c:aaaaaaaaaaaa"],
            "Layers": [f"{letter * 64}/layer.tar" for letter in "bcc"],
        }
    ]
    assert layer_content == content
