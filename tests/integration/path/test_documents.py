"""Examples of the project's first document, each deployed as written there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.support.host import Host
from tests.support.until import until

pytestmark = pytest.mark.timeout(180)

HEAD = """\
schema_version: 1
organization: acme
project: {project}
"""
REDIS = """\
services:
  web:
    env:
      REDIS_URL: redis://redis:6379/0
    ports:
      - name: http
        port: 3000
    healthcheck:
      path: /up
      port: 3000

  redis:
    image: redis:7-alpine
    args:
      - redis-server
      - --appendonly
      - "yes"
    volumes:
      - source: redis_data
        target: /data
"""
MEMCACHED = """\
services:
  web:
    env:
      MEMCACHE_SERVERS: memcached:11211
    ports:
      - name: http
        port: 3000
    healthcheck:
      path: /up
      port: 3000

  memcached:
    image: memcached:1.6-alpine
    args:
      - memcached
      - -m
      - "128"
"""
SEARCH = """\
services:
  web:
    env:
      SEARCH_URL: http://search:9200
    ports:
      - name: http
        port: 3000
    healthcheck:
      path: /up
      port: 3000

  search:
    image: registry.example.com/search:1
    secret_refs:
      - name: SEARCH_PASSWORD
        secret: SEARCH_PASSWORD
"""
DOCKERFILE = """\
FROM small:test
CMD ["/bin/sh", "-c", "trap exit TERM; /bin/httpd -f -p 3000 -h /www & wait"]
"""


class Project:
    def __init__(self, host: Host, folder: Path, name: str, services: str) -> None:
        self.host = host
        self.folder = folder
        (folder / "devopsellence.yml").write_text(HEAD.format(project=name) + services)
        (folder / "Dockerfile").write_text(DOCKERFILE)

    def run(self, *args: str, stdin: str = "") -> str:
        return self.host.devopsellence(*args, cwd=self.folder, stdin=stdin).stdout

    def services(self) -> dict[str, dict[str, Any]]:
        found = {service["service"]: service for service in self.host.status(self.folder)["services"]}
        assert all(each["settled"] for each in found.values()), found
        return found


def test_example_redis_runs(stocked: Host, tmp_path: Path) -> None:
    project = Project(stocked, tmp_path, "redis-doc", REDIS)
    project.run("deploy")
    assert set(project.services()) == {"redis", "web"}
    until("redis answers", lambda: project.run("exec", "redis", "--", "redis-cli", "ping") == "PONG\n")
    assert project.run("exec", "redis", "--", "redis-cli", "set", "kept", "yes") == "OK\n"
    assert "Ready to accept connections" in project.run("logs", "redis")
    # Its data is on the volume: another spec is another container with the same data.
    config = tmp_path / "devopsellence.yml"
    config.write_text(config.read_text().replace('- "yes"', '- "yes"\n      - --maxmemory\n      - 100mb'))
    project.run("deploy")
    until("redis answers again", lambda: project.run("exec", "redis", "--", "redis-cli", "ping") == "PONG\n")
    assert project.run("exec", "redis", "--", "redis-cli", "get", "kept") == "yes\n"
    # Private to the environment: nothing of it is on the machine's own ports.
    assert stocked.docker("ps", "--filter", "publish=1-65535", "-q") == ""


def test_example_memcached_runs(stocked: Host, tmp_path: Path) -> None:
    project = Project(stocked, tmp_path, "memcached-doc", MEMCACHED)
    project.run("deploy")
    assert set(project.services()) == {"memcached", "web"}
    # Reached by its name from the service beside it.
    asked = project.run("exec", "web", "--", "sh", "-c", "printf 'stats\\r\\nquit\\r\\n' | nc memcached 11211")
    assert "STAT limit_maxbytes 134217728" in asked
    assert "memcached" in project.run("exec", "memcached", "--", "cat", "/proc/1/cmdline")


def test_example_search_runs_with_password(stocked: Host, tmp_path: Path) -> None:
    project = Project(stocked, tmp_path, "search-doc", SEARCH)
    project.run("secret", "set", "SEARCH_PASSWORD", "--service", "search", "--stdin", stdin="open sesame\n")
    project.run("deploy")
    assert set(project.services()) == {"search", "web"}
    assert project.run("exec", "search", "--", "printenv", "SEARCH_PASSWORD") == "open sesame\n"
    ready = project.run("exec", "web", "--", "sh", "-c", "wget -qO- http://search:9200/ready")
    assert "Operators at work" in ready
