"""Saved settings of the local cluster, and the lock for changes.

Cheap to import (neither gRPC nor cryptography), because every command calls :func:`settings`.
"""

from __future__ import annotations

import fcntl
import json
import os
import pwd
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Final

from devopsellence.atomic_file import write_atomic
from devopsellence.cli.dev.paths import DevLayout
from devopsellence.cli.util.files import state_home

if TYPE_CHECKING:
    from devopsellence.cli.output import CliError
    from devopsellence.store.settings import Settings

DEFAULT_NODE: Final = "local"
# Names of the certificates in the folder.
OPERATOR: Final = "operator"
CONTROLLER: Final = "controller"
NODE: Final = "node"


@dataclass(frozen=True)
class DevState:
    """Settings chosen at the first start.

    ``client_port`` and ``peer_port`` belong to etcd, ``gateway_port`` to the controller, ``agent_port`` to the agent's
    API, ``http_port`` and ``https_port`` to the ingress. A port of an older version may be 0 until the next start.
    ``…_given``: the port was given as an option, so never replace it with a free port.
    ``home_made``: the state folder of devopsellence did not exist before, so a purge removes the folder.
    """

    node_name: str
    node_uid: str
    docker_host: str
    client_port: int
    peer_port: int
    client_port_given: bool = False
    home_made: bool = False
    agent_port: int = 0
    gateway_port: int = 0
    http_port: int = 0
    https_port: int = 0
    http_port_given: bool = False
    https_port_given: bool = False


def layout() -> DevLayout:
    return DevLayout(state_home() / "dev")


def folder() -> Path:
    """Return the folder of the local cluster, which need not exist."""
    return layout().root


def load(at: DevLayout | None = None) -> DevState | None:
    """Return the saved settings; None without a local cluster.

    Raises:
        CliError: ``dev_folder_unusable``: no permission. ``dev_state_unreadable``: invalid content.
    """
    path = (at or layout()).state
    try:
        saved = json.loads(path.read_bytes())
        known = {field.name for field in fields(DevState)} & saved.keys()
        return DevState(**{name: saved[name] for name in known})
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise _unusable(path.parent, str(error)) from error
    except (ValueError, TypeError, AttributeError) as error:
        raise _unreadable(path, error) from error


def save(at: DevLayout, state: DevState) -> None:
    write_atomic(at.state, json.dumps(asdict(state), indent=1).encode() + b"\n")


def settings() -> Settings | None:
    """Return the settings of the operator; None without a local cluster."""
    at = layout()
    state = load(at)
    return settings_of(at, state, OPERATOR) if state else None


def settings_of(at: DevLayout, state: DevState, identity: str) -> Settings:
    """Return the settings of OPERATOR or NODE at the gateway, or of CONTROLLER at etcd itself."""
    from devopsellence.store.settings import Settings

    # A cluster that an earlier version has started has no gateway until the next `dev up`.
    port = (identity != CONTROLLER and state.gateway_port) or state.client_port
    return Settings(
        endpoints=(f"127.0.0.1:{port}",),
        ca_cert=at.certificate("ca"),
        cert=at.certificate(identity),
        key=at.key(identity),
    )


def node_name() -> str:
    """Return the name of the node."""
    state = load()
    return state.node_name if state else DEFAULT_NODE


def docker_host() -> str | None:
    """Return the Docker address of the cluster, such as ``unix:///var/run/docker.sock``; None without a cluster."""
    state = load()
    return state.docker_host if state else None


def make_folders(at: DevLayout) -> None:
    """Create missing folders, accessible only to this user.

    Raises:
        CliError: ``dev_folder_unusable``: a folder belongs to another user or is not writable.
    """
    parent = at.root.parent
    try:
        parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        for path in at.folders:
            path.mkdir(mode=0o700, exist_ok=True)
            if (owner := path.stat().st_uid) != os.geteuid():
                raise _foreign(path, owner)
            path.chmod(0o700)
    except OSError as error:
        raise _unusable(at.root, str(error)) from error


@contextmanager
def exclusive(at: DevLayout, waiting: Callable[[], None], *, make: bool) -> Iterator[bool]:
    """Lock the local cluster for changes; call ``waiting()`` before waiting for another command.

    Yields False for a missing folder, unless ``make`` creates the folder.
    """
    descriptor = _lock(at, waiting, make=make)
    try:
        yield descriptor is not None
    finally:
        if descriptor is not None:
            os.close(descriptor)


def _lock(at: DevLayout, waiting: Callable[[], None], *, make: bool) -> int | None:
    while True:
        if make:
            make_folders(at)
        elif not at.root.is_dir():
            return None
        try:
            descriptor = os.open(at.command_lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except FileNotFoundError:
            continue
        except OSError as error:
            raise _unusable(at.root, str(error)) from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            waiting()
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        # A purge removes the folder with the lock file: then the lock guards nothing, so try again.
        if at.command_lock.exists() and os.path.samestat(os.fstat(descriptor), at.command_lock.stat()):
            return descriptor
        os.close(descriptor)


def _foreign(path: Path, owner: int) -> CliError:
    try:
        name = pwd.getpwuid(owner).pw_name
    except KeyError:
        name = f"user {owner}"
    return _unusable(path, f"owned by {name}, and you are {_whoami()}")


def _whoami() -> str:
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return f"user {os.geteuid()}"


def _unusable(path: Path, why: str) -> CliError:
    from devopsellence.cli.output import CliError, NextAction

    return CliError(
        "dev_folder_unusable",
        f"the local cluster's folder {path} cannot be used: {why}",
        next_actions=[
            NextAction("change the owner", f"sudo chown -R {_whoami()} {path}"),
            NextAction("or use another folder", "export DEVOPSELLENCE_HOME=<folder>"),
        ],
    )


def _unreadable(path: Path, error: Exception) -> CliError:
    from devopsellence.cli.output import CliError, NextAction

    return CliError(
        "dev_state_unreadable",
        f"cannot read the settings of the local cluster in {path}: {error}",
        next_actions=[NextAction("delete the cluster and its data", "devopsellence dev down --purge")],
    )
