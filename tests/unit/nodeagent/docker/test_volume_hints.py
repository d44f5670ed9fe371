"""Hint at a volume of root's under an image that runs as another user."""

from __future__ import annotations

from typing import Any

import pytest

from devopsellence.nodeagent.docker.output import MountedVolume, says_denied, volumes_of

VOLUME = {"Type": "volume", "Name": "shop-data", "Source": "/var/lib/x", "Destination": "/data", "RW": True}
BIND = {"Type": "bind", "Source": "/srv/data", "Destination": "/data", "RW": True}


@pytest.mark.parametrize(
    ("line", "denied"),
    [
        ("sh: 1: cannot create /data/x: Permission denied", True),
        ("PermissionError: [Errno 13] Permission denied: '/data/x'", True),
        ("Error: EACCES: permission denied, open '/data/x'", True),
        ("chown: changing ownership of '.': Operation not permitted", True),
        ("java.nio.file.AccessDeniedException: /data/x", True),
        ("listening on 3000", False),
        ("peace experts", False),
        ("", False),
    ],
)
def test_words_of_a_denied_access(line: str, denied: bool) -> None:
    assert says_denied(["starting", line]) is denied


@pytest.mark.parametrize(
    ("user", "mounts", "sources"),
    [
        ("app", [VOLUME], ["shop-data"]),
        ("1000:1000", [VOLUME, BIND], ["shop-data", "/srv/data"]),
        ("", [VOLUME], []),
        ("root", [VOLUME], []),
        ("0:0", [VOLUME], []),
        ("app", [VOLUME | {"RW": False}, {"Type": "tmpfs", "Destination": "/tmp", "RW": True}], []),
        ("app", None, []),
    ],
)
def test_only_writable_volumes_of_other_users_are_looked_at(user: str, mounts: Any, sources: list[str]) -> None:
    document = {"Config": {"User": user, "Image": "acme/shop:1"}, "Mounts": mounts}
    assert [volume.source for volume in volumes_of(document)] == sources


@pytest.mark.parametrize(
    ("uid", "mode", "hinted"),
    [(0, 0o755, True), (0, 0o770, True), (0, 0o1777, False), (1000, 0o755, False), (-1, 0, False)],
)
def test_only_a_volume_that_root_alone_can_write_is_hinted_at(uid: int, mode: int, hinted: bool) -> None:
    assert bool(MountedVolume("shop-data", "/data", "app", "acme/shop:1").hint(uid, mode)) is hinted


@pytest.mark.parametrize(
    ("image", "named"), [("acme/shop:1", "acme/shop:1"), ("sha256:" + "98e7661626c2" + "0" * 52, "98e7661626c2")]
)
def test_hint_has_the_command_that_fixes_it(image: str, named: str) -> None:
    assert MountedVolume("shop-data", "/data", "app", image).hint(0, 0o755) == (
        "its volume at /data belongs to root, but its image runs as user app: run `docker run --rm -u 0 -v "
        f"shop-data:/data --entrypoint chown {named} -R app /data` on this node, and let the image have /data with "
        "that owner, which new volumes take over"
    )
