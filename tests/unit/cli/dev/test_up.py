"""Settings of the local cluster: options, saved state, free ports."""

from dataclasses import replace
from typing import Any

import pytest

from devopsellence.cli.dev.ports import FakePorts
from devopsellence.cli.dev.process import ProcessIdentity, identify
from devopsellence.cli.dev.spec import RUNNING, ProcessReport, SupervisorSnapshot
from devopsellence.cli.dev.state import DevState
from devopsellence.cli.dev.up import UpOptions, decide
from devopsellence.cli.output import CliError

SOCKET = "unix:///run/docker.sock"
KNOWN = DevState(
    "local",
    "u1",
    SOCKET,
    client_port=20100,
    peer_port=20101,
    agent_port=20102,
    gateway_port=20103,
    http_port=8080,
    https_port=8443,
)
OURS = (20100, 20101, 20102, 20103)
CHOSEN = replace(KNOWN, client_port=2379, client_port_given=True)


def decided(
    wish: UpOptions,
    remembered: DevState | None,
    *taken: int,
    before: SupervisorSnapshot | None = None,
    routes: bool = False,
) -> DevState:
    return decide(wish, remembered, before, SOCKET, FakePorts(*taken), home_made=True, routes=routes)


def running(*names: str) -> SupervisorSnapshot:
    """These processes of ours run; any process that lives will do for them."""
    me = identify(1)
    assert me is not None
    reports = tuple(ProcessReport(name, RUNNING, pid=me.pid, started=me.started) for name in names)
    return SupervisorSnapshot(ProcessIdentity(1, ""), 0.0, reports)


def test_first_start_chooses_all_settings() -> None:
    first = decided(UpOptions(), None, 20000)
    assert (first.client_port, first.peer_port, first.gateway_port, first.agent_port) == (20001, 20002, 20003, 20004)
    assert first.node_name == "local"
    assert len(first.node_uid) == 32
    assert (first.http_port, first.https_port) == (8080, 8443)
    assert not any((first.client_port_given, first.http_port_given, first.https_port_given))
    assert first.home_made


def test_next_start_keeps_settings() -> None:
    assert decided(UpOptions(), KNOWN) == KNOWN


def test_choices_of_the_first_start_are_kept() -> None:
    first = decided(UpOptions(node_name="box", etcd_port=2379), None)
    assert (first.node_name, first.client_port, first.client_port_given) == ("box", 2379, True)


def test_ports_of_running_processes_are_kept() -> None:
    assert decided(UpOptions(), KNOWN, *OURS, before=running("etcd", "controller", "agent")) == KNOWN
    some = decided(UpOptions(), KNOWN, *OURS, before=running("etcd"))
    assert (some.gateway_port, some.agent_port) == (20000, 20001)


def test_state_of_an_older_version_gets_ports() -> None:
    assert decided(UpOptions(), replace(KNOWN, agent_port=0)) == replace(KNOWN, agent_port=20000)
    assert decided(UpOptions(), replace(KNOWN, gateway_port=0)) == replace(KNOWN, gateway_port=20000)


def test_agent_port_avoids_chosen_etcd_port() -> None:
    assert decided(UpOptions(etcd_port=20102), KNOWN).agent_port == 20000


def test_port_in_use_is_replaced() -> None:
    assert decided(UpOptions(), KNOWN, 20100).client_port == 20000
    assert decided(UpOptions(), KNOWN, 20101).peer_port == 20000
    assert decided(UpOptions(), KNOWN, 20102).agent_port == 20000
    assert decided(UpOptions(), KNOWN, 20103).gateway_port == 20000


def test_chosen_port_in_use_is_an_error() -> None:
    with pytest.raises(CliError, match=r"etcd cannot listen on port 2379: the port is in use") as failure:
        decided(UpOptions(), CHOSEN, 2379)
    commands = [action.command for action in failure.value.next_actions]
    assert commands == ["ss -ltnp 'sport = :2379'", "devopsellence dev up --etcd-port <port>"]


def test_new_chosen_port_is_checked_while_etcd_runs() -> None:
    assert decided(UpOptions(etcd_port=2400), KNOWN, before=running("etcd")).client_port == 2400
    with pytest.raises(CliError, match="port 2400"):
        decided(UpOptions(etcd_port=2400), KNOWN, 2400, before=running("etcd"))


def test_ingress_uses_next_free_ports() -> None:
    first = decided(UpOptions(), None, 8080, 8081, 8443)
    assert (first.http_port, first.https_port) == (8082, 8444)
    again = decided(UpOptions(), first, 8082)
    assert (again.http_port, again.https_port) == (8080, 8444)


def test_state_without_ingress_gets_ports() -> None:
    assert decided(UpOptions(), replace(KNOWN, http_port=0, https_port=0)) == KNOWN


def test_running_ingress_keeps_its_ports() -> None:
    assert decided(UpOptions(), KNOWN, 8080, 8443, routes=True) == KNOWN
    assert decided(UpOptions(), KNOWN, 8080, 8443).http_port == 8081


def test_chosen_ingress_port_in_use_is_an_error() -> None:
    first = decided(UpOptions(http_port=80, https_port=443), None)
    assert (first.http_port, first.http_port_given, first.https_port, first.https_port_given) == (80, True, 443, True)
    assert decided(UpOptions(), first, 8080) == first
    with pytest.raises(CliError, match="the ingress cannot listen on port 443: the port is in use") as failure:
        decided(UpOptions(), first, 443)
    assert failure.value.next_actions[-1].command == "devopsellence dev up --https-port <port>"
    with pytest.raises(CliError, match="port 80: this is the HTTP port"):
        decided(UpOptions(https_port=80), first)


def test_ingress_ports_are_chosen_independently() -> None:
    first = decided(UpOptions(http_port=8443), None)
    assert (first.http_port, first.https_port) == (8443, 8444)


@pytest.mark.parametrize(
    ("wish", "remembered", "code"),
    [
        pytest.param(UpOptions(node_name="other"), KNOWN, "dev_node_named", id="renamed"),
        pytest.param(UpOptions(node_name="no/name"), None, "invalid_name", id="no name"),
    ],
)
def test_invalid_node_name_is_a_usage_error(wish: UpOptions, remembered: Any, code: str) -> None:
    with pytest.raises(CliError) as failure:
        decided(wish, remembered)
    assert (failure.value.code, failure.value.exit_code) == (code, 2)
