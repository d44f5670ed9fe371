"""Steps of a rotation on the cluster's folder that were interrupted before the folders of machines were written."""

from __future__ import annotations

import datetime
from pathlib import Path

import pytest

from devopsellence.certificates.trust import certificates_in
from devopsellence.cli.cluster import authority as authorities
from devopsellence.cli.cluster.authority import Passphrase
from devopsellence.cli.cluster.folder import CertificateBundle, ClusterFolder, ControlPlane
from devopsellence.cli.output import Output
from devopsellence.cli.rotation import stages
from devopsellence.cli.rotation.rotation import Rotation
from devopsellence.cli.rotation.stages import Stage

NONE = Passphrase(choose=lambda: "", enter=lambda: "")


class Crash(Exception):
    """The process ends here."""


@pytest.fixture
def rotation(tmp_path: Path) -> Rotation:
    folder = ClusterFolder(tmp_path)
    authorities.create(folder, datetime.datetime.now(datetime.UTC), NONE)
    folder.remember(ControlPlane({"e1": "10.0.0.1"}))
    return Rotation(folder, "/devopsellence/v1/", {}, {}, (), 0.0, Output())


def trusted(rotation: Rotation) -> set[int]:
    """Return the numbers of authorities that the machines and root are to trust."""
    folder = rotation.folder
    bundles: list[CertificateBundle] = [folder.member("e1"), folder.controller, folder.root_operator]
    return {len(certificates_in(bundle.authority.read_bytes())) for bundle in bundles}


def test_next_command_writes_the_folders_of_an_interrupted_introduction(rotation: Rotation) -> None:
    stages.introduce(rotation.folder, datetime.datetime.now(datetime.UTC), NONE)
    assert rotation.stage() is Stage.INTRODUCED
    assert trusted(rotation) == {2}


def test_rotation_goes_on_until_the_folders_trust_the_new_authority_alone(
    rotation: Rotation, monkeypatch: pytest.MonkeyPatch
) -> None:
    def crash(_folder: ClusterFolder) -> None:
        raise Crash

    rotation.introduce(NONE)
    rotation.switch()
    assert trusted(rotation) == {2}
    with monkeypatch.context() as patched:
        patched.setattr(stages, "retire", crash)
        with pytest.raises(Crash):
            rotation.retire()
    assert rotation.stage() is Stage.SWITCHED
    assert trusted(rotation) == {2}
    rotation.retire()
    assert rotation.stage() is Stage.NONE
    assert trusted(rotation) == {1}


def test_abandoned_rotation_leaves_one_authority(rotation: Rotation) -> None:
    rotation.introduce(NONE)
    rotation.abandon()
    assert rotation.stage() is Stage.NONE
    assert trusted(rotation) == {1}
