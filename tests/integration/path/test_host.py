"""Host of these tests: nothing is left after the creator is killed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import psutil

from tests.support.host import need_host
from tests.support.images import small_image
from tests.support.need import need_docker
from tests.support.until import until

_REPOSITORY = Path(__file__).parents[3]
_MAKER = """
import sys, time
from pathlib import Path
from tests.support.host import Host
with Host(Path(sys.argv[1])) as host:
    host.docker("run", "--detach", host.load_image(sys.argv[2]), "sleep", "600")
    print(host.socket.removeprefix("unix://"), flush=True)
    time.sleep(600)
"""


def test_host_ends_with_its_creator(tmp_path: Path) -> None:
    need_docker()
    need_host()
    command = [sys.executable, "-c", _MAKER, str(tmp_path), small_image()]
    with subprocess.Popen(command, cwd=_REPOSITORY, stdout=subprocess.PIPE, text=True) as maker:
        try:
            assert maker.stdout is not None
            socket = Path(maker.stdout.readline().strip())
            assert socket.is_socket()
            engine = _processes(socket.parent)
            [container] = {below for each in engine for below in each.children()} - engine
        finally:
            maker.kill()
    until("its processes have ended", lambda: not _processes(socket.parent) and not container.is_running())
    until("its folder is gone", lambda: not socket.parent.exists())
    assert str(tmp_path) not in Path("/proc/self/mounts").read_text()


def _processes(folder: Path) -> set[psutil.Process]:
    """Return the processes with ``folder`` in the command line."""
    return {each for each in psutil.process_iter(["cmdline"]) if str(folder) in " ".join(each.info["cmdline"] or [])}
