"""The bed of whole machines itself: power, reboots, files, and its end with the process that made it."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.machines.bed import MachineBed
from tests.support.machines.machine import Machine
from tests.support.machines.tree import need_machines
from tests.support.project import PROJECT
from tests.support.until import until

# The first one may make the file system of the machines.
pytestmark = pytest.mark.timeout(600)

_PROCESS = """\
import sys, time
from pathlib import Path
from tests.support.machines.bed import MachineBed
with MachineBed(Path(sys.argv[1])):
    print("up", flush=True)
    time.sleep(600)
"""


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    with MachineBed(tmp_path_factory.mktemp("machines") / "bed") as bed:
        yield bed.machines["m1"]


def test_files_survive_a_power_cut_and_processes_do_not(machine: Machine, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/file").write_text("content")
    machine.copy(tmp_path / "folder", "/srv/copied")
    machine.ssh("systemd-run --quiet --unit=sleeper sleep infinity && touch /run/mark")
    before = machine.boot_id()
    machine.cut_power()
    assert not machine.on
    machine.start()
    assert machine.boot_id() != before
    assert machine.ssh("cat /srv/copied/file").stdout == "content"
    assert machine.property("sleeper", "ActiveState") == "inactive"
    assert machine.ssh("test -e /run/mark", check=False).returncode == 1


def test_reboot_starts_the_docker_engine_again(machine: Machine) -> None:
    machine.reboot()
    until("Docker answers", lambda: machine.ssh("docker version", check=False).returncode == 0, seconds=60, every=0.3)
    assert "Started docker.service" in machine.journal("docker")
    assert machine.ssh("systemctl --failed --no-legend --plain").stdout == ""


def test_killed_process_leaves_no_machine_behind(tmp_path: Path) -> None:
    need_machines()
    command = [sys.executable, "-c", _PROCESS, str(tmp_path / "bed")]
    process = subprocess.Popen(command, cwd=PROJECT, stdout=subprocess.PIPE, text=True)
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
        process.send_signal(signal.SIGKILL)
    groups = f"*/devopsellence-machines-{process.pid}"
    until("the file systems are removed", lambda: not (tmp_path / "bed/disks").exists(), seconds=90)
    assert list(Path("/sys/fs/cgroup").glob(groups)) == []
    assert str(tmp_path) not in Path("/proc/mounts").read_text()
