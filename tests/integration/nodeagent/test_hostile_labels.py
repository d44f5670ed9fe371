"""Image with every label of the agent: nothing of it counts, in whatever container the agent creates."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from devopsellence.api.v1 import stored_pb2, workload_pb2
from devopsellence.nodeagent.docker import names
from devopsellence.nodeagent.docker.client import DEFAULT_HOST, DockerClient
from devopsellence.nodeagent.envoy.container import EnvoySpec
from devopsellence.nodeagent.plan.container_config import service_container_config, task_container_config
from devopsellence.nodeagent.plan.spec import resolve_assignment
from tests.support.agent import ENV, AgentNode, service_of, worker
from tests.support.docker import docker
from tests.support.images import build_image

pytestmark = pytest.mark.docker
#: Every label that the agent knows, and one that it does not know.
LABELS = {
    **{label: "hostile" for name, label in vars(names).items() if name.startswith("LABEL_") and name != "LABEL_PREFIX"},
    names.LABEL_MANAGED: "true",
    names.LABEL_ENVIRONMENT: "a/b/c",
    names.LABEL_SERVICE: "other",
    names.LABEL_TASK: "release",
    names.LABEL_ONE_OFF: "true",
    names.LABEL_ROUTER: "0123456789abcdef",
    names.LABEL_PORTS: "http=1",
    names.LABEL_DEPENDS_ON: "x",
    names.LABEL_IMAGE_VOLUMES: '["/etc"]',
    names.LABEL_DEFAULTS: "99",
    "devopsellence.later": "hostile",
}
TASK = workload_pb2.Task(name="migrate", service="cache", command=["true"])


@pytest.fixture
def image() -> Iterator[str]:
    """Id of the image."""
    built = build_image(lines=[f"LABEL {label}={json.dumps(value)}" for label, value in LABELS.items()])
    yield built
    docker("rmi", "-f", built, check=False)


def labels_of(container: str) -> dict[str, str]:
    """Return the labels of a container that count, which are those that are not empty."""
    document: dict[str, str] = json.loads(docker("inspect", "-f", "{{json .Config.Labels}}", container))
    return {label: value for label, value in document.items() if value}


def bodies(image: str, uid: str) -> Iterator[Any]:
    """Yield the body of each kind of container."""
    assignment = stored_pb2.Assignment(node="n1", node_uid=uid, release=3, services=[worker("cache", image=image)])
    desired = resolve_assignment(assignment, ENV, uid)
    cache = desired.services["cache"]
    yield service_container_config(cache, desired, {})
    yield task_container_config(cache, desired, TASK, {}, one_off=False)
    yield task_container_config(cache, desired, TASK, {}, one_off=True)
    yield EnvoySpec("n1", uid, image, Path("/nowhere"), b"{}", 1, "0:0").body()


def test_image_with_every_label_labels_no_container(image: str) -> None:
    uid = f"test-{uuid.uuid4().hex}"
    client = DockerClient(DEFAULT_HOST, uid)
    for body in bodies(image, uid):
        # Neither is needed for a container that is not started.
        body.pop("NetworkingConfig", None)
        body["HostConfig"] |= {"NetworkMode": "none", "Mounts": []}
        container = client.create(f"test-{uuid.uuid4().hex}", body)
        try:
            assert labels_of(container) == {label: value for label, value in body["Labels"].items() if value}
        finally:
            client.remove(container, force=True)
    client.close()


async def test_image_with_every_label_runs_as_any_other(node: AgentNode, image: str) -> None:
    node.start()
    service = worker("cache", image=image)
    await node.assign(service, task=TASK, task_service=service)
    settled = await node.settled()
    await node.until("done", lambda status: status.task.phase == stored_pb2.TaskStatus.SUCCEEDED)
    own = service_of(settled, "cache").container
    assert (own in node.containers(), list(service_of(settled, "cache").pending)) == (True, [])
    assert labels_of(own)["devopsellence.service"] == "cache"
    actions = [line["action"] for line in node.lines("action")]
    assert (actions.count("create"), actions.count("stop")) == (2, 0)
