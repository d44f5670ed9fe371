"""The cluster's root authority replaced while users use the app."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from devopsellence.certificates.trust import certificates_in
from tests.support.cluster.app import App
from tests.support.cluster.audit import nothing_amiss
from tests.support.cluster.bed import Bed
from tests.support.cluster.load import Load
from tests.support.run import run

pytestmark = pytest.mark.timeout(240)


def rotate(bed: Bed, *options: str, check: bool = True) -> dict[str, Any]:
    return bed.json("cluster", "ca", "rotate", "--no-passphrase", *options, check=check)


def restart_control_plane(bed: Bed, *, members: bool) -> None:
    """Copy the folders of etcd and the controllers, and restart one program after the other."""
    for name in bed.etcd if members else ():
        bed.restart_member(name)
    bed.renew_members()
    bed.restart_controllers()


def command(bed: Bed, bundle: Path) -> int:
    """Return the exit code of a command with another certificate."""
    files = {"CA_CERT": "ca.crt", "CERT": "tls.crt", "KEY": "tls.key"}
    variables = {f"DEVOPSELLENCE_ETCD_{name}": str(bundle / file) for name, file in files.items()}
    return run(bed.command("node", "list"), environ={**bed.environ, **variables}, check=False).returncode


def test_rotation_drops_no_request_and_ends_the_former_authority(app: App, bed: Bed, tmp_path: Path) -> None:
    for name in ("ann", "ben"):
        bed.json("cluster", "issue", "operator", name, "--out", str(tmp_path / name))
    agents = {name: host.agent.pid for name, host in bed.hosts.items()}
    former = (tmp_path / "ben" / "ca.crt").read_bytes()
    with Load(app, *bed.hosts) as load:
        assert rotate(bed)["stage"] == "introduced"
        # Nobody may go on before the machines of the control plane trust the new authority.
        early = rotate(bed, "--timeout=0", check=False)
        assert early["error"]["code"] == "rotation_waits"
        assert "the gateway at" in early["error"]["message"]
        restart_control_plane(bed, members=True)
        assert command(bed, tmp_path / "ann") == 0
        # The other operator uses no command meanwhile.
        unheard = rotate(bed, check=False)
        assert unheard["error"]["code"] == "confirmation_required"
        assert "step 1: ben." in unheard["error"]["message"]
        assert rotate(bed, "-y")["stage"] == "switched"
        assert rotate(bed, "--abandon", check=False)["error"]["code"] == "rotation_stage"
        app.deploy("between two authorities")
        restart_control_plane(bed, members=False)
        without = rotate(bed, check=False)
        assert without["error"]["code"] == "confirmation_required"
        assert "for ann, ben:" in without["error"]["message"]
        assert command(bed, tmp_path / "ann") == 0
        last = rotate(bed, "-y")
        assert (last["stage"], last["operators_without"]) == ("none", ["ben"])
        restart_control_plane(bed, members=True)
        assert (command(bed, tmp_path / "ann"), command(bed, tmp_path / "ben")) == (0, 1)
        app.deploy("with the new authority")
        nothing_amiss(bed)
    assert load.failed == []
    assert {name: host.agent.pid for name, host in bed.hosts.items()} == agents
    for host in bed.hosts.values():
        trusted = certificates_in((host.root / "etc/devopsellence/ca.crt").read_bytes())
        assert len(trusted) == 1
        assert trusted != certificates_in(former)


def test_abandoned_rotation_leaves_the_authority_as_it_was(app: App, bed: Bed) -> None:
    authority = bed.folder / "home" / "cluster" / "ca.crt"
    present = authority.read_bytes()
    assert rotate(bed)["stage"] == "introduced"
    assert rotate(bed, "--abandon")["stage"] == "none"
    assert authority.read_bytes() == present
    assert rotate(bed, "--abandon", check=False)["error"]["code"] == "rotation_stage"
    app.deploy("with the present authority")
    nothing_amiss(bed)


def test_cluster_comes_back_from_a_power_cut_by_itself(app: App, bed: Bed) -> None:
    """All machines at once; nobody is there to type a passphrase, and certificates are signed as before."""
    app.deploy("before the power cut")
    bed.cut_power()
    nothing_amiss(bed)
    # It waits until every host answers.
    with Load(app, *bed.hosts) as load:
        app.deploy("after the power cut")
        nothing_amiss(bed)
    assert load.failed == []
