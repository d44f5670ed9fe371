"""The format's fields: names, types, defaults. The only module that imports pydantic; import it late.

Values are checked by ``scalars``; what one part says about another is in ``rules``. ``None`` as a field's value is "not
written". A key with nothing after it counts as not written where a map or a list would stand (people comment out what
is under a key), and is an error where a value would stand.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from types import UnionType
from typing import Annotated, Any, Final, TypeVar, Union, get_args, get_origin, get_type_hints

from pydantic import BaseModel, BeforeValidator, ConfigDict, Discriminator, Field, PlainValidator, Tag

from devopsellence.config import quantities, scalars
from devopsellence.config.problems import DocPath

MAX_ENTRIES: Final = 1000
MAX_SERVICES: Final = 200
MAX_ENVIRONMENTS: Final = 100
MAX_REPLICAS: Final = 10_000
MAX_HOSTS: Final = 500
_MS_100: Final = timedelta(milliseconds=100)

T = TypeVar("T")


def _a_list(example: str, most: int = MAX_ENTRIES) -> BeforeValidator:
    def check(value: object) -> object:
        if value is None:
            return []
        if not isinstance(value, list):
            raise scalars.Unfit(f"must be a list{example}, not {scalars.kind_of(value)}")
        if len(value) > most:
            raise scalars.Unfit(f"has {len(value)} entries; at most {most} are accepted")
        return value

    return BeforeValidator(check)


def _a_map(
    example: str = "", *, least: str = "", most: int = MAX_ENTRIES, nothing: Callable[[], object] = dict
) -> BeforeValidator:
    def check(value: object) -> object:
        if value is None:
            value = nothing()
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


Name = Annotated[str, PlainValidator(scalars.name)]
Filled = Annotated[str, PlainValidator(scalars.filled)]
Variable = Annotated[str, PlainValidator(scalars.variable_name)]
PortNumber = Annotated[int, PlainValidator(quantities.port)]
MaybePort = Annotated[int | None, PlainValidator(quantities.port)]
UrlPath = Annotated[str, PlainValidator(scalars.url_path)]
Time = Annotated[timedelta, PlainValidator(quantities.duration(timedelta(0)))]
Pause = Annotated[timedelta, PlainValidator(quantities.duration(_MS_100))]
Words = Annotated[
    list[Annotated[str, PlainValidator(scalars.text)]], _a_list(' such as [redis-server, --appendonly, "yes"]')
]
Env = Annotated[
    dict[Variable, Annotated[str, PlainValidator(scalars.variable_value)]], _a_map(" such as RAILS_ENV: production")
]
Sub = Annotated[T, _a_map()]
Optional = Annotated[T | None, _a_map(nothing=lambda: None)]


class Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Build(Model):
    context: Annotated[str, PlainValidator(scalars.folder)] = "."
    dockerfile: Filled = "Dockerfile"
    platforms: Annotated[list[Annotated[str, PlainValidator(scalars.platform)]], _a_list(" such as [linux/amd64]")] = [
        "linux/amd64"
    ]


class SecretRef(Model):
    name: Variable
    secret: Name


class Port(Model):
    name: Name
    port: PortNumber


class Timing(Model):
    """How a check is repeated; the defaults are the design's."""

    interval: Pause = timedelta(seconds=5)
    timeout: Pause = timedelta(seconds=2)
    retries: Annotated[int, PlainValidator(quantities.whole(1, 1000))] = 3
    start_period: Time = timedelta(seconds=1)


class HealthCheck(Timing):
    path: UrlPath = "/up"
    port: MaybePort = None


class Readiness(Timing):
    command: Words = []
    tcp: MaybePort = None
    path: Annotated[str | None, PlainValidator(scalars.url_path)] = None
    port: MaybePort = None


class Volume(Model):
    source: Annotated[str, PlainValidator(scalars.volume_source)]
    target: Annotated[str, PlainValidator(scalars.volume_target)]


class Dependency(Model):
    condition: Annotated[
        str, PlainValidator(scalars.choice("service_started", "service_healthy", "service_completed_successfully"))
    ] = "service_started"


class Resources(Model):
    cpus: Annotated[int, PlainValidator(quantities.cpu_millis)] = 0
    memory: Annotated[int, PlainValidator(quantities.memory_mib)] = 0


# The tags of depends_on's two forms stand in an error's path; no key looks like them.
AS_LIST: Final = "(list)"
AS_MAP: Final = "(map)"
DependsOn = Annotated[
    Annotated[Annotated[list[Name], _a_list("")], Tag(AS_LIST)]
    | Annotated[Annotated[dict[Name, Sub[Dependency]], _a_map(" or a list of services")], Tag(AS_MAP)],
    Discriminator(lambda value: AS_LIST if isinstance(value, list) else AS_MAP),
]


