"""Options of the agent and the controller. No program is started: every call here ends before that."""

from __future__ import annotations

import asyncio
import os
import signal

import click
import pytest
from click.testing import CliRunner, Result

from devopsellence.controller.__main__ import main as controller
from devopsellence.nodeagent.__main__ import main as agent
from devopsellence.program import read_settings, stop_event

NODE = ("--node", "n1", "--node-uid", "u1", "--state-dir", "/nowhere")
ETCD = ("--etcd-endpoints", "127.0.0.1:2379")
NO_OPTIONS = dict.fromkeys(("etcd_endpoints", "etcd_ca_cert", "etcd_cert", "etcd_key", "prefix"))


def run(program: click.Command, *arguments: str) -> Result:
    return CliRunner().invoke(program, arguments, env={"DEVOPSELLENCE_ETCD_ENDPOINTS": None, "DOCKER_HOST": None})


@pytest.mark.parametrize("program", [agent, controller])
@pytest.mark.parametrize("option", ["--help", "-h", "--version"])
def test_help_and_version_need_no_other_option(program: click.Command, option: str) -> None:
    result = run(program, option)
    assert result.exit_code == 0
    assert result.output.startswith("Usage: " if option != "--version" else program.name or "")


@pytest.mark.parametrize(
    ("program", "arguments", "message"),
    [
        (agent, (), "--node"),
        (agent, NODE, "use --etcd-endpoints 127.0.0.1:2379 or set DEVOPSELLENCE_ETCD_ENDPOINTS"),
        (agent, (*NODE, "--node", "n/1", *ETCD), "--node"),
        (agent, (*NODE, "--node-uid", "", *ETCD), "--node-uid"),
        (agent, (*NODE, *ETCD, "--ingress-http-port", "65536"), "--ingress-http-port"),
        (agent, (*NODE, *ETCD, "--ingress-http-port", "http"), "--ingress-http-port"),
        (agent, (*NODE, *ETCD, "--ingress-http-port", "443"), "must differ"),
        (agent, (*NODE, *ETCD, "--api-listen", "7443"), "'7443' is not host:port, such as 10.0.0.5:7443"),
        (agent, (*NODE, *ETCD, "--api-advertise", "a b:1"), "--api-advertise"),
        (agent, (*NODE, *ETCD, "--api-listen", "10.0.0.5:7443"), "--api-listen needs a certificate"),
        (agent, (*NODE, *ETCD, "--wrong"), "--wrong"),
        (controller, (), "use --etcd-endpoints 127.0.0.1:2379 or set DEVOPSELLENCE_ETCD_ENDPOINTS"),
        (controller, ("--etcd-endpoints", "nowhere"), "'nowhere' is not address:port"),
        (controller, (*ETCD, "--etcd-cert", "tls.crt"), "belong together"),
        (controller, (*ETCD, "--prefix", "no slash"), "DEVOPSELLENCE_PREFIX"),
        (controller, (*ETCD, "--acme-ca-cert", "/nowhere/ca.pem"), "/nowhere/ca.pem"),
    ],
)
def test_wrong_option_is_named_with_exit_code_2(
    program: click.Command, arguments: tuple[str, ...], message: str
) -> None:
    result = run(program, *arguments)
    assert result.exit_code == 2
    assert message in result.output


def test_option_takes_precedence_over_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEVOPSELLENCE_ETCD_ENDPOINTS", "10.0.0.1:2379")
    assert read_settings(NO_OPTIONS).endpoints == ("10.0.0.1:2379",)
    assert read_settings({**NO_OPTIONS, "etcd_endpoints": "10.0.0.2:2379"}).endpoints == ("10.0.0.2:2379",)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_signal_sets_the_stop_event(number: signal.Signals) -> None:
    stop = stop_event()
    os.kill(os.getpid(), number)
    async with asyncio.timeout(5):
        await stop.wait()
    asyncio.get_running_loop().remove_signal_handler(number)
