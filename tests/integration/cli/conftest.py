from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from devopsellence.api.v1.stored_pb2 import Environment
from devopsellence.store.settings import Settings
from tests.integration.cli import secret_operator
from tests.integration.cli.running_cluster import RunningCluster, running_cluster
from tests.support.cli import REF, Cli
from tests.support.need import need_etcd

CONFIG = """\
schema_version: 1
organization: acme
project: Shop
services:
  web:
    image: {image}
    command: [/bin/httpd, -f, -p, "3000"]
    ports: [{{name: http, port: 3000}}]
    healthcheck: {{path: /up}}
"""


@pytest.fixture
def cli(settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cli:
    """Command line in an empty folder without a configuration."""
    for name in ("DEVOPSELLENCE_ENVIRONMENT", "DEVOPSELLENCE_PREFIX"):
        monkeypatch.delenv(name, raising=False)
    folder = tmp_path / "app"
    folder.mkdir()
    # The search for a configuration goes no further up than this.
    (tmp_path / ".git").mkdir()
    monkeypatch.chdir(folder)
    return Cli(settings, folder)


@pytest.fixture
def shop(cli: Cli) -> Cli:
    """Command line in a folder with a configuration of a web service, whose image needs no registry."""
    from tests.support.images import IMAGE, small_image

    small_image()
    (cli.folder / "devopsellence.yml").write_text(CONFIG.format(image=IMAGE))
    return cli


@pytest.fixture
def ann(cli: Cli, tmp_path: Path) -> secret_operator.Operator:
    """An operator in a folder with a configuration."""
    (cli.folder / "devopsellence.yml").write_text(secret_operator.CONFIG)
    return secret_operator.Operator(cli.settings, cli.folder, tmp_path / "ann" / "operator.age")


@pytest.fixture
def bob(ann: secret_operator.Operator, tmp_path: Path) -> secret_operator.Operator:
    """Second operator, on a machine of his own."""
    return secret_operator.Operator(ann.settings, ann.folder, tmp_path / "bob" / "operator.age")


@pytest.fixture
def pki(tmp_path: Path) -> Path:
    return tmp_path / "pki"


@pytest.fixture
def bare(cli: Cli) -> Cli:
    """Command line without settings of an etcd."""
    cli.environ = {"DEVOPSELLENCE_HOME": cli.environ["DEVOPSELLENCE_HOME"]}
    return cli


@pytest.fixture
def started(bare: Cli, pki: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[RunningCluster]:
    need_etcd()
    for name in list(os.environ):
        if name.startswith("DEVOPSELLENCE_ETCD_"):
            monkeypatch.delenv(name)
    with running_cluster(bare, pki, tmp_path) as cluster:
        yield cluster


@pytest.fixture
def secured(started: RunningCluster) -> RunningCluster:
    """A cluster with an environment and a configuration in the folder."""
    (started.cli.folder / "devopsellence.yml").write_text(secret_operator.CONFIG)
    environment = Environment(organization=REF.organization, project=REF.project, environment=REF.environment)
    started.as_party("root").write(lambda etcd: etcd.keys.environment(REF), environment)
    return started
