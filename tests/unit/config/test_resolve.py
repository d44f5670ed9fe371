"""Resolving to messages with all defaults, and export back to a document."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest
from google.protobuf.duration_pb2 import Duration

from devopsellence.api.v1 import workload_pb2 as pb
from devopsellence.config import RegistryConfig, Resolved, load, parse, to_yaml
from devopsellence.config.export import to_document
from devopsellence.config.quantities import format_duration
from tests.unit.config.conftest import HEAD, PATH, WEB, Parse

EXAMPLE = Path(__file__).parents[3] / "examples/annotated/devopsellence.yml"


def seconds(value: float) -> Duration:
    result = Duration()
    result.FromTimedelta(timedelta(seconds=value))
    return result


def resolved(read: Parse, text: str) -> Resolved:
    return read(text).resolve("production")


def test_minimal_web_service_gets_defaults(read: Parse) -> None:
    (web,) = resolved(read, HEAD + WEB).services
    assert web == pb.Service(
        name="web",
        kind=pb.Service.WEB,
        image=pb.Image(app=True),
        ports=[pb.Port(name="http", port=3000)],
        healthcheck=pb.HealthCheck(
            path="/up", port=3000, interval=seconds(5), timeout=seconds(2), retries=3, start_period=seconds(1)
        ),
        stop_grace_period=seconds(10),
    )


def test_supporting_service_keeps_its_image_and_its_images_entrypoint(read: Parse) -> None:
    args, volumes = '[redis-server, --appendonly, "yes"]', "[{source: redis_data, target: /data/}]"
    text = HEAD + f"services: {{redis: {{image: redis:7-alpine, args: {args}, volumes: {volumes}}}}}"
    (redis,) = resolved(read, text).services
    assert redis == pb.Service(
        name="redis",
        kind=pb.Service.WORKER,
        image=pb.Image(reference="redis:7-alpine"),
        args=["redis-server", "--appendonly", "yes"],
        volumes=[pb.VolumeMount(source="redis_data", target="/data")],
        stop_grace_period=seconds(10),
    )


def test_everything_of_a_service_reaches_the_message(read: Parse) -> None:
    text = (
        HEAD
        + """\
services:
  db: {readiness: {tcp: 5432}}
  api:
    command: [a]
    args: [128, 1.50, yes]
    env: {N: 1.10, Y: yes}
    secret_refs: [{name: V, secret: s}]
    ports: [{name: http, port: 80}]
    healthcheck: {}
    readiness: {path: /ready, timeout: 500ms}
    depends_on: {db: {condition: service_healthy}}
    resources: {cpus: 0.5, memory: 1g}
    stop_grace_period: 1m30s
    replicas: 3
    security: {new_privileges: false, pids_limit: 100, cap_add: [NET_RAW, NET_RAW]}
