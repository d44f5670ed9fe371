"""Settings from environment variables and back; invalid settings."""

from __future__ import annotations

from pathlib import Path

import pytest

from devopsellence.store.settings import ETCD_SERVER_NAME, Settings, SettingsError


def test_missing_endpoints_mean_no_cluster() -> None:
    assert Settings.from_environ({}) is None
    assert Settings.from_environ({"DEVOPSELLENCE_ETCD_ENDPOINTS": " , "}) is None


def test_minimal_settings() -> None:
    settings = Settings.from_environ({"DEVOPSELLENCE_ETCD_ENDPOINTS": "127.0.0.1:2379"})
    assert settings == Settings(("127.0.0.1:2379",), server_name=ETCD_SERVER_NAME, prefix="/devopsellence/v1/")


@pytest.mark.parametrize(
    ("text", "endpoints", "target"),
    [
        ("10.0.0.1:2379, 10.0.0.2:2379", ("10.0.0.1:2379", "10.0.0.2:2379"), "ipv4:10.0.0.1:2379,10.0.0.2:2379"),
        ("http://10.0.0.1:2379", ("10.0.0.1:2379",), "ipv4:10.0.0.1:2379"),
        ("https://10.0.0.1:2379/", ("10.0.0.1:2379",), "ipv4:10.0.0.1:2379"),
        ("localhost:2379", ("127.0.0.1:2379",), "ipv4:127.0.0.1:2379"),
        ("[::1]:2379,[fd00::2]:2379", ("[::1]:2379", "[fd00::2]:2379"), "ipv6:[::1]:2379,[fd00::2]:2379"),
        ("etcd.example:2379", ("etcd.example:2379",), "dns:///etcd.example:2379"),
    ],
)
def test_endpoints(text: str, endpoints: tuple[str, ...], target: str) -> None:
    settings = Settings.from_environ({"DEVOPSELLENCE_ETCD_ENDPOINTS": text})
    assert settings is not None
    assert settings.endpoints == endpoints
    assert settings.target == target


def test_settings_round_trip_through_environment() -> None:
    full = Settings(
        endpoints=("10.0.0.1:2379", "10.0.0.2:2379"),
        ca_cert=Path("/pki/ca.pem"),
        cert=Path("/pki/me.pem"),
        key=Path("/pki/me.key"),
        server_name="etcd.example",
        username="me",
        password_file=Path("/run/password"),
        prefix="/elsewhere/",
    )
    assert Settings.from_environ(full.to_environ()) == full
    assert Settings.from_environ(Settings(("127.0.0.1:2379",)).to_environ()) == Settings(("127.0.0.1:2379",))


@pytest.mark.parametrize(
    ("variables", "reason"),
    [
        ({"DEVOPSELLENCE_ETCD_ENDPOINTS": "127.0.0.1"}, "'127.0.0.1' is not address:port"),
        ({"DEVOPSELLENCE_ETCD_ENDPOINTS": "127.0.0.1:http"}, "is not address:port"),
        ({"DEVOPSELLENCE_ETCD_ENDPOINTS": "127.0.0.1:99999"}, "is not address:port"),
        ({"DEVOPSELLENCE_ETCD_ENDPOINTS": "ftp://127.0.0.1:2379"}, "is not address:port"),
        ({"DEVOPSELLENCE_ETCD_ENDPOINTS": "a.example:1,b.example:1"}, "a host name can only stand alone"),
        ({"DEVOPSELLENCE_ETCD_ENDPOINTS": "127.0.0.1:1,[::1]:1"}, "addresses of one kind"),
        ({"DEVOPSELLENCE_ETCD_CA_CERT": "/ca.pem"}, "set all three or none"),
        ({"DEVOPSELLENCE_ETCD_USERNAME": "me"}, "set both or none"),
        ({"DEVOPSELLENCE_ETCD_ENDPOINTS": "\udcff:2379"}, "DEVOPSELLENCE_ETCD_ENDPOINTS is not valid UTF-8"),
        ({"DEVOPSELLENCE_ETCD_SERVER_NAME": "\udcff"}, "DEVOPSELLENCE_ETCD_SERVER_NAME is not valid UTF-8"),
        ({"DEVOPSELLENCE_ETCD_USERNAME": "\udcff"}, "DEVOPSELLENCE_ETCD_USERNAME is not valid UTF-8"),
        ({"DEVOPSELLENCE_PREFIX": "/\udcff/"}, "DEVOPSELLENCE_PREFIX is not valid UTF-8"),
        ({"DEVOPSELLENCE_PREFIX": "devopsellence"}, "DEVOPSELLENCE_PREFIX.*begin and end with '/'"),
    ],
)
def test_invalid_settings_name_the_variable(variables: dict[str, str], reason: str) -> None:
    with pytest.raises(SettingsError, match=reason):
        Settings.from_environ({"DEVOPSELLENCE_ETCD_ENDPOINTS": "127.0.0.1:2379", **variables})
