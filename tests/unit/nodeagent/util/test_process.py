"""Protection of the agent's process, each in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

SCRIPT = """
import ctypes, json, os, resource
from pathlib import Path
from devopsellence.nodeagent.util.process import protect_memory, raise_file_limit
resource.setrlimit(resource.RLIMIT_NOFILE, (100, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
if os.geteuid() == 0:
    os.setresuid(65534, 65534, 65534)
protect_memory()
raise_file_limit()
folder = os.open("/", os.O_RDONLY)
print(json.dumps({
    "core": resource.getrlimit(resource.RLIMIT_CORE),
    "dumpable": ctypes.CDLL(None).prctl(3, 0, 0, 0, 0),
    "files": resource.getrlimit(resource.RLIMIT_NOFILE),
    # What the agent reads of itself, here as a user who is not root.
    "descriptor": os.path.exists(f"/proc/self/fd/{folder}/etc"),
    "statm": len(Path("/proc/self/statm").read_text().split()),
    "routes": Path("/proc/self/net/route").read_text()[:5],
}))
"""


def test_process_has_no_core_dumps_and_reads_its_own_files() -> None:
    folders = json.dumps([path for path in sys.path if path])
    script = f"import sys; sys.path[:] = {folders}\n{SCRIPT}"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, cwd=Path("/"))
    assert done.returncode == 0, done.stderr
    shown = json.loads(done.stdout)
    soft, hard = shown["files"]
    assert (shown["core"], shown["dumpable"]) == ([0, 0], 0)
    assert soft == (min(hard, 65536) if hard > 0 else 65536)
    assert (shown["descriptor"], shown["statm"], shown["routes"]) == (True, 7, "Iface")
