"""Releases of schedules, made from shapes. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from bench.hollow.behaviour import END, READY
from devopsellence.api.v1 import stored_pb2 as pb
from devopsellence.api.v1 import workload_pb2
from devopsellence.store.keys import EnvironmentRef
from tests.schedules.schedule import ReleaseQuality, ReleaseShape

REF = EnvironmentRef("acme", "shop", "production")
HOST = "shop.example.com"
#: Service and port that the host's requests reach.
WEB, PORT = "web", "http"
#: Nobody's fault: a release that is held up by what happens to the cluster must not fail for it.
_LONG_SECONDS = 600
#: For a release whose image never comes.
_SHORT_SECONDS = 2
#: Far less than an Envoy may be away, or a request may take.
_DRAIN_SECONDS = 0.2


def named() -> dict[str, Any]:
    """Return the fields that name the environment."""
    return {"organization": REF.organization, "project": REF.project, "environment": REF.environment}


def missing_image(number: int) -> str:
    """Return an image missing in every registry."""
    return f"registry.example.com/shop@sha256:{number:064x}"


def release(number: int, shape: ReleaseShape, created_by: str) -> pb.Release:
    """The release of ``shape`` with this number."""
    made = pb.Release(**named(), number=number, services=_services(number, shape), created_by=created_by)
    made.rollout.max_parallel = shape.max_parallel
    made.rollout.on_failure = (
        workload_pb2.RolloutPolicy.ROLLBACK if shape.goes_back else workload_pb2.RolloutPolicy.HALT
    )
    if shape.ingress:
        made.ingress.hosts.append(HOST)
        made.ingress.tls_mode = workload_pb2.Ingress.OFF
        made.ingress.rules.add(host=HOST, path_prefix="/", service=WEB, port=PORT)
        made.ingress.drain_timeout.FromMilliseconds(round(_DRAIN_SECONDS * 1000))
    stuck = shape.quality is ReleaseQuality.STUCK
    made.rollout.progress_deadline.FromSeconds(_SHORT_SECONDS if stuck else _LONG_SECONDS)
    if shape.task and not stuck:
        code = 3 if shape.quality is ReleaseQuality.FAILING_TASK else 0
        made.release_task.CopyFrom(workload_pb2.Task(name="migrate", service="web", env={END: f"0.05:{code}"}))
    return made


def _services(number: int, shape: ReleaseShape) -> Iterator[workload_pb2.Service]:
    yield _worker("cache", 1000 + number // 3)
    if shape.jobs:
        yield _worker("jobs", number)
    web = workload_pb2.Service(name=WEB, kind=workload_pb2.Service.WEB, image=_image(number))
    web.image.app = True
    web.ports.add(name=PORT, port=3000)
    web.healthcheck.path, web.healthcheck.port = "/up", 3000
    web.healthcheck.interval.FromMilliseconds(100)
    web.healthcheck.timeout.FromSeconds(5)
    web.healthcheck.start_period.FromSeconds(10)
    web.env[READY] = str(shape.ready)
    match shape.quality:
        case ReleaseQuality.SICK:
            web.env[READY] = "never"
            web.healthcheck.retries = 1
            web.healthcheck.interval.FromMilliseconds(50)
            web.healthcheck.timeout.FromMilliseconds(50)
            web.healthcheck.start_period.FromMilliseconds(100)
        case ReleaseQuality.CRASHING:
            web.env[READY], web.env[END] = "never", "0:1"
        case ReleaseQuality.STUCK:
            web.image.pinned = missing_image(number)
    yield web


def _worker(name: str, image: int) -> workload_pb2.Service:
    return workload_pb2.Service(name=name, kind=workload_pb2.Service.WORKER, image=_image(image))


def _image(number: int) -> workload_pb2.Image:
    return workload_pb2.Image(pinned=f"sha256:{number:064x}")
