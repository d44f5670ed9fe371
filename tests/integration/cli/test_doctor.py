"""``doctor``: checks that pass, and findings about problems."""

from __future__ import annotations

from pathlib import Path

from devopsellence.age import AgeIdentity
from devopsellence.api.v1.stored_pb2 import Candidate, Heartbeat, Secret
from devopsellence.store.keys import EnvironmentRef
from tests.support.cli import Cli
from tests.support.etcd import EtcdServer
from tests.support.need import need_docker, need_etcd


def test_doctor_passes_on_healthy_cluster(shop: Cli) -> None:
    uid = shop.json("node", "register", "n1")["uid"]
    shop.write(lambda etcd: etcd.keys.heartbeat("n1"), Heartbeat(node="n1", uid=uid, docker_version="20.10"))
    shop.write(lambda etcd: etcd.keys.candidate(1), Candidate(identity="host/1"))
    shop.write(lambda etcd: etcd.keys.candidate(2), Candidate(identity="host/2"))
    checks = {check["name"]: check for check in shop.json("doctor")["checks"]}
    assert [check["severity"] for check in checks.values()] == ["ok"] * 7
    assert checks["cluster"]["message"].endswith("because DEVOPSELLENCE_ETCD_ENDPOINTS is set")
    assert "host/1" in checks["controller"]["message"]
    assert "acme/Shop" in checks["configuration"]["message"]
    assert "20.10" in checks["node n1"]["message"]


def test_doctor_reports_missing_parts_with_fix(cli: Cli) -> None:
    need_docker()
    cli.ok("node", "register", "n1")
    result = cli.run("doctor")
    assert result.exit_code == 1
    assert "FAIL  controller: no controller is running" in result.stdout
    assert "FAIL  node n1: no heartbeat" in result.stdout
    assert "warn  configuration: no devopsellence.yml here" in result.stdout
    assert "failed checks: controller, node n1" in result.stderr
    codes = [finding["code"] for finding in cli.error("doctor")["findings"]]
    assert codes == ["config_missing", "no_controller", "node_unreachable"]


def test_doctor_reports_dead_etcd_beside_other_checks(cli: Cli) -> None:
    result = cli.run("--etcd-endpoints", "127.0.0.1:1", "doctor")
    assert result.exit_code == 1
    assert "FAIL  etcd: etcd at 127.0.0.1:1 does not answer" in result.stdout
    assert "docker:" in result.stdout


def test_doctor_reports_invalid_configuration_without_cluster(cli: Cli) -> None:
    (cli.folder / "devopsellence.yml").write_text("services: 3\n")
    del cli.environ["DEVOPSELLENCE_ETCD_ENDPOINTS"]
    codes = [finding["code"] for finding in cli.error("doctor")["findings"]]
    assert codes[0] == "config_invalid"
    assert codes[-1] == "etcd_unavailable"


def test_doctor_reports_full_etcd_with_fix(cli: Cli, tmp_path: Path) -> None:
    need_etcd()
    with EtcdServer(tmp_path / "etcd", arguments=["--quota-backend-bytes=200000"]) as server:
        full = Cli(server.settings(), cli.folder)
        for index in range(40):
            try:
                server.etcdctl("put", f"/x{index}", "x" * 10_000)
            except RuntimeError:
                break
        error = full.error("doctor")
        (alarm,) = [finding for finding in error["findings"] if finding["code"] == "etcd_no_space"]
        assert [action["command"].split()[1] for action in alarm["next_actions"]] == [
            "endpoint",
            "compact",
            "defrag",
            "alarm",
        ]
        refused = full.error("node", "register", "n1")
        assert refused["code"] == "etcd_no_space"


def test_doctor_reports_readable_or_invalid_identity(cli: Cli, tmp_path: Path) -> None:
    path = tmp_path / "operator.age"
    cli.environ["DEVOPSELLENCE_IDENTITY"] = str(path)

    def identity() -> tuple[str, str]:
        findings = {finding["message"].partition(":")[0]: finding for finding in cli.error("doctor")["findings"]}
        record = findings.get("identity", {})
        return record.get("severity", "ok"), record.get("code", "")

    assert identity() == ("ok", "")
    assert not path.exists()
    cli.write(lambda etcd: etcd.keys.secret(EnvironmentRef("o", "p", "e"), "web", "S"), Secret())
    assert identity() == ("warning", "identity_missing")
    path.write_text(AgeIdentity.generate().text())
    path.chmod(0o600)
    assert identity() == ("ok", "")
    path.chmod(0o644)
    assert identity() == ("warning", "identity_open")
    path.write_text("nonsense")
    assert identity() == ("error", "identity_unusable")
    path.unlink()
    path.mkdir()
    assert identity() == ("error", "identity_unusable")
