"""``dev down``: everything off; with ``purge``, nothing left."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field

from devopsellence.cli.dev import state, supervisor_control
from devopsellence.cli.dev.docker_api import DockerHttpApi, DockerHttpError, NodeContainer
from devopsellence.cli.dev.paths import DevLayout
from devopsellence.cli.dev.state import DevState
from devopsellence.cli.output import CliError, NextAction


@dataclass
class DownResult:
    """What was there and no longer is. ``processes`` in the order of stopping; the others by name."""

    processes: list[str] = field(default_factory=list)
    stopped: list[str] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)
    networks: int = 0
    volumes: list[str] = field(default_factory=list)
    folder: str = ""

    @property
    def anything(self) -> bool:
        return any((self.processes, self.stopped, self.removed, self.networks, self.volumes, self.folder))


def down(progress: Callable[..., None], *, purge: bool) -> DownResult:
    """Stop the agent, the controller and etcd, then the containers that the node made.

    With ``purge`` also remove these, their networks and volumes, and the local cluster's folder.

    Raises:
        CliError: ``docker_unavailable``: the processes are stopped, but the engine does not answer; nothing is removed
            then, because without the folder nobody would know any more what is to be removed.
    """
    layout = state.layout()
    done = DownResult()
    with state.exclusive(
        layout, lambda: progress("another dev command is at work; waiting for it"), make=False
    ) as there:
        if not there:  # no local cluster was ever set up here
            return done
        done.processes = supervisor_control.stop(layout)
        for name in done.processes:
            progress(f"stopped {name}", stopped=name)
        remembered = _load(layout, purge=purge)
        if remembered is not None:
            _containers(DockerHttpApi(remembered.docker_host), remembered, done, progress, purge=purge)
        if purge:
            done.folder = _remove_folder(layout, remembered)
    return done


def _load(layout: DevLayout, *, purge: bool) -> DevState | None:
    """What is remembered; None also when that cannot be read and is about to be removed anyway."""
    try:
        return state.load(layout)
    except CliError:
        if not purge:
            raise
    return None


def _containers(
    engine: DockerHttpApi, remembered: DevState, done: DownResult, progress: Callable[..., None], *, purge: bool
) -> None:
    uid = remembered.node_uid
    try:
        containers = engine.containers(uid)
        if not purge:
            _stop(engine, [container for container in containers if container.running], done, progress)
            return
        # Without their grace period: what they could still write down would go as well.
        engine.remove_containers(containers)
        done.removed = sorted(container.name for container in containers)
        networks, done.volumes = engine.networks(uid), sorted(engine.volumes(uid))
        engine.remove_networks(networks)
        engine.remove_volumes(done.volumes)
        done.networks = len(networks)
    except DockerHttpError as error:
        raise _left_over(error, purge=purge) from error


def _stop(engine: DockerHttpApi, running: list[NodeContainer], done: DownResult, progress: Callable[..., None]) -> None:
    if not running:
        return
    names = sorted(each.name for each in running)
    progress(f"stopping {', '.join(names)}, each within its grace period", containers=names)
    engine.stop(running)
    done.stopped = names


def _remove_folder(layout: DevLayout, remembered: DevState | None) -> str:
    shutil.rmtree(layout.root)
    if remembered is not None and remembered.home_made:
        with contextlib.suppress(OSError):  # somebody else keeps something there
            layout.root.parent.rmdir()
    return str(layout.root)


def _left_over(error: DockerHttpError, *, purge: bool) -> CliError:
    again = "devopsellence dev down --purge" if purge else "devopsellence dev down"
    kept = "; nothing was removed" if purge else ""
    return CliError(
        "docker_unavailable",
        f"etcd, controller and agent are stopped, but perhaps not the app containers{kept}: {error}",
        next_actions=[
            NextAction("start Docker", "sudo systemctl start docker"),
            NextAction("then again", again),
        ],
    )
