"""Command lines and settings files of a cluster."""

from __future__ import annotations

import configparser
import shlex

from devopsellence.api.v1.stored_pb2 import Node
from devopsellence.cli.cluster import programs
from devopsellence.store.keys import DEFAULT_PREFIX
from devopsellence.store.settings import Settings
from devopsellence.store.settings_file import (
    AGENT_ARGUMENTS,
    AGENT_HOME,
    agent_variables,
    client_variables,
    settings_file,
)
from tests.support.project import PROJECT

MEMBERS = {"e1": "10.0.0.1", "e2": "10.0.0.2"}
NODE = Node(name="prod-1", uid="u1", address="10.0.0.5")


def test_member_requires_certificates_on_every_port() -> None:
    variables = programs.member_variables("e2", MEMBERS)
    urls = [value for name, value in variables.items() if name.endswith("_URLS")]
    assert len(urls) == 4
    assert all(value.startswith("https://10.0.0.2:") for value in urls)
    assert variables["ETCD_CLIENT_CERT_AUTH"] == variables["ETCD_PEER_CLIENT_CERT_AUTH"] == "true"
    assert variables["ETCD_PEER_CERT_ALLOWED_CN"] == "etcd"
    assert variables["ETCD_CLIENT_CERT_ALLOWED_HOSTNAME"] == "etcd-client.devopsellence.internal"
    assert variables["ETCD_INITIAL_CLUSTER"] == "e1=https://10.0.0.1:2380,e2=https://10.0.0.2:2380"


def test_member_with_host_name_listens_on_all_addresses() -> None:
    variables = programs.member_variables("e1", {"e1": "etcd.example.com"})
    assert variables["ETCD_LISTEN_PEER_URLS"] == "https://0.0.0.0:2380"
    assert variables["ETCD_ADVERTISE_CLIENT_URLS"] == "https://etcd.example.com:2379"


def test_agent_command_line() -> None:
    variables = client_variables(programs.gateways(MEMBERS.values()), DEFAULT_PREFIX, AGENT_HOME)
    words = shlex.split(programs.agent_command(NODE, variables))
    assert words[0] == "devopsellence-agent"
    assert dict(zip(words[1::2], words[2::2], strict=True)) == {
        "--node": "prod-1",
        "--node-uid": "u1",
        "--state-dir": "/var/lib/devopsellence",
        "--api-listen": "0.0.0.0:7443",
        "--api-advertise": "10.0.0.5:7443",
        "--etcd-endpoints": "10.0.0.1:2381,10.0.0.2:2381",
        "--etcd-ca-cert": "/etc/devopsellence/ca.crt",
        "--etcd-cert": "/etc/devopsellence/tls.crt",
        "--etcd-key": "/etc/devopsellence/tls.key",
    }


def test_controller_uses_etcd_and_serves_a_gateway() -> None:
    variables = programs.controller_variables(MEMBERS, DEFAULT_PREFIX)
    assert variables["DEVOPSELLENCE_ETCD_ENDPOINTS"] == "10.0.0.1:2379,10.0.0.2:2379"
    assert variables["DEVOPSELLENCE_GATEWAY_LISTEN"] == "0.0.0.0:2381"
    assert programs.controller_variables({"e1": "fd00::1"}, "/o/")["DEVOPSELLENCE_GATEWAY_LISTEN"] == "[::]:2381"


def test_etcdctl_variables_lead_to_etcd_itself() -> None:
    variables = programs.etcdctl_variables(MEMBERS, "/pki/root")
    assert variables["ETCDCTL_ENDPOINTS"] == "https://10.0.0.1:2379,https://10.0.0.2:2379"
    assert variables["ETCDCTL_KEY"] == "/pki/root/tls.key"


def test_ipv6_node_has_brackets_in_agent_arguments() -> None:
    arguments = programs.agent_arguments(Node(name="n", uid="u", address="fd00::5"))
    assert arguments[-4:] == ["--api-listen", "[::]:7443", "--api-advertise", "[fd00::5]:7443"]


def test_agent_without_certificates_has_no_api() -> None:
    assert "--api-listen" not in programs.bare_agent_command(NODE, "127.0.0.1:2379", DEFAULT_PREFIX)


def test_environment_files_are_read_back_unchanged() -> None:
    variables = client_variables("[fd00::1]:2379", "/other/", AGENT_HOME)
    settings = Settings.from_environ(variables)
    assert settings is not None
    assert (settings.endpoints, settings.prefix, str(settings.key)) == (
        ("[fd00::1]:2379",),
        "/other/",
        "/etc/devopsellence/tls.key",
    )


def test_settings_file_quotes_values_for_systemd() -> None:
    assert settings_file({"A": 'b c"\\'}) == b'A="b c\\"\\\\"\n'


def unit(name: str, folder: str = "systemd") -> configparser.SectionProxy:
    """The [Service] of one of the units in a folder of deploy/."""
    parser = configparser.ConfigParser(strict=False, interpolation=None)
    parser.optionxform = str  # type: ignore[assignment, method-assign]
    parser.read(PROJECT / "deploy" / folder / f"{name}.service")
    return parser["Service"]


def test_systemd_units_read_settings_files() -> None:
    agent, controller = unit("devopsellence-agent"), unit("devopsellence-controller")
    assert agent["EnvironmentFile"] == f"{AGENT_HOME}/agent.env"
    assert agent["ExecStart"].endswith(f"/devopsellence-agent ${AGENT_ARGUMENTS}")
    assert f"/var/lib/{agent['StateDirectory']}" == programs.AGENT_STATE
    assert controller["EnvironmentFile"] == f"{programs.CONTROLLER_HOME}/controller.env"
    text = (PROJECT / "deploy" / "systemd" / "devopsellence-controller.service").read_text()
    for file in ("ca.crt", "tls.crt", "tls.key", "issuing.crt", "issuing.key"):
        assert f"LoadCredential={file}:{programs.CONTROLLER_HOME}/{file}\n" in text
    # A certificate that the agent renews is beside its settings.
    assert AGENT_HOME in agent["ReadWritePaths"].split()


def test_agent_unit_splits_arguments_like_a_shell() -> None:
    arguments = agent_variables(programs.agent_arguments(NODE), {})[AGENT_ARGUMENTS]
    assert arguments.split() == shlex.split(arguments) == programs.agent_arguments(NODE)


def test_etcd_units_read_settings_files() -> None:
    member, snapshot = unit("devopsellence-etcd", "etcd"), unit("devopsellence-etcd-snapshot", "etcd")
    assert member["EnvironmentFile"] == snapshot["EnvironmentFile"] == f"{programs.ETCD_HOME}/etcd.env"
    data = programs.member_variables("e1", MEMBERS)["ETCD_DATA_DIR"]
    assert data in [f"/var/lib/{each}" for each in member["StateDirectory"].split()]
    assert f"readonly HOME_DIR={programs.ETCD_HOME} " in (PROJECT / "deploy" / "etcd" / "etcd.sh").read_text()


def test_etcd_limits_are_explicit() -> None:
    variables = programs.member_variables("e1", MEMBERS)
    assert int(variables["ETCD_QUOTA_BACKEND_BYTES"]) == programs.QUOTA_BYTES
    # etcd makes a shorter lease last for one and a half elections; a controller's has 5 s.
    assert int(variables["ETCD_ELECTION_TIMEOUT"]) * 1.5 < 5000
