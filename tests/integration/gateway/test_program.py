"""The gateway in the controller program: options, leader and standby alike, and its end."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from devopsellence.api.v1 import stored_pb2 as pb
from devopsellence.store.codec import encode
from devopsellence.store.etcd import Etcd
from devopsellence.store.identities import USER_OPERATOR
from devopsellence.store.settings import Settings
from tests.support.authority import Authority, settings_with
from tests.support.controller import ControllerProcess
from tests.support.gateway_cluster import gateway_options
from tests.support.ports import free_ports

pytestmark = pytest.mark.etcd

Options = Callable[[int], tuple[str, ...]]


@pytest.fixture
def options(authority: Authority) -> Options:
    files = authority.issue_server("gateway")

    return partial(gateway_options, files)


async def test_every_controller_serves_the_gateway(
    settings: Settings, authority: Authority, options: Options, tmp_path: Path
) -> None:
    ports = free_ports(2)
    through = settings_with(replace(settings, endpoints=("127.0.0.1:1",)), authority.issue(USER_OPERATOR))
    with ExitStack() as stack:
        controllers = []
        for port in ports:
            controller = ControllerProcess(settings, tmp_path / f"{port}.log", *options(port))
            stack.callback(controller.end)
            await controller.logged("gateway started")
            controllers.append(controller)
        for port in ports:
            async with Etcd(replace(through, endpoints=(f"127.0.0.1:{port}",))) as etcd:
                key = etcd.keys.node(f"n{port}")
                await etcd.put(key, encode(pb.Node(name=f"n{port}", uid=f"uid-{port}")))
                assert await etcd.get(key)
        both = tuple(f"127.0.0.1:{port}" for port in ports)
        async with Etcd(replace(through, endpoints=both)) as etcd:
            controllers[0].end()
            assert len((await etcd.list(etcd.keys.nodes_prefix)).items) == 2
        assert controllers[1].lines("written")
        assert await controllers[1].stop() == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda given: [*given[:1], *given[2:]], "give both or none of --gateway-cert and --gateway-key"),
        (lambda given: given[:1], "--gateway-listen needs certificates"),
        (lambda given: given[:3], "--gateway-listen needs certificates"),
        (lambda given: given[1:], "--gateway-cert needs an address"),
        (lambda given: given[2:], "--gateway-key needs an address"),
        (lambda given: given[3:], "--gateway-ca-cert needs an address"),
        (lambda given: ["--gateway-advertise=10.0.0.1:2381"], "--gateway-advertise needs an address"),
        (lambda given: [*given, "--gateway-advertise=gateway.example:2381"], "'gateway.example:2381' is not an IP"),
        (lambda given: ["--gateway-listen=nowhere", *given[1:]], "'nowhere' is not address:port"),
        (lambda given: [*given[:1], "--gateway-cert=/missing", *given[2:]], "/missing cannot be read"),
        (lambda given: [*given[:2], given[1].replace("-cert=", "-key="), *given[3:]], "is not the key of"),
    ],
)
def test_unusable_option_ends_the_program(
    settings: Settings, options: Options, change: Callable[[list[str]], list[str]], message: str
) -> None:
    command = [sys.executable, "-m", "devopsellence.controller", f"--etcd-endpoints={settings.endpoints[0]}"]
    command += change(list(options(free_ports(1)[0])))
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert (done.returncode, message in done.stderr) == (2, True), done.stderr
