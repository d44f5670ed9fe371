"""Settings of root: addresses and way of a context of the same cluster, never of another one."""

from __future__ import annotations

from pathlib import Path

import pytest

from devopsellence.cli import reach
from devopsellence.cli.cluster.access import is_of_cluster, root_settings
from devopsellence.cli.cluster.folder import ClusterFolder
from devopsellence.cli.ssh.host import SshHost
from devopsellence.store.settings import ENDPOINTS, PREFIX, Settings

OLD = "-----BEGIN CERTIFICATE-----\nold\n-----END CERTIFICATE-----\n"
NEW = "-----BEGIN CERTIFICATE-----\nnew\n-----END CERTIFICATE-----\n"
HOST = SshHost("bastion")


@pytest.fixture
def folder(tmp_path: Path) -> ClusterFolder:
    found = ClusterFolder(tmp_path / "cluster")
    found.root_operator.root.mkdir(parents=True)
    found.root_operator.authority.write_text(OLD)
    return found


def context(tmp_path: Path, authority: str) -> Settings:
    file = tmp_path / "ca.crt"
    file.write_text(authority)
    settings = Settings(endpoints=("10.0.0.1:2381",), ca_cert=file, cert=file, key=file, prefix="/other/")
    return reach.through(settings, HOST)


def test_context_of_the_same_authority_is_the_way(folder: ClusterFolder, tmp_path: Path) -> None:
    for authority in (OLD, NEW + OLD):
        settings = root_settings(folder, {}, {}, context(tmp_path, authority))
        assert (settings.endpoints, settings.prefix, reach.ssh_host(settings)) == (("10.0.0.1:2381",), "/other/", HOST)
        assert settings.cert == folder.root_operator.certificate


def test_prefix_of_the_command_replaces_that_of_the_context(folder: ClusterFolder, tmp_path: Path) -> None:
    assert root_settings(folder, {PREFIX: "/x/"}, {}, context(tmp_path, OLD)).prefix == "/x/"


@pytest.mark.parametrize("authority", [NEW, "", "-----END CERTIFICATE-----"])
def test_context_of_another_authority_is_not(authority: str, folder: ClusterFolder, tmp_path: Path) -> None:
    other = context(tmp_path, authority)
    assert not is_of_cluster(folder, other)
    settings = root_settings(folder, {}, {ENDPOINTS: "10.9.9.9:2381"}, other)
    assert (settings.endpoints, reach.ssh_host(settings)) == (("10.9.9.9:2381",), None)


def test_address_of_the_command_is_reached_directly(folder: ClusterFolder, tmp_path: Path) -> None:
    for flags, environ in (({ENDPOINTS: "10.9.9.9:2381"}, {}), ({}, {ENDPOINTS: "10.9.9.9:2381"})):
        settings = root_settings(folder, flags, environ, context(tmp_path, OLD))
        assert (settings.endpoints, reach.ssh_host(settings)) == (("10.9.9.9:2381",), None)
