"""Distribution of images without a registry: from the local Docker Engine to the nodes, layer by layer.

Every node reports its missing layers. If layers are missing, the images are saved once to a temporary file and uploaded
to all nodes at the same time. Nothing is written to etcd, so a failed upload changes nothing; uploaded layers stay on
the nodes for the next deploy.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Final

from devopsellence.api.v1.agent_pb2 import ImageDescription
from devopsellence.api.v1.stored_pb2 import Heartbeat, Node, Release
from devopsellence.cli.images.archive import InvalidArchive, read_index
from devopsellence.cli.images.build import image_name
from devopsellence.cli.images.docker_cli import DockerCli, LocalImage
from devopsellence.cli.images.left_out import may_be_lost, not_sent, served_elsewhere, unreachable_of
from devopsellence.cli.images.missing import MissingImages, check_disk_space, disk_demand, images_by_node
from devopsellence.cli.images.upload_progress import UploadProgress
from devopsellence.cli.output import CliError, NextAction, Output
from devopsellence.cli.store.reader import Reader, concurrently
from devopsellence.cli.util.temporary import full, says_full, temporary_folder
from devopsellence.store.keys import EnvironmentRef

if TYPE_CHECKING:
    from devopsellence.cli.agent.client import AgentEndpoint
    from devopsellence.cli.images.upload import ImageArchive, NodeUpload
    from devopsellence.store.etcd import Etcd
    from devopsellence.store.settings import Settings

#: Nodes asked, or uploaded to, at the same time.
_NODES: Final = 8


async def distribute(
    etcd: Etcd, settings: Settings, docker: DockerCli, draft: Release, nodes: Sequence[Node], output: Output
) -> None:
    """Upload the images of ``draft`` pinned by id to the nodes that will run the images.

    Unreachable nodes, and nodes without an agent API, are skipped with a warning. A node whose agent or Docker Engine
    dies meanwhile is skipped too, provided that its images are on other nodes.

    Raises:
        CliError: ``no_room``, ``image_unavailable``, ``images_not_sent`` (naming each node and why);
            ``docker_missing``, ``docker_unavailable``, ``temporary_files``.
    """
    wanted = images_by_node(draft, nodes)
    if not wanted:
        return
    agents, failed = await _agents(etcd, [node for node in nodes if node.name in wanted], output)
    if not agents and not failed:
        return
    ref = EnvironmentRef(draft.organization, draft.project, draft.environment)
    names = {image: image_name(ref, image) for images in wanted.values() for image in images}
    local = await _local(docker, sorted(names))
    distribution = _Distribution(settings, docker, names, local, output)
    failed = {**failed, **await distribution.run(agents, wanted)}
    receivers = {name: wanted[name] for name in (*failed, *(agent.node for agent in agents))}
    await _conclude(etcd, failed, receivers, output)


async def _conclude(
    etcd: Etcd, failed: Mapping[str, CliError], wanted: Mapping[str, Sequence[str]], output: Output
) -> None:
    """Warn about failed nodes that are left out; raise the error about the others."""
    if not failed:
        return
    served = served_elsewhere(failed, wanted)
    left_out = await unreachable_of(etcd, [node for node in may_be_lost(failed) if node in served])
    refused = {node: error for node, error in failed.items() if node not in left_out}
    if refused:
        raise not_sent(refused, served)
    for node in sorted(left_out):
        output.warning(f"{failed[node].message}; node {node} is left out and catches up later, from other nodes")


async def _agents(etcd: Etcd, nodes: Sequence[Node], output: Output) -> tuple[list[AgentEndpoint], dict[str, CliError]]:
    """Return the reachable agents, and the errors of agents without a Docker Engine; warn about the rest."""
    from devopsellence.cli.agent.client import endpoint_of

    keys = etcd.keys
    beats = await Reader(etcd).get_many({node.name: keys.heartbeat(node.name) for node in nodes}, Heartbeat)
    agents, failed = [], {}
    for node in nodes:
        agent, beat = endpoint_of(node.name, node, beats.get(node.name)), beats.get(node.name)
        if not agent.address:
            output.warning(f"{agent.problem}; no images are uploaded to it")
        elif beat is not None and beat.without_engine:
            failed[node.name] = CliError("docker_unavailable", f"node {node.name}: {beat.problem}")
        else:
            agents.append(agent)
    return agents, failed


async def _local(docker: DockerCli, images: Sequence[str]) -> dict[str, LocalImage]:
    """Return the images present on the local Docker Engine, by id."""
    local_images = await concurrently(docker.inspect_image(image) for image in images)
    return {image.id: image for image in local_images if image is not None}


class _Distribution:
    """Upload of the images of a deploy; a failed node does not stop the rest."""

    def __init__(
        self,
        settings: Settings,
        docker: DockerCli,
        names: dict[str, str],
        local: Mapping[str, LocalImage],
        output: Output,
    ) -> None:
        self._settings = settings
        self._docker = docker
        self._names = names
        self._local = local
        self._output = output
        self._slots = asyncio.Semaphore(_NODES)
        self._failed: dict[str, CliError] = {}

    async def run(self, agents: Sequence[AgentEndpoint], wanted: Mapping[str, Sequence[str]]) -> dict[str, CliError]:
        """Upload what is missing; return the errors of the nodes that failed."""
        async with AsyncExitStack() as stack:
            receivers = []
            for agent in agents:
                try:
                    receivers.append(await self._receiver(stack, agent, wanted[agent.node]))
                except CliError as error:
                    if error.code != "agent_unreachable":
                        raise
                    # An address that no connection can be made to, as a node has reported it.
                    self._failed[agent.node] = error
            missing_by_receiver = dict(
                zip(receivers, await concurrently(self._ask(receiver) for receiver in receivers), strict=True)
            )
            short = {
                receiver: missing
                for receiver, missing in missing_by_receiver.items()
                if missing is not None and missing.images
            }
            if short:
                await self._upload_missing(short)
        return self._failed

    async def _receiver(self, stack: AsyncExitStack, agent: AgentEndpoint, images: Sequence[str]) -> NodeUpload:
        # Late import: gRPC is slow to import, and most deploys to the own machine need no upload.
        from devopsellence.cli.agent.client import connect
        from devopsellence.cli.images.upload import NodeUpload

        descriptions = [ImageDescription(id=image, diff_ids=self._layers(image)) for image in images]
        return NodeUpload(agent, await stack.enter_async_context(connect(self._settings, agent)), descriptions)

    def _layers(self, image: str) -> tuple[str, ...]:
        local = self._local.get(image)
        return local.layers if local else ()

    async def _ask(self, receiver: NodeUpload) -> MissingImages | None:
        """Return the images missing on a node; None if the node failed, with the error in ``_failed``."""
        try:
            async with self._slots:
                return await receiver.find_missing()
        except CliError as error:
            self._failed[receiver.node] = error
            return None

    async def _upload_missing(self, short: Mapping[NodeUpload, MissingImages]) -> None:
        images = sorted({image for missing in short.values() for image in missing.images})
        for image in images:
            if image not in self._local:
                raise _image_missing(image, [missing.node for missing in short.values() if image in missing.images])
        async with self._saved(images) as source:
            if problem := check_disk_space(disk_demand(missing, source.index) for missing in short.values()):
                raise problem
            with UploadProgress(self._output) as sending:
                await concurrently(self._upload(receiver, source, sending) for receiver in short)

    async def _upload(self, receiver: NodeUpload, source: ImageArchive, sending: UploadProgress) -> None:
        bar = sending.bar(receiver.node)
        try:
            async with self._slots:
                await receiver.upload(source, bar)
        except CliError as error:
            self._failed[receiver.node] = error
        else:
            bar.end()

    @asynccontextmanager
    async def _saved(self, images: Sequence[str]) -> AsyncIterator[ImageArchive]:
        """Save images to a temporary file, deleted at the end of the block."""
        from devopsellence.cli.images.upload import ImageArchive

        with temporary_folder() as folder:
            path = folder / "images.tar"
            with path.open("wb") as file:
                problem = await self._docker.save(images, file)
            if says_full(problem):
                raise full(folder)
            if problem:
                raise CliError("image_unreadable", f"docker save {' '.join(images)}: {problem}")
            try:
                archive_index = await asyncio.to_thread(read_index, path)
            except InvalidArchive as error:
                raise CliError(
                    "image_unreadable", f"the archive from docker save cannot be uploaded: {error}"
                ) from error
            for image in images:
                if image not in archive_index.images:
                    raise _other_store(image)
            yield ImageArchive(path, archive_index, self._names)


def _image_missing(image: str, nodes: Sequence[str]) -> CliError:
    message = f"image {image} is neither on {', '.join(nodes)} nor on the Docker Engine of this machine"
    return CliError(
        "image_unavailable", message, next_actions=[NextAction("rebuild the image", "devopsellence deploy")]
    )


def _other_store(image: str) -> CliError:
    message = (
        f"the Docker Engine of this machine uses the containerd image store, so image id {image} is not "
        "valid on other engines"
    )
    fix = [
        NextAction(
            "switch the containerd image store off",
            'set "features": {"containerd-snapshotter": false} in /etc/docker/daemon.json',
        ),
        NextAction("or use a registry", "set registry.repository in devopsellence.yml"),
    ]
    return CliError("image_store_unsupported", message, next_actions=fix)
