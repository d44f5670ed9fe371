"""``cluster``: set up etcd and a controller from the files that the commands write."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.x509.oid import NameOID

from devopsellence.agent_identity import server_name
from devopsellence.api.v1.stored_pb2 import Environment
from devopsellence.certificates.authority import CertificateAuthority
from devopsellence.certificates.pem import load_certificate
from devopsellence.cli.cluster.authority import Passphrase
from devopsellence.cli.cluster.folder import ClusterFolder, ControlPlane
from devopsellence.cli.cluster.init import initialize
from devopsellence.store.keys import DEFAULT_PREFIX
from tests.integration.cli.running_cluster import RunningCluster
from tests.support.cli import REF, Cli
from tests.support.need import need_docker

FILES = {"ca.crt": 0o644, "tls.crt": 0o644, "tls.key": 0o600}


def modes(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mode & 0o777 for path in folder.iterdir()}


def test_cluster_init_writes_authority_and_bundles(bare: Cli, pki: Path) -> None:
    output = bare.ok(
        "cluster", "init", "--no-passphrase", "--pki", str(pki), "--etcd", "e1=10.0.0.1", "--etcd", "e2=10.0.0.2"
    )
    assert pki.stat().st_mode & 0o777 == 0o700
    assert (pki / "ca.key").stat().st_mode & 0o777 == 0o600
    assert modes(pki / "root") == {**FILES, "etcdctl.env": 0o644}
    assert modes(pki / "controller") == {
        **FILES,
        "controller.env": 0o644,
        "issuing.crt": 0o644,
        "issuing.key": 0o600,
    }
    assert modes(pki / "etcd-e2") == {**FILES, "etcd.env": 0o644}
    assert "/etc/etcd/devopsellence on 10.0.0.2" in output
    assert "export DEVOPSELLENCE_ETCD_ENDPOINTS=10.0.0.1:2381,10.0.0.2:2381" in output
    names = load_certificate(pki / "etcd-e2" / "tls.crt").extensions.get_extension_for_class(
        x509.SubjectAlternativeName
    )
    assert "10.0.0.2" in [str(address) for address in names.value.get_values_for_type(x509.IPAddress)]


def test_cluster_init_again_renews_only_unusable_certificates(bare: Cli, pki: Path) -> None:
    init = ("cluster", "init", "--no-passphrase", "--pki", str(pki))
    bare.ok(*init, "--etcd", "e1=10.0.0.1")
    keys = {path: path.read_bytes() for path in pki.rglob("*.key")}
    again = bare.json(*init)
    assert again["members"] == {"e1": "10.0.0.1"}
    assert {bundle["outcome"] for bundle in again["bundles"]} == {"kept"}
    moved = bare.json(*init, "--etcd", "e1=10.0.0.9")
    assert [(bundle["outcome"], bundle["why"]) for bundle in moved["bundles"] if "etcd-e1" in bundle["folder"]] == [
        ("renewed", "issued for other names")
    ]
    assert {path: path.read_bytes() for path in keys} == keys
    bare.ok(*init, "--force", "-y")
    assert all(path.read_bytes() != key for path, key in keys.items())


def test_concurrent_cluster_inits_make_one_authority(pki: Path) -> None:
    machines, unencrypted = ControlPlane({"e1": "10.0.0.1"}), Passphrase(str, str)
    with ThreadPoolExecutor(4) as pool:
        done = list(
            pool.map(
                lambda _: initialize(ClusterFolder(pki), machines, DEFAULT_PREFIX, unencrypted, force=False), range(4)
            )
        )
    outcomes = [issued.outcome for begun in done for _, issued in begun.issued]
    assert sorted(outcomes) == ["kept"] * 9 + ["made"] * 3
    authority = CertificateAuthority.load(pki / "issuing.crt", pki / "issuing.key", trusted=pki / "ca.crt")
    for bundle in ("root", "controller", "etcd-e1"):
        load_certificate(pki / bundle / "tls.crt").verify_directly_issued_by(authority.certificate)


@pytest.mark.parametrize(
    ("damage", "code"),
    [
        (lambda pki: (pki / "issuing.key").unlink(), "authority_unusable"),
        (lambda pki: (pki / "ca.crt").write_text("nonsense"), "authority_unusable"),
        (lambda pki: (pki / "ca.crt").write_bytes((pki / "root" / "tls.crt").read_bytes()), "authority_unusable"),
        (lambda pki: (pki / "root" / "tls.key").write_text("nonsense"), "key_unusable"),
        (lambda pki: (pki / "cluster.json").write_text("[]"), "cluster_record_unreadable"),
    ],
)
def test_damaged_authority_is_not_overwritten(bare: Cli, pki: Path, damage: Callable[[Path], None], code: str) -> None:
    bare.ok("cluster", "init", "--no-passphrase", "--pki", str(pki))
    damage(pki)
    before = {path: path.read_bytes() for path in pki.rglob("*") if path.is_file() and path.name != ".lock"}
    assert bare.error("cluster", "init", "--no-passphrase", "--pki", str(pki))["code"] == code
    assert {path: path.read_bytes() for path in before} == before


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["node", "n" * 64], "invalid_name"),
        (["node", "../n1"], "invalid_name"),
        (["operator", "a/b"], "invalid_name"),
        (["operator"], "usage"),
    ],
)
def test_invalid_name_leaves_no_file(bare: Cli, pki: Path, arguments: list[str], code: str) -> None:
    bare.ok("cluster", "init", "--no-passphrase", "--pki", str(pki))
    before = sorted(pki.rglob("*"))
    error = bare.error("cluster", "issue", *arguments, "--pki", str(pki))
    assert (error["code"], error["exit_code"]) == (code, 2)
    assert sorted(pki.rglob("*")) == before


def test_missing_authority_issues_nothing(bare: Cli, pki: Path) -> None:
    assert bare.error("cluster", "issue", "node", "n1", "--pki", str(pki))["code"] == "authority_missing"
    assert not pki.exists()


def test_node_certificate_and_key_belong_to_one_machine(bare: Cli, pki: Path) -> None:
    bare.ok("cluster", "init", "--no-passphrase", "--pki", str(pki))
    issue = ("cluster", "issue", "node", "n1", "--pki", str(pki))
    error = bare.error(*issue)
    assert error["code"] == "etcd_unavailable"
    assert "--uid <uid>" in error["findings"][-1]["next_actions"][-1]["command"]
    assert not (pki / "node-n1").exists()
    assert bare.json(*issue, "--uid", "first")["common_name"] == "node:first"
    key = (pki / "node-n1" / "tls.key").read_bytes()
    certificate = load_certificate(pki / "node-n1" / "tls.crt")
    units = certificate.subject.get_attributes_for_oid(NameOID.ORGANIZATIONAL_UNIT_NAME)
    assert [unit.value for unit in units] == ["n1"]
    assert bare.json(*issue, "--uid", "first")["outcome"] == "kept"
    assert (pki / "node-n1" / "tls.key").read_bytes() == key
    # The machine before still has that key: another one is made for the next.
    second = bare.json(*issue, "--uid", "second")
    assert (second["outcome"], second["why"]) == ("made", "the old one was for 'node:first'")
    assert (pki / "node-n1" / "tls.key").read_bytes() != key


def test_operator_without_access_gets_no_certificate_but_a_command(bare: Cli, pki: Path) -> None:
    bare.ok("cluster", "init", "--no-passphrase", "--pki", str(pki))
    error = bare.error("cluster", "issue", "operator", "ann", "--pki", str(pki))
    assert error["code"] == "etcd_unavailable"
    assert error["message"].startswith("ann has no access to the cluster, and no certificate yet: ")
    assert not (pki / "operator-ann").exists()
    assert "created" in bare.ok("cluster", "issue", "operator", "ann", "--no-grant", "--pki", str(pki))


def test_cluster_from_scratch_grants_access_by_role(started: RunningCluster, tmp_path: Path) -> None:
    started.ok("issue", "operator", "ann")
    root, ann = started.as_party("root"), started.as_party("operator-ann")
    document = root.json("node", "register", "n1", "--address", "10.0.0.5", "--pki", str(started.pki))
    bundle = Path(document["bundle"])
    assert modes(bundle) == {**FILES, "agent.env": 0o644}
    names = load_certificate(bundle / "tls.crt").extensions.get_extension_for_class(x509.SubjectAlternativeName)
    assert names.value.get_values_for_type(x509.DNSName) == [server_name(document["uid"])]
    assert document["agent_command"].startswith(f"devopsellence-agent --node n1 --node-uid {document['uid']} ")
    assert "--api-advertise 10.0.0.5:7443" in document["agent_command"]
    assert document["uid"] in (bundle / "agent.env").read_text()
    # The folder's certificate is asked for by name as well: etcd knows the uid.
    assert document["uid"] in started.ok("issue", "node", "n1")
    # An operator works, and lets a node in: its record is all that the gateway asks for.
    assert [node["node"] for node in ann.json("node", "list")["nodes"]] == ["n1"]
    ann.json("node", "register", "n2", "--pki", str(started.pki))
    # A node and a member of etcd are no operators; who has no access record gets nothing.
    assert started.as_party(bundle.name).error("node", "list")["code"] == "etcd_permission_denied"
    started.ok("issue", "operator", "bob", "--no-grant")
    for stranger in ("etcd-e1", "operator-bob"):
        assert started.as_party(stranger).error("node", "list")["code"] == "etcd_permission_denied"


def test_operator_is_added_with_roles_and_removed_for_good(started: RunningCluster, tmp_path: Path) -> None:
    def operator(*arguments: str) -> tuple[str, ...]:
        return ("operator", *arguments, "--pki", str(started.pki), "--etcd-endpoints", started.endpoints)

    add = operator("add", "ann", "--role", "viewer", "--role", "exec", "--environment", "acme/*")
    bare = started.cli
    for arguments, code in (
        (operator("add", "ann", "--role", "viewer", "--environment", "acme"), "invalid_environments"),
        (operator("add", "a/b", "--role", "viewer"), "invalid_name"),
        (operator("add", "ann"), "usage"),
    ):
        error = bare.error(*arguments)
        assert (error["code"], error["exit_code"]) == (code, 2)
    assert not (started.pki / "operator-ann").exists()
    document = bare.json(*add, "--out", str(tmp_path / "ann"))
    assert (document["common_name"], document["outcome"]) == ("operator:ann", "made")
    assert modes(tmp_path / "ann") == FILES
    bare.json(*add)
    ann, root = started.as_party("operator-ann"), started.as_party("root")
    shown = root.json("operator", "list")["operators"]
    roles = [{"role": "viewer", "environments": ["acme/*"]}, {"role": "exec", "environments": ["acme/*"]}]
    assert [(entry["operator"], entry["roles"]) for entry in shown] == [("ann", roles)]
    assert shown[0]["since"]
    assert ann.json("operator", "list")["operators"] == shown
    refused = ann.error("node", "register", "n1")
    assert "ann may not " in refused["message"]
    error = bare.error(*operator("add", "ann", "--role", "admin"))
    assert (error["code"], error["exit_code"]) == ("operator_exists", 1)
    # The old name of the command keeps what an operator has.
    started.ok("issue", "operator", "ann")
    assert root.json("operator", "list")["operators"] == shown
    assert root.json("operator", "remove", "ann", "-y")["removed"]
    assert ann.error("node", "list")["message"].startswith("access denied: the certificate of operator:ann is denied")
    assert bare.error(*add)["code"] == "operator_removed"


def test_etcd_itself_accepts_the_control_plane_alone(started: RunningCluster) -> None:
    started.ok("issue", "operator", "ann")
    started.as_party("root").json("node", "register", "n1", "--pki", str(started.pki))
    for bundle in ("root", "controller"):
        assert started.as_party(bundle, at_etcd=True).run("node", "list").exit_code == 0
    for bundle in ("operator-ann", "node-n1", "etcd-e1"):
        assert started.as_party(bundle, at_etcd=True).error("node", "list")["code"] == "etcd_unavailable"


def test_agent_started_by_registered_command_answers_operators(started: RunningCluster, tmp_path: Path) -> None:
    need_docker()
    started.ok("issue", "operator", "ann")
    root, ann = started.as_party("root"), started.as_party("operator-ann")
    document = root.json("node", "register", "n1", "--address", "127.0.0.1", "--pki", str(started.pki))
    environment = Environment(
        organization=REF.organization, project=REF.project, environment=REF.environment, nodes=["n1"]
    )
    root.write(lambda etcd: etcd.keys.environment(REF), environment)
    with started.agent(document, tmp_path / "agent") as api_address:
        checks = ann.run("doctor").stdout
        assert f"ok    agent n1: responds at {api_address}" in checks, checks


def test_agent_that_is_cut_off_says_how_old_its_access_data_is(started: RunningCluster, tmp_path: Path) -> None:
    need_docker()
    root = started.as_party("root")
    document = root.json("node", "register", "n1", "--address", "127.0.0.77", "--pki", str(started.pki))
    environment = Environment(
        organization=REF.organization, project=REF.project, environment=REF.environment, nodes=["n1"]
    )
    root.write(lambda etcd: etcd.keys.environment(REF), environment)
    error = root.error("node", "diagnose", "n1")
    assert error["message"].endswith("cannot reach etcd; nothing answers at 127.0.0.77:7443")
    document["agent_command"] = document["agent_command"].replace("0.0.0.0:7443", "127.0.0.77:7443")
    said = "the deny-list, the access of operators and the gateways are unknown, none has answered yet"
    with started.agent_cut_off(document, tmp_path / "agent"):
        findings = root.run("node", "diagnose", "n1").stdout
        assert said in findings, findings
        checks = root.run("doctor").stdout
        assert "etcd of node n1" in checks, checks


def test_authority_of_another_cluster_issues_nothing(started: RunningCluster, tmp_path: Path) -> None:
    other = tmp_path / "other"
    started.cli.ok("cluster", "init", "--no-passphrase", "--pki", str(other))
    root = started.as_party("root")
    assert root.error("node", "register", "n1", "--pki", str(other))["code"] == "authority_other"
    assert not (other / "node-n1").exists()
    # Where nobody said which, it is left to whoever has the right one.
    root.environ["DEVOPSELLENCE_HOME"] = str(tmp_path / "home")
    root.ok("cluster", "init", "--no-passphrase", "--pki", str(tmp_path / "home" / "cluster"))
    assert root.json("node", "register", "n1")["bundle"] is None
