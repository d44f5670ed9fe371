from __future__ import annotations

import click
import pytest

from devopsellence.cli.errors import explain, of_store
from devopsellence.cli.output import CliError
from devopsellence.config import ConfigError, ConfigFinding
from devopsellence.store import errors as store
from devopsellence.store.keys import InvalidName
from devopsellence.store.settings import SettingsError


@pytest.mark.parametrize(
    ("error", "code", "exit_code", "mend"),
    [
        (store.Unavailable("x"), "etcd_unavailable", 1, "devopsellence doctor"),
        (store.Ambiguous("x"), "write_unconfirmed", 1, "devopsellence status"),
        (store.Unauthenticated("x"), "etcd_unauthenticated", 1, "devopsellence doctor"),
        (store.PermissionDenied("x"), "etcd_permission_denied", 1, "devopsellence doctor"),
        (store.NoSpace("x"), "etcd_no_space", 1, "etcdctl alarm disarm"),
        (store.MalformedRecord("/p/nodes/n1", "Node", "bad"), "record_unreadable", 1, "etcdctl get /p/nodes/n1"),
        (store.Rejected("x"), "etcd_failed", 1, "devopsellence doctor"),
    ],
)
def test_store_errors_have_a_code_and_a_fix(error: store.StoreError, code: str, exit_code: int, mend: str) -> None:
    explained = explain(error)
    assert (explained.code, explained.exit_code) == (code, exit_code)
    assert mend in [action.command for action in explained.next_actions]


@pytest.mark.parametrize(
    ("error", "code", "exit_code"),
    [
        (CliError("mine", "m", exit_code=7), "mine", 7),
        (InvalidName("node", "a b"), "invalid_name", 2),
        (SettingsError("bad"), "settings_invalid", 2),
        (click.UsageError("what"), "usage", 2),
        (click.Abort(), "interrupted", 130),
        (KeyboardInterrupt(), "interrupted", 130),
        (PermissionError(13, "Permission denied", "/x"), "io_failed", 1),
        (RuntimeError("oh"), "internal", 1),
    ],
)
def test_other_errors_have_a_code(error: BaseException, code: str, exit_code: int) -> None:
    explained = explain(error)
    assert (explained.code, explained.exit_code) == (code, exit_code)


def test_invalid_configuration_lists_all_findings() -> None:
    findings = [ConfigFinding("a", "a is required", "f.yml", 1, 2), ConfigFinding("b", "b is wrong", "f.yml", 3, 4)]
    explained = explain(ConfigError(findings))
    assert (explained.code, explained.exit_code) == ("config_invalid", 2)
    assert explained.message == "the configuration is not valid: 2 problems"
    assert [finding.message for finding in explained.findings] == ["f.yml:1:2: a is required", "f.yml:3:4: b is wrong"]


@pytest.mark.parametrize(
    ("said", "message"),
    [
        (
            "read /k: etcd does not answer at h:1 (UNKNOWN: ipv4:10.0.0.1:1: Failed to connect: refused)",
            "etcd at h:1 does not answer (Failed to connect: refused)",
        ),
        ("read /k: etcd does not answer at h:1", "etcd at h:1 does not answer"),
        ("the watch broke", "etcd at h:1 does not answer (the watch broke)"),
        ("", "etcd at h:1 does not answer"),
    ],
)
def test_unreachable_etcd_is_a_short_message(said: str, message: str) -> None:
    assert of_store(store.Unavailable(said), where="h:1").message == message


def test_unreachable_local_cluster_is_fixed_by_dev_up() -> None:
    explained = of_store(store.Unavailable("x"), where="h:1", dev=True)
    assert [action.command for action in explained.next_actions] == ["devopsellence dev up"]


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (
            store.PermissionDenied(
                "write /p/nodes/n1 (etcd at a:1): etcdserver: permission denied: operator:ann may not"
            ),
            "etcd_permission_denied",
            "access denied: operator:ann may not",
        ),
        (
            store.PermissionDenied("write /p/nodes/n1 (etcd at a:1): etcdserver: permission denied"),
            "etcd_permission_denied",
            "etcd at a:1: permission denied (write /p/nodes/n1 (etcd at a:1): etcdserver: permission denied)",
        ),
        (
            store.Unavailable("write /p/nodes/n1 (etcd at a:1): gateway: operator:ann writes too much"),
            "etcd_unavailable",
            "the gateway at a:1 refused a request: operator:ann writes too much",
        ),
    ],
)
def test_refusals_of_a_gateway_are_one_sentence(error: store.StoreError, code: str, message: str) -> None:
    explained = of_store(error, where="a:1")
    assert (explained.code, explained.message, explained.exit_code) == (code, message, 1)