class Service(Model):
    image: Annotated[str | None, PlainValidator(scalars.image)] = None
    command: Words = []
    args: Words = []
    env: Env = {}
    secret_refs: Annotated[list[Annotated[SecretRef, _a_map(" with name and secret")]], _a_list("")] = []
    ports: Annotated[list[Annotated[Port, _a_map(" with name and port")]], _a_list("")] = []
    healthcheck: Optional[HealthCheck] = None
    volumes: Annotated[list[Annotated[Volume, _a_map(" with source and target")]], _a_list("")] = []
    readiness: Optional[Readiness] = None
    depends_on: DependsOn = []
    resources: Sub[Resources] = Resources()
    stop_grace_period: Time = timedelta(seconds=10)
    # Not written: on every node that may run it.
    replicas: Annotated[int | None, PlainValidator(quantities.whole(1, MAX_REPLICAS))] = None


class Task(Model):
    service: Filled
    command: Words = []
    args: Words = []
    env: Env = {}


class Match(Model):
    host: Annotated[str, PlainValidator(scalars.host)]
    path_prefix: Annotated[str, PlainValidator(scalars.path_prefix)] = "/"


class Target(Model):
    service: Filled
    port: Filled


class Rule(Model):
    match: Sub[Match]
    target: Sub[Target]


class Tls(Model):
    mode: Annotated[str, PlainValidator(scalars.choice("auto", "off", "manual"))] = "auto"
    email: Annotated[str, PlainValidator(scalars.email)] = ""
    ca_directory_url: Annotated[str, PlainValidator(scalars.url)] = ""


class Ingress(Model):
    # That neither is empty is a rule, because the base may leave both to its environments.
    hosts: Annotated[
        list[Annotated[str, PlainValidator(scalars.host)]], _a_list(" such as [app.example.com]", most=MAX_HOSTS)
    ] = []
    rules: Annotated[list[Annotated[Rule, _a_map(" with match and target")]], _a_list("")] = []
    tls: Sub[Tls] = Tls()
    redirect_http: Annotated[bool | None, PlainValidator(scalars.truth)] = None
    drain_timeout: Time = timedelta(seconds=30)


class Deploy(Model):
    max_parallel: Annotated[str, PlainValidator(quantities.max_parallel)] = "25%"
    on_failure: Annotated[str, PlainValidator(scalars.choice("rollback", "halt"))] = "rollback"
    progress_deadline: Annotated[timedelta, PlainValidator(quantities.duration(timedelta(seconds=1)))] = timedelta(
        minutes=10
    )
    reschedule_after: Annotated[timedelta, PlainValidator(quantities.duration(timedelta(seconds=1)))] = timedelta(
        minutes=1
    )


class Registry(Model):
    repository: Annotated[str, PlainValidator(scalars.repository)]
    username: Annotated[str, PlainValidator(scalars.filled)] = ""
    password_secret: Annotated[str, PlainValidator(scalars.name)] = ""


class Overlay(Model):
    """What an environment may change. For the names alone: an overlay is validated as the whole it resolves to."""

    services: Annotated[dict[Name, Sub[Service]], _a_map()] = {}
    tasks: Annotated[dict[Name, Sub[Task]], _a_map()] = {}
    ingress: Optional[Ingress] = None


class Root(Model):
    schema_version: Annotated[int, PlainValidator(scalars.schema_version)]
    organization: Name
    project: Name
    default_environment: Name = "production"
    build: Sub[Build] = Build()
    services: Annotated[dict[Name, Sub[Service]], _a_map(" of services", least="service", most=MAX_SERVICES)]
    tasks: Annotated[dict[Name, Sub[Task]], _a_map(" of tasks")] = {}
    ingress: Optional[Ingress] = None
    environments: Annotated[
        dict[Name, Annotated[dict[str, Any], _a_map()]], _a_map(" of environments", most=MAX_ENVIRONMENTS)
    ] = Field(default={}, exclude=True)
    deploy: Sub[Deploy] = Deploy()
    registry: Optional[Registry] = None


def model_at(path: DocPath, start: type[Model] = Root) -> type[Model] | None:
    """The model that describes the map at ``path``; None where no model does (``env``, or no field of the format)."""
    current: Any = start
    for position, step in enumerate(path):
        if current is Root and step == "environments" and len(path) > position + 2:
            return model_at(path[position + 2 :], Overlay)
        current = _below(current, step)
    return next((kind for kind in _alternatives(current) if isinstance(kind, type) and issubclass(kind, Model)), None)


def _below(kind: Any, step: str | int) -> Any:
    for option in _alternatives(kind):
        if isinstance(option, type) and issubclass(option, Model) and step in option.model_fields:
            return get_type_hints(option)[str(step)]
        if get_origin(option) is list and isinstance(step, int):
            return get_args(option)[0]
        if get_origin(option) is dict and isinstance(step, str):
            return get_args(option)[1]
    return None


def _alternatives(kind: Any) -> tuple[Any, ...]:
    return get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)
