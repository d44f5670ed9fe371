"""Whole path on a Docker Engine that runs containers in a user namespace (``userns-remap``)."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from tests.support.envoy import envoy_image
from tests.support.host import Host
from tests.support.images import web_image
from tests.support.need import need_docker
from tests.support.until import until

CONFIG = """\
schema_version: 1
organization: acme
project: remapped
services:
  web:
    image: {image}
    ports: [{{name: http, port: 3000}}]
    healthcheck: {{path: /up, interval: 500ms}}
    volumes: [{{source: data, target: /data}}]
ingress:
  hosts: [remapped.test]
  rules:
    - match: {{host: remapped.test}}
      target: {{service: web, port: http}}
  tls: {{mode: off}}
"""
#: Prints the status of a request for the host of the ingress.
FETCH = """
import http.client
connection = http.client.HTTPConnection("127.0.0.1", 8080, timeout=10)
connection.request("GET", "/up", headers={"Host": "remapped.test"})
print(connection.getresponse().status)
"""


@pytest.fixture
def host(tmp_path: Path) -> Host:
    need_docker()
    return Host(tmp_path / "host", userns_remap=True)


def test_envoy_serves_requests_with_user_namespaces(host: Host, tmp_path: Path) -> None:
    image = web_image()
    (tmp_path / "devopsellence.yml").write_text(CONFIG.format(image=image))
    with host:
        assert "name=userns" in host.docker("info", "-f", "{{json .SecurityOptions}}")
        host.load_image(envoy_image())
        host.load_image(image)
        host.devopsellence("dev", "up")
        host.devopsellence("deploy", cwd=tmp_path)
        until("Envoy answers", lambda: host.run(sys.executable, "-c", FETCH, check=False).stdout.strip() == "200")
        web, envoy = (
            json.loads(host.docker("inspect", "-f", "{{json .HostConfig}}", name))
            for name in host.docker("ps", "--format", "{{.Names}}").split()
        )
        modes = {each["NetworkMode"]: each["UsernsMode"] for each in (web, envoy)}
        assert modes.pop("host") == "host", "Envoy uses the host's network"
        assert list(modes.values()) == [""], "services run as another user than root"
