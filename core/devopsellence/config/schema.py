"""Schema of devopsellence.yml: names, types and defaults of all fields.

Only this module and ``validate`` use pydantic: import lazily. ``scalars`` and ``quantities`` check values,
``cross_checks`` compares sections. ``None`` means "not set". A key without a value counts as not set for a map or list
(people comment out the lines below a key), and is an error for a scalar.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from types import UnionType
from typing import Annotated, Any, Final, TypeVar, Union, get_args, get_origin, get_type_hints

from pydantic import BaseModel, BeforeValidator, ConfigDict, Discriminator, Field, PlainValidator, Tag

from devopsellence.api.v1 import workload_pb2 as pb
from devopsellence.config import quantities, scalars
from devopsellence.config.problems import DocPath

MAX_ENTRIES: Final = 1000
MAX_SERVICES: Final = 200
MAX_ENVIRONMENTS: Final = 100
MAX_REPLICAS: Final = 10_000
MAX_HOSTS: Final = 500
#: Limit of the kernel on 64-bit machines (PID_MAX_LIMIT).
MAX_PIDS: Final = 4 << 20
MAX_REGISTRIES: Final = 50
#: Conditions of ``depends_on``, modes of ``ingress.tls`` and choices of ``deploy.on_failure``: word and message value.
CONDITIONS: Final = {
    "service_started": pb.Dependency.SERVICE_STARTED,
    "service_healthy": pb.Dependency.SERVICE_HEALTHY,
    "service_completed_successfully": pb.Dependency.SERVICE_COMPLETED_SUCCESSFULLY,
}
TLS_MODES: Final = {"auto": pb.Ingress.AUTO, "off": pb.Ingress.OFF, "manual": pb.Ingress.MANUAL}
ON_FAILURE: Final = {"rollback": pb.RolloutPolicy.ROLLBACK, "halt": pb.RolloutPolicy.HALT}
_MS_100: Final = timedelta(milliseconds=100)

T = TypeVar("T")


def _list_field(example: str, most: int = MAX_ENTRIES) -> BeforeValidator:
    def check(value: object) -> object:
        if value is None:
            return []
        if not isinstance(value, list):
            raise scalars.Unfit(f"must be a list{example}, not {scalars.kind_of(value)}")
        if len(value) > most:
            raise scalars.Unfit(f"has {len(value)} entries; at most {most} are accepted")
        return value

    return BeforeValidator(check)


def _map_field(
    example: str = "", *, least: str = "", most: int = MAX_ENTRIES, empty: Callable[[], object] = dict
) -> BeforeValidator:
    def check(value: object) -> object:
        if value is None:
            value = empty()
        if value is None:
            return None
        if not isinstance(value, dict):
            raise scalars.Unfit(f"must be a map{example}, not {scalars.kind_of(value)}")
        if least and not value:
            raise scalars.Unfit(f"needs at least one {least}")
        if len(value) > most:
            raise scalars.Unfit(f"has {len(value)} entries; at most {most} are accepted")
        return value

    return BeforeValidator(check)


NameField = Annotated[str, PlainValidator(scalars.name)]
ServiceName = Annotated[str, PlainValidator(scalars.service_name)]
FilledText = Annotated[str, PlainValidator(scalars.filled)]
VariableName = Annotated[str, PlainValidator(scalars.variable_name)]
PortNumber = Annotated[int, PlainValidator(quantities.port)]
MaybePort = Annotated[int | None, PlainValidator(quantities.port)]
UrlPath = Annotated[str, PlainValidator(scalars.url_path)]
DurationField = Annotated[timedelta, PlainValidator(quantities.duration(timedelta(0)))]
IntervalField = Annotated[timedelta, PlainValidator(quantities.duration(_MS_100))]
WordList = Annotated[
    list[Annotated[str, PlainValidator(scalars.text)]], _list_field(' such as [redis-server, --appendonly, "yes"]')
]
EnvironmentVariables = Annotated[
    dict[VariableName, Annotated[str, PlainValidator(scalars.variable_value)]],
    _map_field(" such as RAILS_ENV: production"),
]
SubSection = Annotated[T, _map_field()]
OptionalSection = Annotated[T | None, _map_field(empty=lambda: None)]


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class BuildSection(Section):
    context: Annotated[str, PlainValidator(scalars.folder)] = "."
    dockerfile: FilledText = "Dockerfile"
    platforms: Annotated[
        list[Annotated[str, PlainValidator(scalars.platform)]], _list_field(" such as [linux/amd64]")
    ] = ["linux/amd64"]


class SecretRefSection(Section):
    name: VariableName
    secret: NameField


class PortSection(Section):
    name: NameField
    port: PortNumber


class ProbeTiming(Section):
    """Timing of a probe, with defaults."""

    interval: IntervalField = timedelta(seconds=5)
    timeout: IntervalField = timedelta(seconds=2)
    retries: Annotated[int, PlainValidator(quantities.whole(1, 1000))] = 3
    start_period: DurationField = timedelta(seconds=1)


class HealthCheckSection(ProbeTiming):
    path: UrlPath = "/up"
    port: MaybePort = None


class ReadinessSection(ProbeTiming):
    command: WordList = []
    tcp: MaybePort = None
    path: Annotated[str | None, PlainValidator(scalars.url_path)] = None
    port: MaybePort = None


class VolumeSection(Section):
    source: Annotated[str, PlainValidator(scalars.volume_source)]
    target: Annotated[str, PlainValidator(scalars.volume_target)]


class DependencySection(Section):
    condition: Annotated[str, PlainValidator(scalars.choice(*CONDITIONS))] = "service_started"


class ResourcesSection(Section):
    cpus: Annotated[int, PlainValidator(quantities.cpu_millis)] = 0
    memory: Annotated[int, PlainValidator(quantities.memory_mib)] = 0


class SecuritySection(Section):
    # Not set: the default of the agent that creates the container.
    new_privileges: Annotated[bool | None, PlainValidator(scalars.truth)] = None
    pids_limit: Annotated[int | None, PlainValidator(quantities.whole(1, MAX_PIDS))] = None
    cap_add: Annotated[list[Annotated[str, PlainValidator(scalars.capability)]], _list_field(" such as [NET_RAW]")] = []


# Tags of the two forms of depends_on, part of pydantic's error paths; no valid key has this form.
AS_LIST: Final = "(list)"
AS_MAP: Final = "(map)"
DependsOn = Annotated[
    Annotated[Annotated[list[NameField], _list_field("")], Tag(AS_LIST)]
    | Annotated[
        Annotated[dict[NameField, SubSection[DependencySection]], _map_field(" or a list of services")], Tag(AS_MAP)
    ],
    Discriminator(lambda value: AS_LIST if isinstance(value, list) else AS_MAP),
]


class ServiceSection(Section):
    image: Annotated[str | None, PlainValidator(scalars.image)] = None
    command: WordList = []
    args: WordList = []
    env: EnvironmentVariables = {}
    secret_refs: Annotated[list[Annotated[SecretRefSection, _map_field(" with name and secret")]], _list_field("")] = []
    ports: Annotated[list[Annotated[PortSection, _map_field(" with name and port")]], _list_field("")] = []
    healthcheck: OptionalSection[HealthCheckSection] = None
    volumes: Annotated[list[Annotated[VolumeSection, _map_field(" with source and target")]], _list_field("")] = []
    readiness: OptionalSection[ReadinessSection] = None
    depends_on: DependsOn = []
    resources: SubSection[ResourcesSection] = ResourcesSection()
    stop_grace_period: DurationField = timedelta(seconds=10)
    # Not set: a copy on every node that may run the service.
    replicas: Annotated[int | None, PlainValidator(quantities.whole(1, MAX_REPLICAS))] = None
    security: SubSection[SecuritySection] = SecuritySection()


class TaskSection(Section):
    service: FilledText
    command: WordList = []
    args: WordList = []
    env: EnvironmentVariables = {}


class RuleMatch(Section):
    host: Annotated[str, PlainValidator(scalars.host)]
    path_prefix: Annotated[str, PlainValidator(scalars.path_prefix)] = "/"


class RuleTarget(Section):
    service: FilledText
    port: FilledText


class RuleSection(Section):
    match: SubSection[RuleMatch]
    target: SubSection[RuleTarget]


class TlsSection(Section):
    mode: Annotated[str, PlainValidator(scalars.choice(*TLS_MODES))] = "auto"
    email: Annotated[str, PlainValidator(scalars.email)] = ""
    ca_directory_url: Annotated[str, PlainValidator(scalars.url)] = ""


class IngressSection(Section):
    # Checked for content in cross_checks, because the base may leave hosts and rules to environments.
    hosts: Annotated[
        list[Annotated[str, PlainValidator(scalars.host)]], _list_field(" such as [app.example.com]", most=MAX_HOSTS)
    ] = []
    rules: Annotated[list[Annotated[RuleSection, _map_field(" with match and target")]], _list_field("")] = []
    tls: SubSection[TlsSection] = TlsSection()
    redirect_http: Annotated[bool | None, PlainValidator(scalars.truth)] = None
    drain_timeout: DurationField = timedelta(seconds=30)


class DeploySection(Section):
    max_parallel: Annotated[str, PlainValidator(quantities.max_parallel)] = "25%"
    on_failure: Annotated[str, PlainValidator(scalars.choice(*ON_FAILURE))] = "rollback"
    progress_deadline: Annotated[timedelta, PlainValidator(quantities.duration(timedelta(seconds=1)))] = (
        quantities.DEFAULT_PROGRESS_DEADLINE
    )
    reschedule_after: Annotated[timedelta, PlainValidator(quantities.duration(timedelta(seconds=1)))] = timedelta(
        minutes=1
    )


class RegistrySection(Section):
    repository: Annotated[str, PlainValidator(scalars.repository)]
    username: Annotated[str, PlainValidator(scalars.filled)] = ""
    password_secret: Annotated[str, PlainValidator(scalars.name)] = ""


class RegistryLoginSection(Section):
    username: FilledText
    password_secret: NameField


class OverlaySection(Section):
    """Fields allowed in an overlay. Only for field names: validation applies to the merged document."""

    services: Annotated[dict[NameField, SubSection[ServiceSection]], _map_field()] = {}
    tasks: Annotated[dict[NameField, SubSection[TaskSection]], _map_field()] = {}
    ingress: OptionalSection[IngressSection] = None


class RootSection(Section):
    schema_version: Annotated[int, PlainValidator(scalars.schema_version)]
    organization: NameField
    project: NameField
    default_environment: NameField = "production"
    build: SubSection[BuildSection] = BuildSection()
    services: Annotated[
        dict[ServiceName, SubSection[ServiceSection]], _map_field(" of services", least="service", most=MAX_SERVICES)
    ]
    tasks: Annotated[dict[NameField, SubSection[TaskSection]], _map_field(" of tasks")] = {}
    ingress: OptionalSection[IngressSection] = None
    environments: Annotated[
        dict[NameField, Annotated[dict[str, Any], _map_field()]], _map_field(" of environments", most=MAX_ENVIRONMENTS)
    ] = Field(default={}, exclude=True)
    deploy: SubSection[DeploySection] = DeploySection()
    registry: OptionalSection[RegistrySection] = None
    registries: Annotated[
        dict[Annotated[str, PlainValidator(scalars.registry_host)], SubSection[RegistryLoginSection]],
        _map_field(" of registries", most=MAX_REGISTRIES),
    ] = {}


def model_at(path: DocPath, start: type[Section] = RootSection) -> type[Section] | None:
    """Return the section class of the map at ``path``; None for free-form maps (``env``) and unknown fields."""
    current: Any = start
    for position, step in enumerate(path):
        if current is RootSection and step == "environments" and len(path) > position + 2:
            return model_at(path[position + 2 :], OverlaySection)
        current = _below(current, step)
    return next((kind for kind in _alternatives(current) if isinstance(kind, type) and issubclass(kind, Section)), None)


def _below(kind: Any, step: str | int) -> Any:
    for option in _alternatives(kind):
        if isinstance(option, type) and issubclass(option, Section) and step in option.model_fields:
            return get_type_hints(option)[str(step)]
        if get_origin(option) is list and isinstance(step, int):
            return get_args(option)[0]
        if get_origin(option) is dict and isinstance(step, str):
            return get_args(option)[1]
    return None


def _alternatives(kind: Any) -> tuple[Any, ...]:
    return get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)
