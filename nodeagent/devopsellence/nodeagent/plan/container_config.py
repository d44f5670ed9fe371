"""Configuration of a container for the engine's create call: labels, environment, mounts, limits."""

from __future__ import annotations

import json
import math
import posixpath
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from devopsellence.api.v1 import workload_pb2
from devopsellence.nodeagent.docker import names
from devopsellence.nodeagent.docker.model import ContainerSettings, ImageVolume
from devopsellence.nodeagent.docker.ownership import MountedVolumes, image_volume
from devopsellence.nodeagent.plan import security
from devopsellence.nodeagent.plan.spec import Desired, DesiredService, stop_grace, task_hash

_MIB: Final = 1024 * 1024
_NANO_PER_MILLI: Final = 1_000_000
_LOGS: Final = {"Type": "json-file", "Config": {"max-size": "10m", "max-file": "5"}}


def container_labels(assigned: DesiredService, desired: Desired) -> dict[str, str]:
    """Return all labels for a new container of a service."""
    dependencies = ",".join(sorted(dependency.service for dependency in assigned.spec.depends_on))
    return {
        **names.environment_labels(desired.node, desired.node_uid, desired.ref),
        names.LABEL_SERVICE: assigned.spec.name,
        names.LABEL_SERVICE_KIND: workload_pb2.Service.Kind.Name(assigned.spec.kind).lower(),
        names.LABEL_HASH: assigned.hash,
        names.LABEL_REVISION: desired.revision,
        names.LABEL_RELEASE: str(desired.release),
        names.LABEL_PORTS: names.ports_label({port.name: port.port for port in assigned.spec.ports}),
        names.LABEL_SECRETS: _secrets_label(assigned.spec),
        **({names.LABEL_DEPENDS_ON: dependencies} if dependencies else {}),
        **security.labels(),
    }


def configured_volumes(service: workload_pb2.Service, desired: Desired) -> dict[str, str]:
    """Return the names of the volumes configured for a service, by path."""
    return {
        posixpath.normpath(volume.target): names.volume_name(desired.node_uid, desired.ref, volume.source)
        for volume in service.volumes
        if not volume.from_image
    }


def volumes_to_keep(desired: Desired) -> tuple[ImageVolume, ...]:
    """Return all volumes configured in an environment, which stay when their services go."""
    services = (*desired.services.values(), *filter(None, (desired.task_service,)))
    return tuple(
        ImageVolume(name, str(desired.ref), service.spec.name, target)
        for service in services
        for target, name in configured_volumes(service.spec, desired).items()
    )


def suggested_volumes(configured: Iterable[ImageVolume], desired: Desired) -> tuple[ImageVolume, ...]:
    """Return those that are configured under the name that a volume of the image has at the same path."""
    uid, ref = desired.node_uid, desired.ref
    return tuple(volume for volume in configured if volume == image_volume(uid, ref, volume.service, volume.target))


def service_container_config(
    assigned: DesiredService, desired: Desired, secrets: Mapping[str, str], volumes: MountedVolumes | None = None
) -> dict[str, Any]:
    """Return the JSON body of ``POST /containers/create`` (Docker API 1.41).

    ``secrets``: variables that override ``env``. ``volumes``: None for the configured ones under their own names. An
    empty Entrypoint or Cmd is left out, which keeps the image's; an
    Entrypoint alone drops the image's Cmd, as in Compose. Named volumes are created with the container, with the same
    labels. The engine's own restart policy stays "no": the agent restarts containers (docs/decisions/0003).
    """
    service = assigned.spec
    return {
        **_base_config(service, desired, {**service.env, **secrets}, volumes),
        **_command(service.command, service.args),
        "Labels": {**container_labels(assigned, desired), **_volume_labels(volumes)},
        "NetworkingConfig": {"EndpointsConfig": {desired.network: {"Aliases": [service.name]}}},
    }


