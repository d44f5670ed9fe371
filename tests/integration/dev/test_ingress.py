"""Ingress of the local cluster: through Envoy, on chosen or free ports."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import urllib.request
from pathlib import Path

import pytest

from tests.support.dev import Dev
from tests.support.images import IMAGE, small_image
from tests.support.ports import free_ports
from tests.support.run import run
from tests.support.until import until

pytestmark = pytest.mark.timeout(180)

CONFIG = f"""\
schema_version: 1
organization: acme
project: small
services:
  web:
    image: {IMAGE}
    command: [httpd, -f, -p, "3000", -h, /www]
    ports:
      - name: http
        port: 3000
    healthcheck:
      path: /up
      port: 3000
      interval: 500ms
ingress:
  hosts: [small.localhost]
  rules:
    - match:
        host: small.localhost
      target:
        service: web
        port: http
  tls:
    mode: "off"
"""


def answer(port: int) -> str:
    """Return the app's answer through the ingress; empty without an answer."""
    request = urllib.request.Request(f"http://127.0.0.1:{port}/up", headers={"Host": "small.localhost"})
    try:
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(request, timeout=5) as got:
            return str(got.read().decode())
    except OSError:
        return ""


def test_app_answers_on_chosen_ports_without_agent(up: Dev, tmp_path: Path) -> None:
    assert small_image()
    http, https = free_ports(2)
    said = up.document("up", "--http-port", str(http), "--https-port", str(https))
    assert said["ingress"] == up.document("status")["ingress"] == {"http_port": http, "https_port": https}
    assert f"export DEVOPSELLENCE_HTTP_PORT={http}\n" in up("env").stdout
    (tmp_path / "devopsellence.yml").write_text(CONFIG)
    run([*up.command()[:-1], "deploy"], environ=up.environ, cwd=tmp_path)
    assert until("it answers", lambda: answer(http)) == "up\n"
    # Envoy's container goes on without the supervisor, and has the ports still when that is back.
    os.kill(up.pids()["supervisor"], signal.SIGKILL)
    until("all processes are gone", lambda: not up.pids())
    assert answer(http) == "up\n"
    assert up.document("up")["ingress"] == {"http_port": http, "https_port": https}
    assert answer(http) == "up\n"
    up("down")
    assert answer(http) == ""
    with socket.create_server(("", http)):
        refused = up("up", code=1).stderr
        assert f"the ingress cannot listen on port {http}: the port is in use" in refused
        assert "devopsellence dev up --http-port" in refused
    up("up")
    assert until("it answers again", lambda: answer(http)) == "up\n"
    status = subprocess.run(
        [*up.command()[:-1], "status", "-o", "json"], env=up.environ, cwd=tmp_path, capture_output=True, check=True
    )
    assert "small.localhost" in json.dumps(json.loads(status.stdout))
