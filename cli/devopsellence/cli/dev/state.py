"""What is remembered of the local cluster, and who may change it now.

Cheap to import (neither gRPC nor cryptography): every command asks :func:`settings` which etcd is meant.
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

from devopsellence.cli.dev.paths import DevLayout
from devopsellence.cli.util.files import state_home, write_atomic

if TYPE_CHECKING:
    from devopsellence.cli.output import CliError
    from devopsellence.store.settings import Settings

DEFAULT_NODE: Final = "local"
# Names of certificates in the folder; the users behind them are store.access's.
OPERATOR: Final = "operator"
CONTROLLER: Final = "controller"
NODE: Final = "node"


@dataclass(frozen=True)
class DevState:
    """What was decided at the first start.

    ``client_port`` and ``peer_port`` are etcd's, ``agent_port`` is that of the agent's API; 0 in what an older version
    remembered, until the next start. So are ``http_port`` and ``https_port``, on which the apps' ingress answers.
    ``…_given``: a person chose the port, so that no other may take its place.
    ``home_made``: devopsellence's state folder was not there before, so that a purge takes it away as well.
    """

    node_name: str
    node_uid: str
    docker_host: str
    client_port: int
    peer_port: int
    client_port_given: bool = False
    home_made: bool = False
    agent_port: int = 0
    http_port: int = 0
    https_port: int = 0
    http_port_given: bool = False
    https_port_given: bool = False


def layout() -> DevLayout:
    return DevLayout(state_home() / "dev")


def folder() -> Path:
    """The local cluster's folder, which need not exist."""
    return layout().root


def load(at: DevLayout | None = None) -> DevState | None:
    """What is remembered; None when no local cluster was ever set up here.

    Raises:
        CliError: ``dev_folder_unusable``: it is not ours to read. ``dev_state_unreadable``: it does not hold that.
    """
    path = (at or layout()).state
    try:
        remembered = json.loads(path.read_bytes())
        known = {field.name for field in fields(DevState)} & remembered.keys()
        return DevState(**{name: remembered[name] for name in known})
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise _unusable(path.parent, str(error)) from error
    except (ValueError, TypeError, AttributeError) as error:
        raise _unreadable(path, error) from error


def save(at: DevLayout, state: DevState) -> None:
    write_atomic(at.state, json.dumps(asdict(state), indent=1).encode() + b"\n")


def settings() -> Settings | None:
    """How an operator reaches the local cluster's etcd; None when no local cluster was ever set up here."""
    at = layout()
    state = load(at)
    return settings_of(at, state, OPERATOR) if state else None


def settings_of(at: DevLayout, state: DevState, identity: str) -> Settings:
    """How OPERATOR, CONTROLLER or NODE reaches etcd."""
    from devopsellence.store.settings import Settings

    return Settings(
        endpoints=(f"127.0.0.1:{state.client_port}",),
        ca_cert=at.certificate("ca"),
        cert=at.certificate(identity),
        key=at.key(identity),
    )


def node_name() -> str:
    """The name of this machine's node in the local cluster."""
    state = load()
    return state.node_name if state else DEFAULT_NODE


def docker_host() -> str | None:
    """The Docker Engine of the local cluster, as ``unix:///var/run/docker.sock``; None when there is no cluster."""
    state = load()
    return state.docker_host if state else None


def make_folders(at: DevLayout) -> None:
    """Make what is missing, for this user alone.

    Raises:
        CliError: ``dev_folder_unusable``: it is another user's, or cannot be written.
    """
    parent = at.root.parent
    try:
        parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        for each in at.folders:
            each.mkdir(mode=0o700, exist_ok=True)
            if (owner := each.stat().st_uid) != os.geteuid():
                raise _foreign(each, owner)
            each.chmod(0o700)
    except OSError as error:
        raise _unusable(at.root, str(error)) from error


@contextmanager
def exclusive(at: DevLayout, waiting: Callable[[], None], *, make: bool) -> Iterator[bool]:
    """One command at a time changes the local cluster; ``waiting()`` is called before waiting for another one.

    Without ``make`` the folder is not made if it is missing, and False is what the block gets.
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
        # A purge takes the folder and the lock with it: then what we hold guards nothing.
        if at.command_lock.exists() and os.path.samestat(os.fstat(descriptor), at.command_lock.stat()):
            return descriptor
        os.close(descriptor)


def _foreign(path: Path, owner: int) -> CliError:
    try:
        name = pwd.getpwuid(owner).pw_name
    except KeyError:
        name = f"user {owner}"
    return _unusable(path, f"it belongs to {name}, and you are {_whoami()}")


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
            NextAction("make it yours", f"sudo chown -R {_whoami()} {path}"),
            NextAction("or choose another", "export DEVOPSELLENCE_HOME=<folder>"),
        ],
    )


def _unreadable(path: Path, error: Exception) -> CliError:
    from devopsellence.cli.output import CliError, NextAction

    return CliError(
        "dev_state_unreadable",
        f"cannot read {path}, which says where the local cluster is: {error}",
        next_actions=[NextAction("start over, without its data", "devopsellence dev down --purge")],
    )
