"""Container configuration for the engine's create call."""

from __future__ import annotations

from devopsellence.nodeagent.docker import names
from devopsellence.nodeagent.plan.container_config import container_labels, service_container_config
from devopsellence.nodeagent.plan.spec import spec_hash
from tests.unit.nodeagent.planning import ENV, HEALTHY, IMAGE, STARTED, UID, desired_of, full_service, service


def test_container_config_of_a_service() -> None:
    goal = desired_of(full_service(), release=4)
    config = service_container_config(goal.services["web"], goal, {})
    assert config["Image"] == IMAGE
    assert (config["Entrypoint"], config["Cmd"]) == (["/bin/serve"], ["--port", "3000"])
    assert config["StopTimeout"] == 3
    host = config["HostConfig"]
    assert host["RestartPolicy"] == {"Name": "no"}
    assert (host["NanoCpus"], host["Memory"]) == (1_500_000_000, 256 * 1024 * 1024)
    assert (host["Mounts"][0]["Source"], host["Mounts"][0]["Target"]) == (names.volume_name(UID, ENV, "data"), "/data")
    assert host["NetworkMode"] == goal.network
    assert config["NetworkingConfig"]["EndpointsConfig"][goal.network]["Aliases"] == ["web"]
    assert config["Labels"] == {
        "devopsellence.managed": "true",
        "devopsellence.environment": "acme/shop/production",
        "devopsellence.service": "web",
        "devopsellence.service_kind": "web",
        "devopsellence.hash": spec_hash(full_service()),
        "devopsellence.revision": "",
        "devopsellence.release": "4",
        "devopsellence.ports": "http=3000",
        "devopsellence.secrets": "",
        "devopsellence.defaults": "1",
        "devopsellence.node": "n1",
        "devopsellence.node_uid": UID,
    }


def test_unset_fields_come_from_the_image() -> None:
    config = service_container_config(desired_of(service()).services["web"], desired_of(service()), {})
    assert "Entrypoint" not in config
    assert "Cmd" not in config
    assert config["StopTimeout"] == 10
    assert not {"NanoCpus", "Memory", "Mounts"} & set(config["HostConfig"])


def test_stop_order_is_in_the_labels() -> None:
    web = service(after={"redis": HEALTHY, "db": STARTED})
    labels = container_labels(desired_of(web).services["web"], desired_of(web))
    assert labels["devopsellence.depends_on"] == "db,redis"
    assert "devopsellence.depends_on" not in container_labels(
        desired_of(service()).services["web"], desired_of(service())
    )
    assert spec_hash(web) == spec_hash(service())