def task_container_config(
    assigned: DesiredService,
    desired: Desired,
    task: workload_pb2.Task,
    secrets: Mapping[str, str],
    *,
    one_off: bool,
    interactive: bool = False,
    tty: bool = False,
    volumes: MountedVolumes | None = None,
) -> dict[str, Any]:
    """Return the same for a task that runs in a service: with its image, volumes, limits and network.

    The container does not get the service's name on the network, so that no request for the service reaches the task.
    The task's env overrides the service's, ``secrets`` override both. ``one_off``: run by hand, with stdin kept open if
    ``interactive``.
    """
    service = assigned.spec
    labels = {
        **names.environment_labels(desired.node, desired.node_uid, desired.ref),
        names.LABEL_SERVICE: service.name,
        names.LABEL_TASK: task.name,
        names.LABEL_HASH: task_hash(task, service),
        names.LABEL_SECRETS: _secrets_label(service),
        names.LABEL_REVISION: desired.revision,
        names.LABEL_RELEASE: str(desired.release),
        **security.labels(),
    }
    if one_off:
        labels[names.LABEL_ONE_OFF] = "true"
    return {
        **_base_config(service, desired, {**service.env, **task.env, **secrets}, volumes),
        **_command(task.command, task.args),
        "Labels": labels,
        "NetworkingConfig": {"EndpointsConfig": {desired.network: {}}},
        "OpenStdin": interactive,
        "StdinOnce": interactive,
        "AttachStdin": interactive,
        "Tty": tty,
    }


def _secrets_label(service: workload_pb2.Service) -> str:
    return ",".join(sorted(ref.name for ref in service.secret_refs))


def update_config(service: workload_pb2.Service | None) -> dict[str, Any]:
    """Return the JSON body of ``POST /containers/<id>/update`` (Docker API 1.41) that sets a container's settings back.

    ``service``: spec of the container; None if it is not known, or for a task: only the restart policy. Docker cannot
    take a limit away, so limits are those of the spec only.
    """
    body: dict[str, Any] = {"RestartPolicy": {"Name": "no"}}
    if service is not None and service.resources.memory_mib:
        memory = service.resources.memory_mib * _MIB
        # The default of a new container; without, a higher limit than before is refused.
        body |= {"Memory": memory, "MemorySwap": 2 * memory}
    if service is not None and service.resources.cpu_millis:
        body["NanoCpus"] = service.resources.cpu_millis * _NANO_PER_MILLI
    return body


def changed_settings(service: workload_pb2.Service | None, settings: ContainerSettings | None) -> tuple[str, ...]:
    """Return the names of the settings that :func:`update_config` would set back.

    A limit of 0 is left alone: an engine whose kernel knows no such limit drops it.
    """
    if settings is None:
        return ()
    memory = service.resources.memory_mib * _MIB if service is not None else 0
    nano_cpus = service.resources.cpu_millis * _NANO_PER_MILLI if service is not None else 0
    changed = {
        "restart policy": settings.engine_restarts,
        "memory limit": bool(memory and settings.memory) and settings.memory != memory,
        "CPU limit": bool(nano_cpus and settings.nano_cpus) and settings.nano_cpus != nano_cpus,
    }
    return tuple(name for name, is_changed in changed.items() if is_changed)


def _volume_labels(volumes: MountedVolumes | None) -> dict[str, str]:
    declared = volumes.declared if volumes is not None else {}
    return {names.LABEL_IMAGE_VOLUMES: json.dumps(sorted(declared))} if declared else {}


def _base_config(
    service: workload_pb2.Service, desired: Desired, environ: Mapping[str, str], volumes: MountedVolumes | None
) -> dict[str, Any]:
    """Return the configuration common to containers of services and tasks."""
    host: dict[str, Any] = {
        "NetworkMode": desired.network,
        "RestartPolicy": {"Name": "no"},
        "LogConfig": _LOGS,
        **security.host_config(service),
    }
    mounted = volumes.by_path if volumes is not None else configured_volumes(service, desired)
    if mounted:
        host["Mounts"] = [_mount(target, name, desired) for target, name in mounted.items()]
    if service.resources.cpu_millis:
        host["NanoCpus"] = service.resources.cpu_millis * _NANO_PER_MILLI
    if service.resources.memory_mib:
        host["Memory"] = service.resources.memory_mib * _MIB
    return {
        "Image": service.image.pinned,
        "Env": [f"{name}={environ[name]}" for name in sorted(environ)],
        # Docker takes whole seconds; rounded up, so that no container gets less than configured.
        "StopTimeout": math.ceil(stop_grace(service)),
        "HostConfig": host,
    }


def _command(command: Sequence[str], args: Sequence[str]) -> dict[str, list[str]]:
    config = {"Entrypoint": list(command), "Cmd": list(args)}
    return {key: value for key, value in config.items() if value}


def _mount(target: str, name: str, desired: Desired) -> dict[str, Any]:
    return {
        "Type": "volume",
        "Source": name,
        "Target": target,
        "VolumeOptions": {"Labels": dict(names.environment_labels(desired.node, desired.node_uid, desired.ref))},
    }
