"""The command lines and environments of the three processes."""

from dataclasses import replace
from pathlib import Path

from devopsellence.cli.dev.cluster import PROCESSES, Programs, environment, envoy_image, etcd_command, specs
from devopsellence.cli.dev.paths import DevLayout
from devopsellence.cli.dev.spec import ProcessSpec
from devopsellence.cli.dev.state import DevState
from devopsellence.store.settings import Settings

LAYOUT = DevLayout(Path("/home/ann/state/dev"))
STATE = DevState(
    "box",
    "u1",
    "unix:///run/docker.sock",
    client_port=20100,
    peer_port=20101,
    agent_port=20102,
    http_port=8080,
    https_port=8443,
)
PROGRAMS = Programs("/usr/bin/etcd", "/usr/bin/python3", "1.0")
STAMPS = {"etcd": "e", "controller": "c", "node": "n"}
SHELL = {"PATH": "/bin", "HOME": "/home/ann", "ETCD_NAME": "x", "http_proxy": "http://p", "DEVOPSELLENCE_PREFIX": "/x/"}


def made(programs: Programs = PROGRAMS, **stamps: str) -> tuple[ProcessSpec, ...]:
    return specs(LAYOUT, STATE, programs, {**STAMPS, **stamps}, SHELL)


def test_start_order() -> None:
    assert tuple(spec.name for spec in made()) == PROCESSES == ("etcd", "controller", "agent")


def test_etcd_listens_on_loopback_with_client_certificates() -> None:
    command = etcd_command(LAYOUT, STATE, "/usr/bin/etcd")
    urls = [flag.partition("=")[2] for flag in command if "-urls=" in flag]
    assert urls
    assert all(url.startswith("https://127.0.0.1:") for url in urls)
    assert {"--client-cert-auth", "--peer-client-cert-auth", "--peer-cert-allowed-cn=etcd"} <= set(command)
    assert not any("unsafe" in flag for flag in command)


def test_programs_have_separate_certificates() -> None:
    _, controller, agent = made()
    assert Settings.from_environ(controller.env) == Settings(
        ("127.0.0.1:20100",),
        ca_cert=LAYOUT.pki / "ca.crt",
        cert=LAYOUT.pki / "controller.crt",
        key=LAYOUT.pki / "controller.key",
    )
    assert agent.env["DEVOPSELLENCE_ETCD_CERT"] == str(LAYOUT.pki / "node.crt")


def test_agent_arguments_name_the_node() -> None:
    argv = made()[2].argv
    assert argv[:4] == ("/usr/bin/python3", "-P", "-m", "devopsellence.nodeagent")
    assert {
        "--node=box",
        "--node-uid=u1",
        "--docker-host=unix:///run/docker.sock",
        "--api-listen=127.0.0.1:20102",
        "--ingress-http-port=8080",
        "--ingress-https-port=8443",
        "--ingress-peer-port=0",
        "--local-cluster",
    } <= set(argv)
    assert not [word for word in argv if word.startswith("--envoy-image")]


def test_agent_arguments_name_the_envoy_image() -> None:
    assert "--envoy-image=built-in" in made(replace(PROGRAMS, envoy="built-in"))[2].argv
    assert envoy_image({"DEVOPSELLENCE_ENVOY_IMAGE": "mirror.example.com/envoy:1"}) == "mirror.example.com/envoy:1"


def test_environment_keeps_only_needed_variables() -> None:
    kept = environment(SHELL)
    assert kept == {"PATH": "/bin", "HOME": "/home/ann", "PYTHONUNBUFFERED": "1", "MALLOC_ARENA_MAX": "2"}


def test_relative_module_folders_become_absolute() -> None:
    roots = environment({"PYTHONPATH": "core:/abs:"})["PYTHONPATH"].split(":")
    assert roots == [str(Path("core").absolute()), "/abs"]


def test_renewed_certificate_restarts_only_its_process() -> None:
    def changed(other: tuple[ProcessSpec, ...]) -> list[str]:
        return [before.name for before, after in zip(made(), other, strict=True) if before != after]

    assert changed(made()) == []
    assert changed(made(node="renewed")) == ["agent"]
    assert changed(made(Programs("/usr/bin/etcd", "/usr/bin/python3", "1.1"))) == ["controller", "agent"]
