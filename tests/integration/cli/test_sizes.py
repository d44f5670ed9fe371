"""Records that etcd would not take are refused with node, size and the largest part, before anything is written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from devopsellence.age import AgeIdentity
from devopsellence.api.v1.stored_pb2 import Secret, SecretVersion
from devopsellence.store.size import MAX_RECORD_BYTES
from tests.integration.cli.secret_operator import Operator, service
from tests.support.cli import REF, Cli

COUNT = 24
NAMES = [f"S{number}" for number in range(COUNT)]


def _config(services: dict[str, int], **env: str) -> str:
    """Return a configuration; each service refers to the first secrets, as many as said."""
    lines = ["schema_version: 1", "organization: acme", "project: Shop", "services:"]
    for name, count in services.items():
        lines += [f"  {name}:", "    image: shop:1"]
        lines += ["    ports: [{name: http, port: 3000}]", "    healthcheck: {}"] if name == "web" else []
        lines += ["    env:", *(f"      {key}: {value}" for key, value in env.items())] if env else []
        lines += ["    secret_refs:"] if count else []
        lines += [f"      - {{name: {secret}, secret: {secret}}}" for secret in NAMES[:count]]
    return "\n".join([*lines, ""])


@pytest.fixture
def ann(cli: Cli, tmp_path: Path) -> Operator:
    (cli.folder / "devopsellence.yml").write_text(_config({"web": 0, "worker": 0}))
    ann = Operator(cli.settings, cli.folder, tmp_path / "ann" / "operator.age")
    ann.node("n1")
    ann.ok("node", "attach", "n1")
    return ann


def _store(operator: Operator, service: str, count: int, size: int) -> None:
    """Store secrets with encrypted files of ``size`` bytes, which nothing has to decrypt."""
    for name in NAMES[:count]:
        names: dict[str, Any] = {
            "organization": REF.organization,
            "project": REF.project,
            "environment": REF.environment,
        }
        version = SecretVersion(version=1, age="x" * size, recipients=["r1"])
        operator.write(
            lambda etcd, name=name: etcd.keys.secret(REF, service, name),  # type: ignore[misc]
            Secret(service=service, name=name, versions=[version], **names),
        )


@pytest.mark.parametrize("flags", [(), ("--dry-run",)], ids=["deploy", "dry run"])
def test_deploy_refuses_secrets_that_are_too_much_for_a_node(ann: Operator, flags: tuple[str, ...]) -> None:
    (ann.folder / "devopsellence.yml").write_text(_config({"web": COUNT}))
    _store(ann, "web", COUNT, 80_000)
    before = ann.dump()
    result = ann.run("deploy", *flags)
    assert result.exit_code == 2, result.output
    assert "node n1 could not get this release, its assignment is too large for etcd: " in result.stderr
    assert "most of it is secrets (" in result.stderr
    assert ann.dump() == before
    assert ann.error("deploy", *flags)["code"] == "assignment_too_large"


def test_deploy_refuses_a_release_that_is_too_large(ann: Operator) -> None:
    """Not the file, of at most 1 MiB, but what is stored: JSON has six bytes for such a character."""
    (ann.folder / "devopsellence.yml").write_text(
        _config({"web": 0}, **{f"E{number}": "€" * 33_000 for number in range(8)})
    )
    before = ann.dump()
    error = ann.error("deploy")
    assert error["message"].startswith("production: the release is too large for etcd: 15")
    assert error["code"] == "release_too_large"
    assert ann.dump() == before


def test_attach_refuses_a_node_that_would_get_too_much(ann: Operator) -> None:
    """No other node runs both services."""
    ann.node("web", labels="web")
    ann.node("worker", labels="worker")
    ann.ok("node", "detach", "n1", "-y")
    ann.ok("node", "attach", "web")
    ann.ok("node", "attach", "worker")
    for name in ("web", "worker"):
        _store(ann, name, 10, MAX_RECORD_BYTES // 14)
    refs = dict.fromkeys(NAMES[:10], 1)
    ann.release(1, service("web", **refs), service("worker", **refs))
    before = ann.dump()
    error = ann.error("node", "attach", "n1")
    assert error["code"] == "assignment_too_large"
    assert "node n1 could not get this release" in error["message"]
    assert ann.dump() == before


def test_secret_set_with_apply_refuses_a_value_that_is_too_much(ann: Operator) -> None:
    _store(ann, "web", 10, MAX_RECORD_BYTES // 10 - 4_000)
    ann.set("S10", b"small")
    ann.release(1, service("web", **dict.fromkeys(NAMES[:11], 1)))
    before = ann.stored("S10")
    result = ann.piped(b"x" * 60_000, "secret", "set", "S10", "--service", "web", "--stdin", "--apply")
    assert result.exit_code == 2, result.output
    assert "node n1 could not get this release, its assignment is too large for etcd: " in result.stderr
    assert ann.stored("S10") == before
    assert ann.newest().number == 1


def test_record_of_one_secret_that_is_too_large_is_refused(ann: Operator) -> None:
    """Versions in use stay, however large they are; without --apply no assignment is asked about."""
    key = AgeIdentity.generate()
    version = SecretVersion(version=1, age="x" * (MAX_RECORD_BYTES - 20_000), recipients=[key.recipient])
    names: dict[str, Any] = {"organization": REF.organization, "project": REF.project, "environment": REF.environment}
    ann.write(
        lambda etcd: etcd.keys.secret(REF, "web", "S0"), Secret(service="web", name="S0", versions=[version], **names)
    )
    ann.release(1, service("web", S0=1))
    result = ann.piped(b"x" * 60_000, "secret", "set", "S0", "--service", "web", "--stdin")
    assert result.exit_code == 2, result.output
    assert "secrets/acme/Shop/production/web/S0 is too large: " in result.stderr
    assert "most of it is versions 1 age (" in result.stderr
    assert ann.versions("S0") == [1]
