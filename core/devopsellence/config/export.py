"""Export of a resolved environment as a document in the field names of devopsellence.yml.

Used to show an environment, and to compare releases.
"""

from __future__ import annotations

from typing import Any

from google.protobuf.duration_pb2 import Duration

from devopsellence.api.v1 import workload_pb2 as pb
from devopsellence.config.quantities import format_duration
from devopsellence.config.resolved import Resolved
from devopsellence.config.schema import CONDITIONS, ON_FAILURE, TLS_MODES


def to_document(resolved: Resolved) -> dict[str, Any]:
    """Export ``resolved`` as a document that loads to the same result."""
    tasks = [*([resolved.release_task] if resolved.release_task else []), *resolved.tasks]
    result: dict[str, Any] = {
        "schema_version": 1,
        "organization": resolved.organization,
        "project": resolved.project,
        "default_environment": resolved.environment,
        "build": {
            "context": str(resolved.build.context),
            "dockerfile": resolved.build.dockerfile,
            "platforms": list(resolved.build.platforms),
        },
        "services": {service.name: service_document(service) for service in resolved.services},
    }
    if tasks:
        result["tasks"] = {task.name: task_document(task) for task in tasks}
    if resolved.ingress is not None:
        result["ingress"] = ingress_document(resolved.ingress)
    result["deploy"] = rollout_document(resolved.rollout)
    if resolved.registry is not None:
        registry = resolved.registry
        fields = {
            "repository": registry.repository,
            "username": registry.username,
            "password_secret": registry.password_secret,
        }
        result["registry"] = _filled(fields)
    if resolved.registries:
        result["registries"] = {
            login.host: {"username": login.username, "password_secret": login.password_secret}
            for login in resolved.registries
        }
    return result


def service_document(service: pb.Service) -> dict[str, Any]:
    """Export a service as under ``services.<name>``, without empty fields."""
    fields = {
        "image": service.image.reference if not service.image.app else "",
        "command": list(service.command),
        "args": list(service.args),
        "env": dict(sorted(service.env.items())),
        "secret_refs": [{"name": ref.name, "secret": ref.secret} for ref in service.secret_refs],
        "ports": [{"name": port.name, "port": port.port} for port in service.ports],
        "healthcheck": _healthcheck(service.healthcheck) if service.HasField("healthcheck") else None,
        "volumes": [{"source": volume.source, "target": volume.target} for volume in service.volumes],
        "readiness": _readiness(service.readiness) if service.HasField("readiness") else None,
        "depends_on": {
            other.service: {"condition": _word(CONDITIONS, other.condition)} for other in service.depends_on
        },
        "resources": _resources(service.resources),
        "replicas": service.replicas or None,
        "security": _security(service.security),
    }
    return {**_filled(fields), "stop_grace_period": _time(service.stop_grace_period)}


def task_document(task: pb.Task) -> dict[str, Any]:
    """Export a task as under ``tasks.<name>``, without empty fields."""
    fields = {
        "service": task.service,
        "command": list(task.command),
        "args": list(task.args),
        "env": dict(sorted(task.env.items())),
    }
    return _filled(fields)


def ingress_document(ingress: pb.Ingress) -> dict[str, Any]:
    """Export an ingress as under ``ingress``."""
    tls = {
        "mode": _word(TLS_MODES, ingress.tls_mode),
        "email": ingress.tls_email,
        "ca_directory_url": ingress.tls_ca_directory_url,
    }
    rules = [
        {
            "match": {"host": rule.host, "path_prefix": rule.path_prefix},
            "target": {"service": rule.service, "port": rule.port},
        }
        for rule in ingress.rules
    ]
    fields = {"hosts": list(ingress.hosts), "rules": rules, "tls": _filled(tls), "redirect_http": ingress.redirect_http}
    # Releases of earlier versions do not say it.
    drain = {"drain_timeout": _time(ingress.drain_timeout)} if ingress.HasField("drain_timeout") else {}
    return {**fields, **drain}


def rollout_document(rollout: pb.RolloutPolicy) -> dict[str, Any]:
    """Export a rollout policy as under ``deploy``."""
    return {
        "max_parallel": int(rollout.max_parallel) if rollout.max_parallel.isdecimal() else rollout.max_parallel,
        "on_failure": _word(ON_FAILURE, rollout.on_failure),
        "progress_deadline": _time(rollout.progress_deadline),
        "reschedule_after": _time(rollout.reschedule_after),
    }


def _healthcheck(check: pb.HealthCheck) -> dict[str, Any]:
    return {"path": check.path, "port": check.port, **_timing(check)}


def _readiness(check: pb.Readiness) -> dict[str, Any]:
    if check.HasField("http"):
        how: dict[str, Any] = {"path": check.http.path, "port": check.http.port}
    else:
        how = {"tcp": check.tcp_port} if check.tcp_port else {"command": list(check.command)}
    return {**how, **_timing(check)}


def _timing(check: pb.HealthCheck | pb.Readiness) -> dict[str, Any]:
    return {
        "interval": _time(check.interval),
        "timeout": _time(check.timeout),
        "retries": check.retries,
        "start_period": _time(check.start_period),
    }


def _resources(resources: pb.Resources) -> dict[str, Any]:
    cores, rest = divmod(resources.cpu_millis, 1000)
    cpus = cores + rest / 1000 if rest else cores
    return _filled({"cpus": cpus or None, "memory": f"{resources.memory_mib}m" if resources.memory_mib else ""})


def _security(security: pb.Security) -> dict[str, Any]:
    fields = {"pids_limit": security.pids_limit or None, "cap_add": list(security.cap_add)}
    # False is a value: the setting counts at once, unlike a default.
    allowed = {"new_privileges": security.new_privileges} if security.HasField("new_privileges") else {}
    return {**allowed, **_filled(fields)}


def _word(words: dict[str, Any], number: int) -> str:
    return next((word for word, value in words.items() if value == number), "")


def _time(value: Duration) -> str:
    return format_duration(value.ToTimedelta())


def _filled(fields: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in fields.items() if value not in (None, "", [], {})}
