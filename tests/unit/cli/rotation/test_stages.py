"""Stages of a rotation, with a crash after each change of a file."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from devopsellence.certificates.pem import load_certificate
from devopsellence.cli.cluster import authority as authorities
from devopsellence.cli.cluster.authority import Passphrase
from devopsellence.cli.cluster.folder import ClusterFolder
from devopsellence.cli.rotation import stages
from devopsellence.cli.rotation.stages import Stage, stage_of

AT = datetime.datetime(2026, 3, 1, tzinfo=datetime.UTC)
NONE = Passphrase(choose=lambda: "", enter=lambda: "")


class Crash(Exception):
    """The process ends here."""


@pytest.fixture
def folder(tmp_path: Path) -> ClusterFolder:
    cluster = ClusterFolder(tmp_path)
    authorities.create(cluster, AT, NONE)
    return cluster


def roots(folder: ClusterFolder) -> tuple[str, ...]:
    """Return the serial numbers of the trusted roots, the signing one first."""
    signing = authorities.load(folder, AT)
    return tuple(str(root.serial_number) for root in (signing.root, *signing.also_trusted))


def test_both_roots_are_trusted_from_introduction_to_retirement(folder: ClusterFolder) -> None:
    assert stage_of(folder) is Stage.NONE
    (former,) = roots(folder)
    stages.introduce(folder, AT, NONE)
    assert stage_of(folder) is Stage.INTRODUCED
    signing, coming = roots(folder)
    assert signing == former
    stages.switch(folder)
    assert stage_of(folder) is Stage.SWITCHED
    assert roots(folder) == (coming, former)
    stages.retire(folder)
    assert stage_of(folder) is Stage.NONE
    assert roots(folder) == (coming,)
    assert [path.name for path in folder.root.iterdir() if "former" in path.name or "next" in path.name] == []


def test_abandoned_root_is_forgotten(folder: ClusterFolder) -> None:
    before = roots(folder)
    stages.introduce(folder, AT, NONE)
    stages.abandon(folder)
    assert (stage_of(folder), roots(folder)) == (Stage.NONE, before)


def test_refused_passphrase_leaves_the_stage(folder: ClusterFolder) -> None:
    def refuse() -> str:
        raise Crash

    with pytest.raises(Crash):
        stages.introduce(folder, AT, Passphrase(choose=refuse, enter=refuse))
    assert stage_of(folder) is Stage.NONE
    # What is left of it is no hindrance.
    stages.introduce(folder, AT, NONE)
    assert stage_of(folder) is Stage.INTRODUCED


def test_root_whose_key_is_elsewhere_can_be_replaced(folder: ClusterFolder) -> None:
    folder.authority_key.unlink()
    (former,) = roots(folder)
    stages.introduce(folder, AT, NONE)
    stages.switch(folder)
    assert roots(folder)[1] == former
    stages.retire(folder)
    assert folder.authority_key.exists()


def test_key_of_the_former_root_goes_although_the_next_one_is_elsewhere(folder: ClusterFolder) -> None:
    former = folder.authority_key.read_bytes()
    stages.introduce(folder, AT, NONE)
    folder.next.authority_key.unlink()
    stages.switch(folder)
    assert (folder.authority_key.exists(), folder.former_key.read_bytes()) == (False, former)
    stages.retire(folder)
    assert not any(former in path.read_bytes() for path in folder.root.iterdir() if path.is_file())


def test_root_that_signs_leaves_itself_can_be_replaced(folder: ClusterFolder) -> None:
    folder.issuing_certificate.unlink()
    folder.issuing_key.unlink()
    assert authorities.load(folder, AT).is_root
    stages.introduce(folder, AT, NONE)
    stages.switch(folder)
    assert not authorities.load(folder, AT).is_root


def crashing_after(count: int, original: Callable[[Path, Path], Path]) -> Callable[[Path, Path], Path]:
    left: Iterator[int] = iter(range(count))

    def replace(source: Path, target: Path) -> Path:
        if next(left, None) is None:
            raise Crash
        return original(source, target)

    return replace


@pytest.mark.parametrize("moved", range(5))
def test_interrupted_switch_is_finished(folder: ClusterFolder, moved: int, monkeypatch: pytest.MonkeyPatch) -> None:
    (former,) = roots(folder)
    stages.introduce(folder, AT, NONE)
    coming = str(load_certificate(folder.next.authority_certificate).serial_number)
    with monkeypatch.context() as patched:
        patched.setattr(Path, "replace", crashing_after(2 + moved, Path.replace))
        if moved < 4:
            with pytest.raises(Crash):
                stages.switch(folder)
        else:
            stages.switch(folder)
    assert stage_of(folder) is Stage.SWITCHED
    assert roots(folder) == (coming, former)
