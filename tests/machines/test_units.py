"""Systemd units on three whole machines, installed as the documentation says: sandboxes, timers, reboots, power cuts.

The tests follow one another on one cluster. Forbidden system calls kill the programs here, so a program that has never
restarted has made none.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterator

import pytest

from devopsellence.certificates.authority import request_like
from devopsellence.certificates.issuing import IssuingFiles
from devopsellence.certificates.pem import load_certificate
from devopsellence.cli.cluster.programs import CONTROLLER_HOME
from tests.support.machines.bed import MachineBed
from tests.support.machines.cluster import AGENT, CONTROLLER, ETCD, PROGRAMS, RENEW, SNAPSHOT, MachineCluster
from tests.support.machines.machine import Machine
from tests.support.machines.project import installed_tree
from tests.support.need import need_docker
from tests.support.until import until

# The first one makes the file system of the machines, and installs everything.
pytestmark = pytest.mark.timeout(900)

_KILL_OFTEN = f"""\
set -eu
main() {{ systemctl show --property=MainPID --value {CONTROLLER}; }}
for _ in 1 2 3 4 5 6 7; do
  before=$(main)
  kill -KILL "$before"
  until now=$(main) && [ "$now" != 0 ] && [ "$now" != "$before" ]; do sleep 0.1; done
done
"""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MachineCluster]:
    """Three machines with a member of etcd, a controller and an agent each, and an app on all of them."""
    need_docker()
    folder = tmp_path_factory.mktemp("machines")
    with MachineBed(folder / "bed", installed_tree, count=3) as bed:
        cluster = MachineCluster(bed, folder)
        cluster.install()
        cluster.deploy("one")
        yield cluster


@pytest.fixture
def machine(cluster: MachineCluster) -> Machine:
    return cluster.machines["m1"]


def healthy(cluster: MachineCluster) -> None:
    """Check that no unit has failed, and that no program has ended since the machine's start."""
    show = f"systemctl --failed --no-legend --plain; systemctl show --property=NRestarts --value {' '.join(PROGRAMS)}"
    for machine in cluster.machines.values():
        answer = machine.ssh(show).stdout
        if answer.split() != ["0"] * len(PROGRAMS):
            logs = "\n".join(machine.journal(unit)[-2000:] for unit in PROGRAMS)
            raise AssertionError(f"{machine.name}: {answer}\n{logs}")


def aged(cluster: MachineCluster, certificate: str, days: int) -> tuple[str, str]:
    """Return a certificate like ``certificate`` that was signed some days ago, and the key; PEM."""
    files = cluster.pki / "controller"
    authority = IssuingFiles(files / "issuing.crt", files / "issuing.key", files / "ca.crt").load()
    before = cluster.app / "before.crt"
    before.write_text(certificate)
    then = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=days)
    pair = authority.issue(request_like(load_certificate(before)), then)
    return pair.certificate.decode(), pair.key.decode()


def put_aged_certificate(cluster: MachineCluster, machine: Machine, folder: str, days: int) -> str:
    """Replace the certificate in a folder of a machine by an older one, keeping owner and mode; return that."""
    certificate, key = aged(cluster, machine.ssh(f"cat {folder}/tls.crt").stdout, days)
    machine.ssh(f"cat >{folder}/tls.key", stdin=key)
    machine.ssh(f"cat >{folder}/tls.crt", stdin=certificate)
    return certificate


def test_programs_run_in_their_sandboxes(cluster: MachineCluster, machine: Machine) -> None:
    for unit in PROGRAMS:
        process = machine.property(unit, "MainPID")
        status = dict(
            line.split(":\t", 1)
            for line in machine.ssh(f"cat /proc/{process}/status").stdout.splitlines()
            if ":\t" in line
        )
        assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2"), unit
        assert (status["CapEff"] == "0" * 16) == (unit != AGENT)
        assert (status["Uid"].split()[0] == "0") == (unit == AGENT)
        written = machine.ssh(f"nsenter --target {process} --mount touch /usr/file /etc/file", check=False).stderr
        assert written.count("Read-only file system") == 2, unit
    healthy(cluster)


