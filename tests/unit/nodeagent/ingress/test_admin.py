"""What Envoy's admin interface answers, as Envoy 1.40 was seen to."""

from __future__ import annotations

import http.client
from typing import Any

import pytest

from devopsellence.nodeagent.envoy import admin
from devopsellence.nodeagent.envoy.admin import Host

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


def test_clusters() -> None:
    assert admin.parse_clusters(CLUSTERS) == {
        "acme/shop/production/web/http": {
            "10.0.0.2:3000": Host(draining=True, active=3),
            "[fd00::3]:3000": Host(),
        },
        "acme/shop/production/api/http": {},
    }


def test_versions() -> None:
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


def test_ports() -> None:
    status = {"name": "http", "local_address": {"socket_address": {"address": "::", "port_value": 80}}}
    assert admin.parse_ports({"listener_statuses": [status]}) == {80}
    assert admin.parse_ports({}) == frozenset()


@pytest.mark.parametrize(("value", "started"), [(1, True), (0, False)])
def test_whether_it_listens(value: int, *, started: bool) -> None:
    document = {"stats": [{"name": "listener_manager.workers_started", "value": value}]}
    assert admin.parse_started(document) is started
    assert not admin.parse_started({})


def test_requests_without_those_of_the_admin_interface_itself() -> None:
    counts = {"http.admin.downstream_rq_active": 1, "http.http.downstream_rq_active": 2, "listener.x": 5}
    assert admin.parse_requests({"stats": [{"name": name, "value": value} for name, value in counts.items()]}) == 2


def test_what_was_refused_on_one_line() -> None:
    details = "cannot bind '[::]:80':\nAddress already in use"
    document = {"configs": [{"name": "https"}, {"name": "http", "error_state": {"details": details}}]}
    assert admin.parse_refused(document) == "cannot bind '[::]:80': Address already in use"
    assert admin.parse_refused({}) == ""


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\n{\r\n1\r\n}\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n{}",
    ],
    ids=["length", "chunked", "to the end"],
)
def test_answers(answer: bytes) -> None:
    assert admin.parse_answer(answer) == (200, b"{}")


@pytest.mark.parametrize(
    "answer",
    [b"", b"no HTTP", b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n{}"],
    ids=["nothing", "something else", "cut off"],
)
def test_no_answers(answer: bytes) -> None:
    with pytest.raises(http.client.HTTPException):
        admin.parse_answer(answer)
