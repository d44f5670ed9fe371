"""The cluster's root authority replaced while users use the app."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from devopsellence.api.v1.stored_pb2 import Heartbeat, RouterTls, ServiceStatus
from devopsellence.certificates.trust import certificates_in
from devopsellence.store.codec import decode
from devopsellence.store.etcd import Etcd
from tests.support.cluster.app import PORT, App
from tests.support.cluster.audit import nothing_amiss, stored
from tests.support.cluster.bed import Bed
from tests.support.cluster.load import Load
from tests.support.cluster.roles import Host
from tests.support.run import run
from tests.support.until import until

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


@contextmanager
def out_of_reach(app: App, host: Host) -> Iterator[None]:
    """Keep the host's router and agent from the app's container there: requests are forwarded to other hosts."""
    rule = ("OUTPUT", "-p", "tcp", "--dport", str(PORT), "-j", "REJECT", "--reject-with", "tcp-reset")
    host.run("iptables", "-I", *rule)
    try:
        until("its container is not ready", lambda: not is_ready(app, host), every=0.2)
        yield
    finally:
        host.run("iptables", "-D", *rule)


def is_ready(app: App, host: Host) -> bool:
    status = stored(app.bed).statuses[host.name, app.ref]
    return all(service.health == ServiceStatus.HEALTHY for service in status.services)


def test_requests_between_hosts_go_on_while_the_authority_is_replaced(app: App, bed: Bed) -> None:
    before = {name: router(bed, name) for name in bed.hosts}
    with out_of_reach(app, bed.hosts["n2"]):
        with Load(app, *bed.hosts) as load:
            rotate(bed)
            restart_control_plane(bed, members=True)
            rotate(bed, "-y")
            restart_control_plane(bed, members=False)
            rotate(bed, "-y")
            answered = load.answered("n2")
            until("n2 answers with the new authority alone", lambda: load.answered("n2") > answered + 100)
            restart_control_plane(bed, members=True)
        assert not is_ready(app, bed.hosts["n2"])
    assert load.failed == []
    # A new container, without the pause after failures.
    app.deploy("reached again")
    for name, tls in before.items():
        after = router(bed, name)
        assert after.certificate_serial not in ("", tls.certificate_serial)
        assert after.trusted == [after.authority]
        assert after.authority != tls.authority


def router(bed: Bed, name: str) -> RouterTls:
    """Return what the router of a host uses, once it trusts a single authority."""

    async def read(etcd: Etcd) -> RouterTls:
        record = await etcd.get(etcd.keys.heartbeat(name))
        return decode(Heartbeat, record.key, record.value).router_tls if record is not None else RouterTls()

    def settled() -> list[RouterTls]:
        tls = bed.store(read)
        return [tls] if len(tls.trusted) == 1 else []

    (tls,) = until(f"the router of {name} trusts one authority", settled, every=0.2)
    return tls


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
