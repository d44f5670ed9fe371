"""What ``dev up`` decides from what was said, what is remembered and what is free."""

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
    "local", "u1", SOCKET, client_port=20100, peer_port=20101, agent_port=20102, http_port=8080, https_port=8443
)
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


def test_the_first_start_chooses_everything() -> None:
    first = decided(UpOptions(), None, 20000)
    assert (first.node_name, first.client_port, first.peer_port, first.agent_port) == ("local", 20001, 20002, 20003)
    assert len(first.node_uid) == 32
    assert (first.http_port, first.https_port) == (8080, 8443)
    assert not any((first.client_port_given, first.http_port_given, first.https_port_given))
    assert first.home_made


def test_the_next_start_finds_the_same() -> None:
    assert decided(UpOptions(), KNOWN) == KNOWN


def test_choices_of_the_first_start_are_kept() -> None:
    first = decided(UpOptions(node_name="box", etcd_port=2379), None)
    assert (first.node_name, first.client_port, first.client_port_given) == ("box", 2379, True)


def test_ports_that_our_own_processes_hold_are_not_taken() -> None:
    assert decided(UpOptions(), KNOWN, 20100, 20101, 20102, before=running("etcd", "agent")) == KNOWN
    assert decided(UpOptions(), KNOWN, 20100, 20101, 20102, before=running("etcd")).agent_port == 20000


def test_state_without_agent_api_gets_a_port() -> None:
    assert decided(UpOptions(), replace(KNOWN, agent_port=0)) == replace(KNOWN, agent_port=20000)


def test_the_agents_port_gives_way_to_one_that_a_person_chose_for_etcd() -> None:
    assert decided(UpOptions(etcd_port=20102), KNOWN).agent_port == 20000


def test_a_port_of_our_choice_that_somebody_took_is_replaced() -> None:
    assert decided(UpOptions(), KNOWN, 20100).client_port == 20000
    assert decided(UpOptions(), KNOWN, 20101).peer_port == 20000
    assert decided(UpOptions(), KNOWN, 20102).agent_port == 20000


def test_a_port_of_a_persons_choice_that_somebody_took_is_an_error_that_names_it() -> None:
    with pytest.raises(CliError, match=r"etcd cannot listen on port 2379: the port is in use") as failure:
        decided(UpOptions(), CHOSEN, 2379)
    commands = [action.command for action in failure.value.next_actions]
    assert commands == ["ss -ltnp 'sport = :2379'", "devopsellence dev up --etcd-port <port>"]


def test_another_port_can_be_chosen_later_and_is_looked_at_even_while_etcd_runs() -> None:
    assert decided(UpOptions(etcd_port=2400), KNOWN, before=running("etcd")).client_port == 2400
    with pytest.raises(CliError, match="port 2400"):
        decided(UpOptions(etcd_port=2400), KNOWN, 2400, before=running("etcd"))


def test_the_ingress_answers_at_the_next_ports_where_the_usual_ones_are_taken() -> None:
    first = decided(UpOptions(), None, 8080, 8081, 8443)
    assert (first.http_port, first.https_port) == (8082, 8444)
    again = decided(UpOptions(), first, 8082)
    assert (again.http_port, again.https_port) == (8080, 8444)


def test_state_without_ingress_gets_ports() -> None:
    assert decided(UpOptions(), replace(KNOWN, http_port=0, https_port=0)) == KNOWN


def test_the_ingress_has_the_ports_that_it_goes_on_listening_on_without_us() -> None:
    assert decided(UpOptions(), KNOWN, 8080, 8443, routes=True) == KNOWN
    assert decided(UpOptions(), KNOWN, 8080, 8443).http_port == 8081


def test_ports_for_the_ingress_that_a_person_chose_hold_or_are_an_error_that_names_them() -> None:
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
def test_a_node_name_that_cannot_be_is_a_usage_error(wish: UpOptions, remembered: Any, code: str) -> None:
    with pytest.raises(CliError) as failure:
        decided(wish, remembered)
    assert (failure.value.code, failure.value.exit_code) == (code, 2)
