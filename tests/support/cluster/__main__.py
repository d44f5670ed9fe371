"""Command line behind ``deploy/cluster.sh``: a test bed for people, kept in a folder between commands."""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from tests.support.cluster.app import HOST, App
from tests.support.cluster.bed import Bed, BedSize
from tests.support.cluster.machine import environ
from tests.support.cluster.roles import LinkedMachine
from tests.support.host import host_problem


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; return 0 (done), 1 (failed) or 2 (wrong usage)."""
    options = _parser().parse_args(arguments)
    try:
        options.work(options)
    except (AssertionError, RuntimeError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def _up(options: argparse.Namespace) -> None:
    if problem := host_problem():
        raise RuntimeError(f"the bed {problem}")
    bed = Bed(options.folder)
    if not bed.exists:
        bed = Bed(options.folder, BedSize(options.hosts, options.members, options.controllers))
    bed.up()
    print(f"hosts {_names(bed.hosts)}, etcd {_names(bed.etcd)}, controllers {_names(bed.controllers)}")
    print(f"{bed.leader()} leads; logs are in {bed.logs}")


def _app(options: argparse.Namespace) -> None:
    """Run ``devopsellence WORDS`` in the folder of an app, created and attached to every host if missing."""
    bed = _taken_up(options)
    folder = options.folder / "app"
    if not (folder / "devopsellence.yml").exists():
        App(bed, folder, "hello").attach(*bed.hosts)
    command = [sys.executable, "-m", "devopsellence.cli", *options.words]
    if subprocess.run(command, env=bed.environ, cwd=folder, check=False).returncode != 0:
        raise RuntimeError(f"the cluster is up, but 'devopsellence {shlex.join(options.words)}' in {folder} failed")


def _url(options: argparse.Namespace) -> None:
    """Print a request to the app for each host."""
    bed = _taken_up(options)
    for host in bed.hosts.values():
        print(f"curl -H 'Host: {HOST}' http://{host.address}/")


def _down(options: argparse.Namespace) -> None:
    bed = Bed(options.folder)
    bed.down()
    shutil.rmtree(options.folder, ignore_errors=True)


def _guard(options: argparse.Namespace) -> None:
    """Wait for the end of the process that started this guard, then take the bed down."""
    with suppress(KeyboardInterrupt):
        sys.stdin.read()
    Bed(options.folder).down()


def _env(options: argparse.Namespace) -> None:
    bed = _taken_up(options)
    ours = bed.environ
    names = [name for name in ours if name.startswith("DEVOPSELLENCE_")]
    for name, value in {**{name: ours[name] for name in names}, **bed.etcdctl_variables}.items():
        print(f"export {name}={shlex.quote(value)}")


def _status(options: argparse.Namespace) -> None:
    bed = _taken_up(options)
    print(bed.devopsellence("node", "list").stdout, end="")
    print(f"controllers: {_states(bed.controllers)}; {bed.leader() or 'none'} leads")
    print(f"etcd: {_states(bed.etcd)}; {bed.etcd_leader() or 'none'} leads")


def _on_machine(options: argparse.Namespace) -> None:
    """Run cut, join, kill, start, pause or resume on machines."""
    bed = _taken_up(options)
    for name in options.machines:
        machine = _machine(bed, name)
        match options.command:
            case "cut":
                machine.cut()
            case "join":
                machine.join()
            case command:
                programs = [program for program in machine.programs if options.program in (None, program.name)]
                if not programs:
                    raise RuntimeError(f"{name} has no program {options.program}: it has {_programs(machine)}")
                for program in programs:
                    if command != "start":
                        getattr(program, command)()
                    elif not program.running:
                        program.start()


def _logs(options: argparse.Namespace) -> None:
    bed = _taken_up(options)
    machine = _machine(bed, options.machine)
    files = [str(machine.log(program.name)) for program in machine.programs]
    subprocess.run(["tail", "-n", str(options.lines), *(["-F"] if options.follow else []), *files], check=False)


def _enter(options: argparse.Namespace) -> None:
    """Open a shell, or run a command, on a machine."""
    bed = _taken_up(options)
    inside = _machine(bed, options.machine).inside(*(options.words or ["bash"]))
    os.execvpe(inside[0], inside, environ())  # noqa: S606 - in place of this process, with its terminal


def _taken_up(options: argparse.Namespace) -> Bed:
    bed = Bed(options.folder)
    if not bed.exists or not bed.switch.on:
        raise RuntimeError("the cluster is not up: run 'make cluster'")
    return bed


def _machine(bed: Bed, name: str) -> LinkedMachine:
    if name not in bed.machines:
        raise RuntimeError(f"there is no machine {name}: there are {_names(bed.machines)}")
    return bed.machines[name]


def _programs(machine: LinkedMachine) -> str:
    return ", ".join(program.name for program in machine.programs)


def _states(machines: dict[str, Any]) -> str:
    running = {name: all(program.running for program in machine.programs) for name, machine in machines.items()}
    return ", ".join(name if runs else f"{name} (down)" for name, runs in running.items())


def _names(machines: dict[str, Any]) -> str:
    return ", ".join(machines)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="deploy/cluster.sh", description="A cluster of several machines on this one.")
    parser.add_argument("--folder", type=Path, required=True, help=argparse.SUPPRESS)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, work: Any, about: str) -> argparse.ArgumentParser:
        subcommand = commands.add_parser(name, help=about, description=about)
        subcommand.set_defaults(work=work)
        return subcommand

    up = command("up", _up, "start what does not run; set up what is not there yet")
    up.add_argument("--hosts", type=int, default=3)
    up.add_argument("--members", type=int, default=3, help="members of etcd")
    up.add_argument("--controllers", type=int, default=2)
    command("down", _down, "end and forget everything")
    app = command("app", _app, "run devopsellence in the folder of a small app, made where it is not there yet")
    app.add_argument("words", nargs="*", metavar="WORD")
    command("url", _url, "how the app is asked for, on each host")
    command("env", _env, 'print variables for a shell: eval "$(deploy/cluster.sh env)"')
    command("status", _status, "which nodes are there, who leads")
    commands.add_parser("guard").set_defaults(work=_guard)
    for name, about in (
        ("cut", "cut a machine's link; neither end is told"),
        ("join", "mend a machine's link"),
        ("kill", "kill -9 a machine's programs"),
        ("start", "start a machine's programs again"),
        ("pause", "stop a machine's programs in their tracks (SIGSTOP)"),
        ("resume", "let them go on"),
    ):
        subcommand = command(name, _on_machine, about)
        subcommand.add_argument("machines", nargs="+", metavar="MACHINE")
        if name not in ("cut", "join"):
            subcommand.add_argument(
                "--program", help="agent, dockerd, etcd or controller; all of the machine's by default"
            )
    logs = command("logs", _logs, "show what a machine's programs log")
    logs.add_argument("machine")
    logs.add_argument("-f", "--follow", action="store_true")
    logs.add_argument("--lines", type=int, default=20)
    enter = command("enter", _enter, "a shell on a machine, or a command there")
    enter.add_argument("machine")
    enter.add_argument("words", nargs="*", metavar="COMMAND")
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
