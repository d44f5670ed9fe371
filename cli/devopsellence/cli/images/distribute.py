"""The direct path: images from the engine that builds to the nodes that will run them, layer by layer, no registry.

First every node is asked what it lacks. Only if one lacks something are the images saved, once, to a temporary file;
then all nodes are sent what they lack at the same time. Nothing is written to etcd here, so a deploy that fails here
has changed nothing; what has arrived stays for the next one.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

from devopsellence.api.v1.agent_pb2 import ImageDescription
from devopsellence.api.v1.stored_pb2 import Heartbeat, Node, Release
from devopsellence.cli.images.archive import InvalidArchive, read_index
from devopsellence.cli.images.build import image_name
from devopsellence.cli.images.docker_cli import DockerCli, LocalImage
from devopsellence.cli.images.missing import MissingImages, check_disk_space, disk_demand, images_by_node
from devopsellence.cli.images.upload_progress import UploadProgress
from devopsellence.cli.output import CliError, Finding, NextAction, Output
from devopsellence.cli.store.reader import Reader, concurrently
from devopsellence.store.keys import EnvironmentRef

if TYPE_CHECKING:
    from devopsellence.cli.agent.client import AgentEndpoint
    from devopsellence.cli.images.upload import ImageArchive, NodeUpload
    from devopsellence.store.etcd import Etcd
    from devopsellence.store.settings import Settings

#: Nodes that are asked or sent to at the same time.
_NODES: Final = 8


async def distribute(
    etcd: Etcd, settings: Settings, docker: DockerCli, draft: Release, nodes: Sequence[Node], output: Output
) -> None:
    """Bring every image of ``draft`` that is pinned by id to each of ``nodes`` that will run it and lacks it.

    A node without a heartbeat is named in a warning and left out, as is one whose agent has no API.

    Raises:
        CliError: ``no_room``, ``image_unavailable``, ``images_not_sent`` (naming each node and why);
            ``docker_missing``, ``docker_unavailable``.
    """
    wanted = images_by_node(draft, nodes)
    if not wanted:
        return
    agents = await _agents(etcd, [node for node in nodes if node.name in wanted], output)
    if not agents:
        return
    ref = EnvironmentRef(draft.organization, draft.project, draft.environment)
    names = {image: image_name(ref, image) for images in wanted.values() for image in images}
    local = await _local(docker, sorted(names))
    await _Distribution(settings, docker, names, local, output).run(agents, wanted)


async def _agents(etcd: Etcd, nodes: Sequence[Node], output: Output) -> list[AgentEndpoint]:
    """Those that can be asked; a warning for each of the others."""
    from devopsellence.cli.agent.client import endpoint_of

    keys = etcd.keys
    beats = await Reader(etcd).get_many({node.name: keys.heartbeat(node.name) for node in nodes}, Heartbeat)
    found = [endpoint_of(node.name, node, beats.get(node.name)) for node in nodes]
    for agent in found:
        if not agent.address:
            output.warning(f"{agent.problem}; images are not sent to it")
    return [agent for agent in found if agent.address]


async def _local(docker: DockerCli, images: Sequence[str]) -> dict[str, LocalImage]:
    """Those of ``images`` that the engine which builds has."""
    found = await concurrently(docker.inspect_image(image) for image in images)
    return {image.id: image for image in found if image is not None}


class _Distribution:
    """One deploy's images on their way; what goes wrong with one node stops no other."""

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

    async def run(self, agents: Sequence[AgentEndpoint], wanted: Mapping[str, Sequence[str]]) -> None:
        async with AsyncExitStack() as stack:
            receivers = [await self._receiver(stack, agent, wanted[agent.node]) for agent in agents]
            lacks = dict(zip(receivers, await concurrently(self._ask(each) for each in receivers), strict=True))
            short = {receiver: lack for receiver, lack in lacks.items() if lack is not None and lack.images}
            if short:
                await self._send(short)
        if self._failed:
            raise _failure(self._failed)

    async def _receiver(self, stack: AsyncExitStack, agent: AgentEndpoint, images: Sequence[str]) -> NodeUpload:
        # gRPC takes its time to import, and most deploys to one's own machine need none of it.
        from devopsellence.cli.agent.client import connect
        from devopsellence.cli.images.upload import NodeUpload

        descriptions = [ImageDescription(id=image, diff_ids=self._layers(image)) for image in images]
        return NodeUpload(agent, await stack.enter_async_context(connect(self._settings, agent)), descriptions)

    def _layers(self, image: str) -> tuple[str, ...]:
        local = self._local.get(image)
        return local.layers if local else ()

    async def _ask(self, receiver: NodeUpload) -> MissingImages | None:
        """What a node lacks; None, and noted, when it cannot be asked."""
        try:
            async with self._slots:
                return await receiver.ask()
        except CliError as error:
            self._failed[receiver.node] = error
            return None

    async def _send(self, short: Mapping[NodeUpload, MissingImages]) -> None:
        images = sorted({image for lack in short.values() for image in lack.images})
        for image in images:
            if image not in self._local:
                raise _gone(image, [lack.node for lack in short.values() if image in lack.images])
        async with self._saved(images) as source:
            if problem := check_disk_space(disk_demand(lack, source.index) for lack in short.values()):
                raise problem
            with UploadProgress(self._output) as sending:
                await concurrently(self._bring(receiver, source, sending) for receiver in short)

    async def _bring(self, receiver: NodeUpload, source: ImageArchive, sending: UploadProgress) -> None:
        bar = sending.bar(receiver.node)
        try:
            async with self._slots:
                await receiver.bring(source, bar)
        except CliError as error:
            self._failed[receiver.node] = error
        else:
            bar.end()

    @asynccontextmanager
    async def _saved(self, images: Sequence[str]) -> AsyncIterator[ImageArchive]:
        """The images in a temporary file, which is gone with the block."""
        from devopsellence.cli.images.upload import ImageArchive

        with tempfile.TemporaryDirectory(prefix="devopsellence-") as folder:
            path = Path(folder) / "images.tar"
            with path.open("wb") as file:
                problem = await self._docker.save(images, file)
            if problem:
                raise CliError("image_unreadable", f"docker save {' '.join(images)}: {problem}")
            try:
                found = await asyncio.to_thread(read_index, path)
            except InvalidArchive as error:
                raise CliError("image_unreadable", f"what docker save wrote cannot be sent: {error}") from error
            for image in images:
                if image not in found.images:
                    raise _other_store(image)
            yield ImageArchive(path, found, self._names)


def _gone(image: str, nodes: Sequence[str]) -> CliError:
    message = f"image {image} is neither on {', '.join(nodes)} nor on the engine here, so it cannot be sent"
    return CliError("image_unavailable", message, next_actions=[NextAction("build it anew", "devopsellence deploy")])


def _other_store(image: str) -> CliError:
    message = (
        f"the engine here calls an image {image} whose configuration has another digest: it keeps images in "
        "containerd's store, and such ids mean nothing to other engines"
    )
    mend = [
        NextAction("switch that off", 'set "features": {"containerd-snapshotter": false} in /etc/docker/daemon.json'),
        NextAction("or send images through a registry", "set registry.repository in devopsellence.yml"),
    ]
    return CliError("image_store_unsupported", message, next_actions=mend)


def _failure(failed: Mapping[str, CliError]) -> CliError:
    """One error about all nodes that could not be given their images."""
    findings = [
        Finding(error.code, error.message, next_actions=error.next_actions) for _, error in sorted(failed.items())
    ]
    names = ", ".join(sorted(failed))
    message = f"the images could not be sent to {names}, so no release was written; what has arrived there stays"
    return CliError("images_not_sent", message, findings=findings)