"""
    )
    api, db = resolved(read, text).services
    assert db.readiness == pb.Readiness(
        tcp_port=5432, interval=seconds(5), timeout=seconds(2), retries=3, start_period=seconds(1)
    )
    assert api == pb.Service(
        name="api",
        kind=pb.Service.WEB,
        image=pb.Image(app=True),
        command=["a"],
        args=["128", "1.50", "yes"],
        env={"N": "1.10", "Y": "yes"},
        secret_refs=[pb.SecretRef(name="V", secret="s")],
        ports=[pb.Port(name="http", port=80)],
        healthcheck=pb.HealthCheck(
            path="/up", port=80, interval=seconds(5), timeout=seconds(2), retries=3, start_period=seconds(1)
        ),
        readiness=pb.Readiness(
            http=pb.HttpGet(path="/ready", port=80),
            interval=seconds(5),
            timeout=seconds(0.5),
            retries=3,
            start_period=seconds(1),
        ),
        depends_on=[pb.Dependency(service="db", condition=pb.Dependency.SERVICE_HEALTHY)],
        resources=pb.Resources(cpu_millis=500, memory_mib=1024),
        stop_grace_period=seconds(90),
        replicas=3,
        security=pb.Security(new_privileges=False, pids_limit=100, cap_add=["NET_RAW"]),
    )


def test_services_and_tasks_are_sorted_and_the_release_task_stands_apart(read: Parse) -> None:
    task = "{service: a, args: [x]}"
    text = HEAD + f"services: {{c: , a: , b: }}\ntasks: {{z: {task}, release: {task}, m: {task}}}"
    result = resolved(read, text)
    assert [service.name for service in result.services] == ["a", "b", "c"]
    assert result.release_task == pb.Task(name="release", service="a", args=["x"])
    assert [task.name for task in result.tasks] == ["m", "z"]


def test_absent_sections_resolve_to_nothing(read: Parse) -> None:
    result = resolved(read, HEAD + WEB)
    assert (result.release_task, result.tasks, result.ingress, result.registry) == (None, (), None, None)
    assert result.rollout == pb.RolloutPolicy(
        max_parallel="25%",
        on_failure=pb.RolloutPolicy.ROLLBACK,
        progress_deadline=seconds(600),
        reschedule_after=seconds(60),
    )


def test_dependency_order_does_not_change_the_message(read: Parse) -> None:
    one = resolved(read, HEAD + "services: {a: {depends_on: [c, b]}, b: , c: }")
    other = resolved(read, HEAD + "services: {a: {depends_on: {b: , c: }}, b: , c: }")
    assert one == other


def test_awaited_service_is_marked_as_completing(read: Parse) -> None:
    text = "services: {job: , db: , a: {depends_on: {job: {condition: service_completed_successfully}, db: }}}"
    found = resolved(read, HEAD + text)
    assert {service.name: service.completes for service in found.services} == {"a": False, "db": False, "job": True}


@pytest.mark.parametrize(
    ("context", "expected"), [(".", "/app"), ("./web", "/app/web"), ("../lib", "/lib"), ("/srv/x", "/srv/x")]
)
def test_build_context_is_relative_to_the_file(read: Parse, context: str, expected: str) -> None:
    assert read(HEAD + WEB + f"build: {{context: {context}}}").build.context == Path(expected)


def test_top_level_fields_are_on_the_config(read: Parse) -> None:
    registry = "registry: {repository: r.example.com/shop, username: u, password_secret: P}\n"
    config = read(HEAD + WEB + registry + "environments: {staging: , eu: {}}")
    assert (config.organization, config.project, config.default_environment) == ("acme", "shop", "production")
    assert config.environments == ("staging", "eu")
    assert config.registry == RegistryConfig("r.example.com/shop", "u", "P")
    assert config.path == PATH
    assert (config.build.dockerfile, config.build.platforms) == ("Dockerfile", ["linux/amd64"])


@pytest.mark.parametrize("environment", ["production", "staging"])
def test_exported_document_loads_to_the_same_result(environment: str) -> None:
    first = load(EXAMPLE).resolve(environment)
    document = to_document(first)
    config = parse(to_yaml(document), EXAMPLE)
    assert config.default_environment == environment
    second = config.resolve(environment)
    assert second == first
    assert to_document(second) == document


@pytest.mark.parametrize(
    "text", ["yes", "n", "1_000", "12:30", "2024-01-31", "-", "", "1.50", "true", "~", " a ", "a: b", "#", "é\n"]
)
def test_rendered_yaml_is_unambiguous(read: Parse, text: str) -> None:
    document = to_document(resolved(read, HEAD + WEB))
    document["services"]["web"]["env"] = {"A": text}
    written = to_yaml(document)
    assert dict(read(written).resolve("production").services[0].env) == {"A": text}
    if text in ("yes", "n", "1_000", "12:30", "2024-01-31"):
        assert f'A: "{text}"' in written


@pytest.mark.parametrize(
    ("time", "written"), [(0, "0s"), (0.5, "500ms"), (5, "5s"), (90, "1m30s"), (600, "10m"), (3723.004, "1h2m3s4ms")]
)
def test_duration_formats_are_parsed_back(time: float, written: str) -> None:
    assert format_duration(timedelta(seconds=time)) == written
