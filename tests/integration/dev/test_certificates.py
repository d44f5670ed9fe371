"""Local cluster's certificates on disk: created once, renewed when due, recreated when damaged."""

import datetime
from pathlib import Path

import pytest
from cryptography import x509

from devopsellence.agent_identity import server_name
from devopsellence.certificates.authority import CertificateAuthority, CertificateRequest
from devopsellence.certificates.pem import CertificateError, load_certificate
from devopsellence.cli.dev import state
from devopsellence.cli.dev.certificates import ensure
from devopsellence.cli.dev.paths import DevLayout
from tests.support.dev import Dev
from tests.support.until import until

NOW = datetime.datetime(2026, 3, 1, 12, tzinfo=datetime.UTC)
DAY = datetime.timedelta(days=1)
UID = 32 * "a"


@pytest.fixture
def layout(tmp_path: Path) -> DevLayout:
    layout = DevLayout(tmp_path / "dev")
    state.make_folders(layout)
    return layout


def changed(before: dict[str, str], after: dict[str, str]) -> list[str]:
    return [name for name in before if before[name] != after[name]]


def test_certificates_are_created_once(layout: DevLayout) -> None:
    certificates = ensure(layout, "local", UID, NOW)
    assert list(certificates) == ["etcd", "operator", "controller", "node"]
    assert {path.name: path.stat().st_mode & 0o777 for path in layout.pki.iterdir()} == {
        **{f"{name}.crt": 0o644 for name in ("ca", *certificates)},
        **{f"{name}.key": 0o600 for name in ("ca", *certificates)},
    }
    assert ensure(layout, "local", UID, NOW + 240 * DAY) == certificates


def test_expiring_leaf_certificates_are_renewed_by_same_authority(layout: DevLayout) -> None:
    certificates = ensure(layout, "local", UID, NOW)
    authority = layout.certificate("ca").read_bytes()
    assert changed(certificates, ensure(layout, "local", UID, NOW + 340 * DAY)) == list(certificates)
    assert layout.certificate("ca").read_bytes() == authority


@pytest.mark.parametrize("damage", ["node.crt", "node.key"])
def test_missing_or_damaged_certificates_are_recreated(layout: DevLayout, damage: str) -> None:
    certificates = ensure(layout, "local", UID, NOW)
    path = layout.pki / damage
    path.unlink() if damage.endswith(".key") else path.write_text("nonsense")
    assert changed(certificates, ensure(layout, "local", UID, NOW)) == ["node"]


@pytest.mark.parametrize("passed", [0 * DAY, 3640 * DAY], ids=["damaged", "old"])
def test_new_authority_reissues_all_certificates(layout: DevLayout, passed: datetime.timedelta) -> None:
    certificates = ensure(layout, "local", UID, NOW)
    if not passed:
        layout.key("ca").write_text("nonsense")
    assert changed(certificates, ensure(layout, "local", UID, NOW + passed)) == list(certificates)


def test_authority_with_foreign_key_is_refused(layout: DevLayout) -> None:
    ensure(layout, "local", UID, NOW)
    with pytest.raises(CertificateError, match="is not the key of"):
        CertificateAuthority.load(layout.certificate("ca"), layout.key("etcd"))


def test_up_renews_due_certificates_and_restarts_affected_processes(up: Dev) -> None:
    layout = up.layout
    authority = CertificateAuthority.load(layout.certificate("ca"), layout.key("ca"))
    old = authority.issue(
        CertificateRequest(f"node:{up.saved_state()['node_uid']}"), datetime.datetime.now(datetime.UTC) - 340 * DAY
    )
    old.write(layout.certificate("node"), layout.key("node"))
    before = up.pids()
    up("up")
    assert layout.certificate("node").read_bytes() != old.certificate
    after = up.pids()
    assert [name for name in before if before[name] != after[name]] == ["agent"]
    until("all do their work", up.healthy)


def test_up_adds_agent_server_name_to_old_certificate(up: Dev) -> None:
    layout = up.layout
    authority = CertificateAuthority.load(layout.certificate("ca"), layout.key("ca"))
    authority.issue(CertificateRequest("node:local"), datetime.datetime.now(datetime.UTC)).write(
        layout.certificate("node"), layout.key("node")
    )
    before = up.pids()
    up("up")
    names = load_certificate(layout.certificate("node")).extensions.get_extension_for_class(x509.SubjectAlternativeName)
    assert names.value.get_values_for_type(x509.DNSName) == [server_name(up.saved_state()["node_uid"])]
    assert [name for name, pid in up.pids().items() if before[name] != pid] == ["agent"]
    until("all do their work", up.healthy)


def test_up_recreates_lost_authority(up: Dev) -> None:
    up.layout.key("ca").unlink()
    up("up")
    until("all do their work", up.healthy)
