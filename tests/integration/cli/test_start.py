"""Start of a command: imports, and errors if etcd cannot be reached."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.support.cli import NO_DEV_CLUSTER, Cli
from tests.support.etcd import EtcdServer
from tests.support.need import need_etcd
from tests.support.ports import free_ports
from tests.support.process import python_environ

HEAVY = ("grpc", "docker", "pydantic", "rich", "google.protobuf", "ruamel")


def environ() -> dict[str, str]:
    return {**python_environ(), "DEVOPSELLENCE_HOME": NO_DEV_CLUSTER}


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys\n"
        "from devopsellence.cli.main import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: pass\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environ(), check=True)
    assert done.stderr.strip() == "[]"


def test_unreachable_etcd_is_reported_in_a_sentence(cli: Cli) -> None:
    (port,) = free_ports(1)
    error = cli.error("--etcd-endpoints", f"127.0.0.1:{port}", "node", "list")
    assert error["code"] == "etcd_unavailable"
    assert f"etcd at 127.0.0.1:{port} does not answer" in str(error["message"])


def test_hanging_etcd_is_reported_in_a_sentence(cli: Cli, tmp_path: Path) -> None:
    need_etcd()
    with EtcdServer(tmp_path / "etcd") as server:
        server.pause()
        error = cli.error("--etcd-endpoints", server.endpoint, "node", "list")
    assert error["code"] == "etcd_unavailable"


def test_shell_completion_answers(cli: Cli) -> None:
    script = cli.ok("completion", "bash")
    assert "_DEVOPSELLENCE_COMPLETE=bash_complete" in script
    for shell in ("zsh", "fish"):
        assert "_DEVOPSELLENCE_COMPLETE" in cli.ok("completion", shell)
    asked = {"_DEVOPSELLENCE_COMPLETE": "bash_complete", "COMP_WORDS": "devopsellence node at", "COMP_CWORD": "2"}
    command = [sys.executable, "-m", "devopsellence.cli"]
    done = subprocess.run(command, capture_output=True, text=True, env={**environ(), **asked}, check=False)
    assert done.stdout.split() == ["plain,attach"]


def test_closed_pipe_ends_quietly(cli: Cli) -> None:
    command = f"{sys.executable} -m devopsellence.cli --help | true"
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, env=environ(), check=False)
    assert "Traceback" not in done.stderr
    assert "BrokenPipe" not in done.stderr


def test_program_without_arguments_prints_help() -> None:
    command = [sys.executable, "-m", "devopsellence.cli"]
    done = subprocess.run(command, capture_output=True, text=True, env=environ(), check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("Usage: devopsellence ")


def test_configuration_is_read_from_a_pipe_of_the_shell(tmp_path: Path) -> None:
    text = "schema_version: 1\norganization: acme\nproject: shop\nservices: {job: {image: redis}}\n"
    (tmp_path / "some.yml").write_text(text)
    program = f"{sys.executable} -m devopsellence.cli config validate"
    for command in (f"{program} <(cat some.yml)", f"{program} - < some.yml", f"cat some.yml | {program} /dev/stdin"):
        done = subprocess.run(
            ["bash", "-c", command], capture_output=True, text=True, env=environ(), cwd=tmp_path, check=False
        )
        assert (done.returncode, done.stderr) == (0, ""), command
        assert "is valid: services job" in done.stdout
