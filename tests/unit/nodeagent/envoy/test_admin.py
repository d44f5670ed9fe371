"""Responses of Envoy's admin API, as recorded from Envoy 1.40, and expected versions of files."""

from __future__ import annotations

import http.client
import json
from typing import Any

import pytest

from devopsellence.nodeagent.envoy import admin
from devopsellence.nodeagent.envoy.admin import UpstreamHost
from devopsellence.nodeagent.envoy.config import config_files
from devopsellence.nodeagent.envoy.model import Backend, Endpoint, ListenerConfig, NodeRouting, Route, RoutingConfig
from devopsellence.store.keys import EnvironmentRef
from tests.support.host_certificates import tls_certificate

CLUSTERS: dict[str, Any] = {
    "cluster_statuses": [
        {
            "name": "acme/shop/production/web/http",
            "host_statuses": [
                {
                    "address": {"socket_address": {"address": "10.0.0.2", "port_value": 3000}},
                    "stats": [
                        {"name": "rq_total", "value": "17"},
                        {"type": "GAUGE", "name": "rq_active", "value": "2"},
                        {"type": "GAUGE", "name": "rq_pending_active", "value": "1"},
                    ],
                    "health_status": {"eds_health_status": "DRAINING"},
                },
                {
                    "address": {"socket_address": {"address": "fd00::3", "port_value": 3000}},
                    "stats": [{"type": "GAUGE", "name": "rq_active"}],
                    "health_status": {"eds_health_status": "HEALTHY"},
                },
            ],
        },
        {"name": "acme/shop/production/api/http"},
    ]
}


def test_parse_clusters() -> None:
    assert admin.parse_clusters(CLUSTERS) == {
        "acme/shop/production/web/http": {
            "10.0.0.2:3000": UpstreamHost(draining=True, active_requests=3),
            "[fd00::3]:3000": UpstreamHost(),
        },
        "acme/shop/production/api/http": {},
    }


def test_parse_versions() -> None:
    document = {
        "stats": [
            {"name": "cluster.acme/shop.x/production/web/http.version_text", "value": "6034"},
            {"name": "listener_manager.lds.version_text", "value": "58bd"},
            {"name": "http.http.rds.http.version_text"},
            {"name": "control_plane.identifier", "value": "x"},
            {"histograms": {}},
        ]
    }
    assert admin.parse_versions(document) == {
        "cluster.acme/shop.x/production/web/http": "6034",
        "listener_manager.lds": "58bd",
        "http.http.rds.http": "",
    }


def test_parse_ports() -> None:
    status = {"name": "http", "local_address": {"socket_address": {"address": "::", "port_value": 80}}}
    assert admin.parse_ports({"listener_statuses": [status]}) == {80}
    assert admin.parse_ports({}) == frozenset()


@pytest.mark.parametrize(("value", "started"), [(1, True), (0, False)])
def test_parse_workers_started(value: int, *, started: bool) -> None:
    document = {"stats": [{"name": "listener_manager.workers_started", "value": value}]}
    assert admin.parse_workers_started(document) is started
    assert not admin.parse_workers_started({})


def test_parse_open_connections_skips_the_admin_api() -> None:
    counts = {"http.admin.downstream_cx_active": 1, "http.http.downstream_cx_active": 2, "listener.x": 5}
    statistics = [{"name": name, "value": value} for name, value in counts.items()]
    assert admin.parse_open_connections({"stats": statistics}) == 2


def test_rejected_configuration_is_reported_on_one_line() -> None:
    details = "cannot bind '[::]:80':\nAddress already in use"
    document = {"configs": [{"name": "https"}, {"name": "http", "error_state": {"details": details}}]}
    assert admin.parse_rejected_config(document) == "cannot bind '[::]:80': Address already in use"
    assert admin.parse_rejected_config({}) == ""


@pytest.mark.parametrize(
    "response",
    [
        b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\n{\r\n1\r\n}\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n{}",
    ],
    ids=["length", "chunked", "to the end"],
)
def test_parse_response_reads_body(response: bytes) -> None:
    assert admin.parse_response(response) == (200, b"{}")


@pytest.mark.parametrize(
    "response",
    [b"", b"no HTTP", b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n{}"],
    ids=["nothing", "something else", "cut off"],
)
def test_parse_response_rejects_incomplete_response(response: bytes) -> None:
    with pytest.raises(http.client.HTTPException):
        admin.parse_response(response)


HOST = "a.example"
CONFIG = RoutingConfig(
    EnvironmentRef("acme", "shop", "production"),
    (HOST,),
    (Route(HOST, "/", "web", "http"),),
    (Backend("web", "http", (Endpoint("one", "10.0.0.2", 3000),)),),
    tls=True,
    certificates={HOST: tls_certificate()},
)


def test_expected_versions_have_a_statistic_per_file() -> None:
    files = config_files(NodeRouting((CONFIG,)), ListenerConfig(80, 443), "/f")
    versions = admin.expected_versions(files)
    assert set(versions) == {
        "listener_manager.lds",
        "cluster_manager.cds",
        "cluster.acme/shop/production/web/http",
        "http.http.rds.http",
        "http.https.rds.https",
    }
    for expected in versions.values():
        assert json.loads(files[expected.path])["version_info"] == expected.version


def test_expected_versions_skip_routes_of_missing_listeners() -> None:
    assert "http.https.rds.https" not in admin.expected_versions(
        config_files(NodeRouting((CONFIG,)), ListenerConfig(80, 0), "/f")
    )
    assert set(admin.expected_versions(config_files(NodeRouting(), ListenerConfig(0, 0), "/f"))) == {
        "listener_manager.lds",
        "cluster_manager.cds",
    }
