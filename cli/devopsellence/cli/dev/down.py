"""``dev down``: stop the local cluster; with ``purge``, remove everything."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from devopsellence.cli.dev import state, supervisor_control
from devopsellence.cli.dev.docker_api import DockerHttpApi, DockerHttpError, NodeContainer
from devopsellence.cli.dev.paths import DevLayout
from devopsellence.cli.dev.state import DevState
from devopsellence.cli.output import CliError, NextAction


@dataclass
class DownResult:
    """Stopped and removed items; ``processes`` in stop order, the other lists sorted by name."""

    processes: list[str] = field(default_factory=list)
    stopped: list[str] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)
    networks: int = 0
    volumes: list[str] = field(default_factory=list)
    folder: str = ""

    @property
    def anything(self) -> bool:
        return any((self.processes, self.stopped, self.removed, self.networks, self.volumes, self.folder))


def bring_down(progress: Callable[..., None], *, purge: bool) -> DownResult:
    """Stop the agent, the controller and etcd, then the containers of the node.

    With ``purge``, also remove the containers, networks and volumes of the node, and the folder of the cluster.

    Raises:
        CliError: ``docker_unavailable``: the processes are stopped, but the Docker Engine does not answer. Nothing is
            removed then, because the folder says which containers and volumes belong to the cluster.
    """
    layout = state.layout()
    done = DownResult()
    with state.exclusive(layout, lambda: progress("waiting for another dev command to finish"), make=False) as exists:
        if not exists:  # no local cluster was ever set up here
            return done
        done.processes = supervisor_control.stop(layout)
        for name in done.processes:
            progress(f"stopped {name}", stopped=name)
        saved = _load(layout, purge=purge)
        if saved is not None:
            ledger = layout.agent_state / "containers.json"
            _containers(DockerHttpApi(saved.docker_host), saved, ledger, done, progress, purge=purge)
        if purge:
            done.folder = _remove_folder(layout, saved)
    return done


def _load(layout: DevLayout, *, purge: bool) -> DevState | None:
    """Return the saved state; None for unreadable state that a purge removes anyway."""
    try:
        return state.load(layout)
    except CliError:
        if not purge:
            raise
    return None


def _containers(
    engine: DockerHttpApi,
    saved: DevState,
    ledger: Path,
    done: DownResult,
    progress: Callable[..., None],
    *,
    purge: bool,
) -> None:
    uid = saved.node_uid
    try:
        containers = engine.containers(uid, ledger)
        if not purge:
            _stop(engine, [container for container in containers if container.running], done, progress)
            return
        # No grace period: data written during the shutdown would be removed as well.
        engine.remove_containers(containers)
        done.removed = sorted(container.name for container in containers)
        networks, done.volumes = engine.networks(uid), sorted(engine.volumes(uid, ledger))
        engine.remove_networks(networks)
        engine.remove_volumes(done.volumes)
        done.networks = len(networks)
    except DockerHttpError as error:
        raise _left_over(error, purge=purge) from error


def _stop(engine: DockerHttpApi, running: list[NodeContainer], done: DownResult, progress: Callable[..., None]) -> None:
    if not running:
        return
    names = sorted(container.name for container in running)
    progress(f"stopping {', '.join(names)}", containers=names)
    engine.stop(running)
    done.stopped = names


def _remove_folder(layout: DevLayout, saved: DevState | None) -> str:
    shutil.rmtree(layout.root)
    if saved is not None and saved.home_made:
        with contextlib.suppress(OSError):  # the state folder holds other files
            layout.root.parent.rmdir()
    return str(layout.root)


def _left_over(error: DockerHttpError, *, purge: bool) -> CliError:
    again = "devopsellence dev down --purge" if purge else "devopsellence dev down"
    kept = "; nothing was removed" if purge else ""
    return CliError(
        "docker_unavailable",
        f"stopped etcd, controller and agent, but app containers may still be running{kept}: {error}",
        next_actions=[
            NextAction("start Docker", "sudo systemctl start docker"),
            NextAction("then repeat", again),
        ],
    )
