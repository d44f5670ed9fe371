"""Form of a context in the file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from devopsellence.cli import reach
from devopsellence.cli.contexts.record import ClusterContext
from devopsellence.cli.ssh.host import SshHost
from devopsellence.store.settings import Settings

FULL = ClusterContext(
    Settings(
        endpoints=("10.0.0.1:2381", "10.0.0.2:2381"),
        ca_cert=Path("/ann/ca.crt"),
        cert=Path("/ann/tls.crt"),
        key=Path("/ann/tls.key"),
        server_name="gateway.example.com",
        prefix="/other/",
    )
)
PASSWORD = ClusterContext(Settings(endpoints=("etcd:2379",), username="ann", password_file=Path("/ann/password")))

THROUGH = ClusterContext(reach.through(FULL.settings, SshHost("bastion", "ops", 2222)))


@pytest.mark.parametrize("context", [FULL, PASSWORD, THROUGH, ClusterContext(Settings(endpoints=("127.0.0.1:2379",)))])
def test_form_is_read_back(context: ClusterContext) -> None:
    assert ClusterContext.parse(context.document()) == context


def test_form_leaves_out_absent_values() -> None:
    assert "ca_cert" not in PASSWORD.document()
    assert "username" not in FULL.document()
    assert "ssh" not in FULL.document()
    assert THROUGH.document()["ssh"] == "ops@bastion:2222"


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"endpoints": None}, "'endpoints' is not a list of addresses"),
        ({"endpoints": "10.0.0.1:2381"}, "'endpoints' is not a list of addresses"),
        ({"endpoints": [1]}, "'endpoints' is not a list of addresses"),
        ({"endpoints": []}, "names no endpoint"),
        ({"endpoints": ["10.0.0.1"]}, "is not address:port"),
        ({"key": "tls.key"}, "'key' is not an absolute path"),
        ({"key": 7}, "'key' is not a text"),
        ({"ssh": "-oProxyCommand=x"}, "is not an ssh host"),
        ({"ssh": ["bastion"]}, "'ssh' is not a text"),
        ({"ssh": "bastion", "endpoints": ["-x:2381"]}, "is not host:port"),
        ({"color": "blue"}, "'color' is unknown to this version"),
        ({"prefix": "other"}, "DEVOPSELLENCE_PREFIX"),
    ],
)
def test_wrong_value_is_refused(change: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        ClusterContext.parse({**FULL.document(), **change})
