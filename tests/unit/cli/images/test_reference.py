from __future__ import annotations

import pytest

from devopsellence.api.v1.workload_pb2 import Image, Service
from devopsellence.cli.images.pin import pinned_reference, service_images
from devopsellence.cli.images.reference import InvalidReference, Reference, parse_reference

D = f"sha256:{'d' * 64}"
E = f"sha256:{'e' * 64}"
ID = f"sha256:{'1' * 64}"


@pytest.mark.parametrize(
    ("text", "expected", "repository"),
    [
        ("redis", Reference("docker.io", "library/redis"), "redis"),
        ("redis:7-alpine", Reference("docker.io", "library/redis", "7-alpine"), "redis"),
        (f"redis:7@{D}", Reference("docker.io", "library/redis", "7", D), "redis"),
        ("acme/shop", Reference("docker.io", "acme/shop"), "acme/shop"),
        ("docker.io/library/redis", Reference("docker.io", "library/redis"), "redis"),
        ("index.docker.io/acme/shop", Reference("docker.io", "acme/shop"), "acme/shop"),
        ("docker.io/library/a/b", Reference("docker.io", "library/a/b"), "library/a/b"),
        ("registry.example.com/app:1", Reference("registry.example.com", "app", "1"), "registry.example.com/app"),
        ("localhost/app", Reference("localhost", "app"), "localhost/app"),
        ("localhost:5000/a/b_c:1", Reference("localhost:5000", "a/b_c", "1"), "localhost:5000/a/b_c"),
        ("127.0.0.1:5000/a", Reference("127.0.0.1:5000", "a"), "127.0.0.1:5000/a"),
        # What looks like a port belongs to a tag where no slash follows.
        ("app:5000", Reference("docker.io", "library/app", "5000"), "app"),
        ("Registry/app", Reference("Registry", "app"), "Registry/app"),
    ],
)
def test_references_are_parsed_like_docker(text: str, expected: Reference, repository: str) -> None:
    assert parse_reference(text) == expected
    assert parse_reference(text).repository == repository


@pytest.mark.parametrize(
    "text",
    ["", "Redis", "a b", "redis:", "redis:a b", "redis@", "redis@sha256:xyz", "-x", "a//b", "$(rm)", "--help", "a/"],
)
def test_invalid_references_are_refused(text: str) -> None:
    with pytest.raises(InvalidReference):
        parse_reference(text)


@pytest.mark.parametrize(
    ("reference", "digests", "expected"),
    [
        ("redis:7", [f"redis@{D}"], f"redis@{D}"),
        ("docker.io/library/redis:7", [f"redis@{D}"], f"redis@{D}"),
        # One image under several repositories: the digest of the one that was asked for.
        ("localhost:5000/app:1", [f"app@{D}", f"localhost:5000/app@{E}"], f"localhost:5000/app@{E}"),
        ("other:1", [f"redis@{D}"], ID),
        ("bb:dev", [], ID),
        ("bb:dev", [f"<none>@{D}", "nonsense@@"], ID),
        (f"redis@{E}", [f"redis@{D}", f"redis@{E}"], f"redis@{E}"),
        (f"docker.io/library/redis:7@{E}", [f"redis@{E}"], f"redis@{E}"),
        (ID, [f"redis@{D}"], ID),
        ("111111111111", [f"redis@{D}"], ID),
    ],
)
def test_tags_are_never_pinned(reference: str, digests: list[str], expected: str) -> None:
    assert pinned_reference(reference, ID, digests) == expected


def test_shared_images_are_pinned_once() -> None:
    services = [
        Service(name="cache", image=Image(reference="redis:7")),
        Service(name="queue", image=Image(reference="redis:7")),
        Service(name="web", image=Image(app=True)),
    ]
    assert service_images(services) == {"redis:7": ["cache", "queue"]}