def test_app_is_served_by_every_router(cluster: MachineCluster) -> None:
    cluster.wait_page("one")
    leader = cluster.devopsellence("doctor", check=False).stdout
    assert "is the leader" in leader
    assert "FAIL" not in leader
    healthy(cluster)


def test_members_certificate_is_renewed_by_its_unit(cluster: MachineCluster, machine: Machine) -> None:
    folder = "/etc/etcd/devopsellence"
    old = put_aged_certificate(cluster, machine, folder, 300)
    machine.ssh(f"systemctl start {RENEW}")
    assert machine.ssh(f"cat {folder}/tls.crt").stdout != old, machine.journal(RENEW)
    assert machine.ssh(f"stat --format %U {folder}/tls.key").stdout == "etcd\n"
    # etcd reads the files for the next connection.
    machine.ssh(f"systemctl restart {CONTROLLER}")
    cluster.wait()
    timers = machine.ssh("systemctl list-timers --no-legend").stdout
    assert f"{RENEW}.timer" in timers
    assert f"{SNAPSHOT}.timer" in timers


def test_snapshot_is_taken_by_its_unit(cluster: MachineCluster, machine: Machine) -> None:
    machine.ssh(f"systemctl start {SNAPSHOT}")
    assert machine.ssh("ls /var/backups/devopsellence-etcd").stdout.endswith(".db\n")
    assert ": line " not in machine.journal(SNAPSHOT), "an error of the shell"
    healthy(cluster)


def test_agent_renews_its_certificate_under_its_unit(cluster: MachineCluster, machine: Machine) -> None:
    old = put_aged_certificate(cluster, machine, "/etc/devopsellence", 80)
    machine.ssh(f"systemctl restart {AGENT}")
    until(
        "the agent has another certificate",
        lambda: machine.ssh("cat /etc/devopsellence/tls.crt").stdout != old,
        every=0.5,
    )
    until("the agent says so", lambda: "certificate renewed" in machine.journal(AGENT))
    assert machine.ssh("ls /etc/devopsellence").stdout.split() == ["agent.env", "ca.crt", "tls.crt", "tls.key"]
    cluster.wait()
    healthy(cluster)


def test_controller_of_an_earlier_cluster_has_no_issuing_authority(cluster: MachineCluster) -> None:
    """systemd takes the unit's default for the two credentials whose files do not exist."""
    machine = cluster.machines["m2"]
    machine.ssh(f"cd {CONTROLLER_HOME} && mkdir aside && mv issuing.* aside && systemctl restart {CONTROLLER}")
    try:
        cluster.wait()
    finally:
        machine.ssh(f"cd {CONTROLLER_HOME} && mv aside/* . && rmdir aside && systemctl restart {CONTROLLER}")
    cluster.wait()
    healthy(cluster)


def test_programs_are_started_however_often_they_end(cluster: MachineCluster, machine: Machine) -> None:
    machine.ssh(_KILL_OFTEN, timeout=120)
    cluster.wait()
    # From here on none has restarted.
    machine.ssh(f"systemctl restart {CONTROLLER}")
    healthy(cluster)


def test_reboot_brings_everything_back(cluster: MachineCluster, machine: Machine) -> None:
    machine.reboot()
    cluster.wait()
    cluster.wait_page("one")
    healthy(cluster)
    cluster.deploy("two")
    cluster.wait_page("two")


def test_power_cut_of_all_machines_leaves_nothing_behind(cluster: MachineCluster) -> None:
    for machine in cluster.machines.values():
        machine.cut_power()
    for machine in cluster.machines.values():
        machine.start()
    cluster.wait()
    cluster.wait_page("two")
    healthy(cluster)
    cluster.deploy("three")
    cluster.wait_page("three")
    assert all("failed" not in machine.property(ETCD, "Result") for machine in cluster.machines.values())
