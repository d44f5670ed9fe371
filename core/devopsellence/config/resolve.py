"""Conversion of a validated document to the messages of a release."""

from __future__ import annotations

from datetime import timedelta
from typing import Final

from google.protobuf.duration_pb2 import Duration

from devopsellence.api.v1 import workload_pb2 as pb
from devopsellence.config import schema
from devopsellence.config.cross_checks import DEFAULT_PORT, HTTP, is_web
from devopsellence.config.resolved import BuildConfig, RegistryConfig, RegistryLoginConfig, Resolved
from devopsellence.config.schema import CONDITIONS, ON_FAILURE, TLS_MODES

RELEASE: Final = "release"


def resolve(
    root: schema.RootSection, environment: str, build: BuildConfig, registry: RegistryConfig | None
) -> Resolved:
    """Convert ``root`` (the base, or the base with the overlay of ``environment``) to messages."""
    tasks = {name: _task(name, task) for name, task in sorted(root.tasks.items())}
    services = [_service(name, service) for name, service in sorted(root.services.items())]
    completed = pb.Dependency.SERVICE_COMPLETED_SUCCESSFULLY
    waited_for = {
        dependency.service
        for service in services
        for dependency in service.depends_on
        if dependency.condition == completed
    }
    for service in services:
        service.completes = service.name in waited_for
    return Resolved(
        organization=root.organization,
        project=root.project,
        environment=environment,
        services=tuple(services),
        release_task=tasks.pop(RELEASE, None),
        tasks=tuple(tasks.values()),
        ingress=_ingress(root.ingress) if root.ingress else None,
        rollout=_rollout(root.deploy),
        build=build,
        registry=registry,
        registries=tuple(
            RegistryLoginConfig(host, login.username, login.password_secret)
            for host, login in sorted(root.registries.items())
        ),
    )


def _service(name: str, service: schema.ServiceSection) -> pb.Service:
    http = next((port.port for port in service.ports if port.name == HTTP), None)
    web = is_web(name, [port.name for port in service.ports], healthcheck=service.healthcheck is not None)
    return pb.Service(
        name=name,
        kind=pb.Service.WEB if web else pb.Service.WORKER,
        image=pb.Image(reference=service.image or "", app=service.image is None),
        command=service.command,
        args=service.args,
        env=service.env,
        secret_refs=[pb.SecretRef(name=ref.name, secret=ref.secret) for ref in service.secret_refs],
        ports=[pb.Port(name=port.name, port=port.port) for port in service.ports],
        healthcheck=_healthcheck(service.healthcheck, http) if service.healthcheck else None,
        volumes=[pb.VolumeMount(source=volume.source, target=volume.target) for volume in service.volumes],
        readiness=_readiness(service.readiness, http) if service.readiness else None,
        depends_on=_dependencies(service),
        resources=_resources(service.resources),
        stop_grace_period=_duration(service.stop_grace_period),
        replicas=service.replicas or 0,
        security=_security(service.security),
    )


def _healthcheck(check: schema.HealthCheckSection, http: int | None) -> pb.HealthCheck:
    return pb.HealthCheck(
        path=check.path,
        port=check.port or http or DEFAULT_PORT,
        interval=_duration(check.interval),
        timeout=_duration(check.timeout),
        retries=check.retries,
        start_period=_duration(check.start_period),
    )


def _readiness(check: schema.ReadinessSection, http: int | None) -> pb.Readiness:
    get = pb.HttpGet(path=check.path, port=check.port or http or DEFAULT_PORT) if check.path is not None else None
    return pb.Readiness(
        command=check.command,
        tcp_port=check.tcp or 0,
        http=get,
        interval=_duration(check.interval),
        timeout=_duration(check.timeout),
        retries=check.retries,
        start_period=_duration(check.start_period),
    )


def _dependencies(service: schema.ServiceSection) -> list[pb.Dependency]:
    if isinstance(service.depends_on, list):
        conditions = dict.fromkeys(service.depends_on, CONDITIONS["service_started"])
    else:
        conditions = {name: CONDITIONS[other.condition] for name, other in service.depends_on.items()}
    return [pb.Dependency(service=name, condition=condition) for name, condition in sorted(conditions.items())]


def _resources(resources: schema.ResourcesSection) -> pb.Resources | None:
    if not (resources.cpus or resources.memory):
        return None
    return pb.Resources(cpu_millis=resources.cpus, memory_mib=resources.memory)


def _security(security: schema.SecuritySection) -> pb.Security | None:
    if security == schema.SecuritySection():
        return None
    return pb.Security(
        new_privileges=security.new_privileges,
        pids_limit=security.pids_limit or 0,
        cap_add=sorted(set(security.cap_add)),
    )


def _task(name: str, task: schema.TaskSection) -> pb.Task:
    return pb.Task(name=name, service=task.service, command=task.command, args=task.args, env=task.env)


def _ingress(ingress: schema.IngressSection) -> pb.Ingress:
    redirect = ingress.tls.mode == "auto" if ingress.redirect_http is None else ingress.redirect_http
    return pb.Ingress(
        hosts=ingress.hosts,
        rules=[
            pb.IngressRule(
                host=rule.match.host,
                path_prefix=rule.match.path_prefix,
                service=rule.target.service,
                port=rule.target.port,
            )
            for rule in ingress.rules
        ],
        tls_mode=TLS_MODES[ingress.tls.mode],
        tls_email=ingress.tls.email,
        tls_ca_directory_url=ingress.tls.ca_directory_url,
        redirect_http=redirect,
        drain_timeout=_duration(ingress.drain_timeout),
    )


def _rollout(deploy: schema.DeploySection) -> pb.RolloutPolicy:
    return pb.RolloutPolicy(
        max_parallel=deploy.max_parallel,
        on_failure=ON_FAILURE[deploy.on_failure],
        progress_deadline=_duration(deploy.progress_deadline),
        reschedule_after=_duration(deploy.reschedule_after),
    )


def _duration(value: timedelta) -> Duration:
    result = Duration()
    result.FromTimedelta(value)
    return result
