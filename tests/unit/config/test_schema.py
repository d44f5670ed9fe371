"""Fields of the schema: accepted values, rejected values, messages."""

from __future__ import annotations

import json

import pytest

from tests.unit.config.conftest import HEAD, WEB, Problems

# Where HERE stands, what is tried comes.
ROOT = HEAD.replace("acme", "HERE") + WEB
SERVICE = HEAD + WEB + "  job:\n    HERE\n"
TOP = HEAD + WEB + "HERE\n"
RULE = "rules: [{match: {host: a.example.com}, target: {service: web, port: http}}]"
INGRESS = TOP.replace("HERE", "ingress: {hosts: [a.example.com], " + RULE + ", HERE}")
HEALTH = HEAD + "services:\n  web:\n    ports: [{name: http, port: 80}]\n    healthcheck: {HERE}\n"


def fits(problems: Problems, template: str, value: str) -> None:
    assert problems(template.replace("HERE", value)) == []


def said(problems: Problems, template: str, value: str) -> str:
    (message,) = problems(template.replace("HERE", value))
    return message


@pytest.mark.parametrize("value", ["acme", "ShopApp", "a.b-c_d", "42", "2024.10", '"7"', "x" * 63])
def test_name_may_be(problems: Problems, value: str) -> None:
    fits(problems, ROOT, value)


@pytest.mark.parametrize(
    ("value", "fact"),
    [
        ("", "organization has no value: set a value or remove the key"),
        ('""', "organization must not be empty"),
        ("a b", 'organization "a b" is not a name: a name is letters, digits'),
        ("-x", 'organization "-x" is not a name'),
        ("a/b", 'organization "a/b" is not a name'),
        ("größe", 'organization "größe" is not a name'),
        ("x" * 64, "is not a name"),
        ("x" * 200_000, "organization is longer than 131071 bytes"),
        ("true", 'organization must be text, not a boolean: write "true" with quotes'),
        ("[a]", "organization must be text, not a list"),
        ("{a: b}", "organization must be text, not a map"),
        ('"\\e[31m"', '"\\x1b[31m" is not a name'),
    ],
)
def test_name_may_not_be(problems: Problems, value: str, fact: str) -> None:
    assert fact in said(problems, ROOT, value)


@pytest.mark.parametrize(
    ("written", "fact"),
    [
        ("schema_version: 2", "schema_version must be 1, the only schema version, not the number 2"),
        ('schema_version: "1"', 'schema_version must be 1, the only schema version, not "1"'),
        ("schema_version: true", "schema_version must be 1, the only schema version, not true"),
        ("schema_version:", "schema_version must be 1, the only schema version, not nothing"),
        ("schema_version: 1.0", "schema_version must be 1, the only schema version, not the number 1.0"),
    ],
)
def test_schema_version_is_1(problems: Problems, written: str, fact: str) -> None:
    assert problems((HEAD + WEB).replace("schema_version: 1", written)) == [fact]


SERVICE_FITS = [
    "image: redis",
    "image: redis:7-alpine",
    "image: registry.example.com:5000/team/app.web_x:1.2",
    "image: localhost:5000/app@sha256:" + "a" * 64,
    "image: '[::1]:5000/app'",
    'args: [redis-server, --appendonly, "yes"]',
    "args: [redis-server, --appendonly, yes]",
    'args: [memcached, -m, "128"]',
    "args: [memcached, -m, 128, -t, 1.50, '']",
    "args: []",
    "args:",
    "command: [bin/jobs]",
    "env: {A: b, B: 1, C: 1.10, D: yes, E: '', f.g-h: '='}",
    "env:",
    "secret_refs: [{name: A, secret: B}]",
    "secret_refs:",
    "ports: [{name: redis, port: 6379}, {name: admin, port: 6379}]",
    "ports: []",
    "volumes: [{source: data, target: /data}, {source: data, target: /more/}]",
    "volumes: [{source: data, target: /Data}, {source: data, target: /data}]",
    "volumes: [{source: data, target: /dev/shm}, {source: data, target: /processed}, {source: data, target: /etc}]",
    "readiness: {command: [redis-cli, ping]}",
    "readiness: {tcp: 6379}",
    "readiness: {path: /ready, port: 9200, interval: 1s, timeout: 500ms, retries: 10, start_period: 1m30s}",
    "readiness:",
    "healthcheck:",
    "depends_on: [web]",
    "depends_on: {web: }",
    "depends_on: {web: {condition: service_healthy}}",
    "depends_on:",
    "resources: {cpus: 0.5, memory: 512m}",
    'resources: {cpus: "2", memory: 1g}',
    "resources: {cpus: .25}",
    "resources: {memory: 1.5GiB}",
    "resources: {memory: 524288K}",
    "resources:",
    "security: {new_privileges: true, pids_limit: 1, cap_add: [NET_RAW]}",
    "security: {new_privileges: false, pids_limit: 4194304, cap_add: }",
    "security:",
    "stop_grace_period: 30s",
    "stop_grace_period: 0s",
    "stop_grace_period: 1h2m3s4ms",
    "stop_grace_period: 1.5s",
    "replicas: 1",
    "replicas: 10000",
]


@pytest.mark.parametrize("written", SERVICE_FITS)
def test_service_may_have(problems: Problems, written: str) -> None:
    fits(problems, SERVICE, written)


@pytest.mark.parametrize(
    ("written", "fact"),
    [
        ("image: ''", "image must not be empty"),
        ("image:", "image has no value: set a value or remove the key"),
        ("image: Redis:7", 'image "Redis:7" is not an image: write it as redis:7-alpine'),
        ("image: registry.example.com/search:<version>", "is not an image"),
        ("image: a b", 'image "a b" is not an image'),
        ("image: redis@sha256:abc", "is not an image"),
        ("image: " + "a" * 600, "is not an image"),
        ("command: bin/jobs --all", 'command must be a list such as [redis-server, --appendonly, "yes"], not text'),
        ("args: {a: b}", 'args must be a list such as [redis-server, --appendonly, "yes"], not a map'),
        ("args: [a, true]", 'args[1] must be text, not a boolean: write "true" with quotes'),
        ("args: [a, ]\n    command: [~]", "command[0] has no value: set a value or remove the key"),
        ("args: [[a]]", "args[0] must be text, not a list"),
        ("args: [" + "a, " * 1001 + "]", "args has 1001 entries; at most 1000 are accepted"),
        ("env: [A=b]", "env must be a map such as RAILS_ENV: production, not a list"),
        ("env: {A: true}", 'env.A must be text, not a boolean: write "true" with quotes'),
        ("env: {A: }", 'env.A has no value: write "" for an empty value'),
        ("env: {A: [b]}", "env.A must be text, not a list"),
        ("env: {'A=B': c}", 'env."A=B" "A=B" is not a variable name: spaces and \'=\' are not allowed'),
        ("env: {'A B': c}", "is not a variable name"),
        ("env: {'': c}", 'env."" must not be empty'),
        ("secret_refs: [SECRET]", "secret_refs[0] must be a map with name and secret, not text"),
        ("secret_refs: {A: B}", "secret_refs must be a list, not a map"),
        ("secret_refs: [{name: A}]", "secret_refs[0].secret is required"),
        ("secret_refs: [{secret: A}]", "secret_refs[0].name is required"),
        ("secret_refs: [{name: A, secret: b c}]", 'secret_refs[0].secret "b c" is not a name'),
        ("secret_refs: [{name: A, secret: B}, {name: A, secret: C}]", 'secret_refs[1].name "A" is a duplicate'),
        ('ports: ["3000:3000"]', "ports[0] must be a map with name and port, not text"),
        ("ports: [3000]", "ports[0] must be a map with name and port, not the number 3000"),
        ("ports: [{name: a}]", "ports[0].port is required"),
        ("ports: [{port: 1}]", "ports[0].name is required"),
        ("ports: [{name: a, port: 0}]", "ports[0].port must be a whole number from 1 to 65535, not the number 0"),
        ("ports: [{name: a, port: 65536}]", "must be a whole number from 1 to 65535, not the number 65536"),
        ("ports: [{name: a, port: -1}]", "must be a whole number from 1 to 65535, not the number -1"),
        ("ports: [{name: a, port: 1.0}]", "must be a whole number from 1 to 65535, not the number 1.0"),
        ("ports: [{name: a, port: 0x50}]", "must be a whole number from 1 to 65535, not the number 0x50"),
        (
            "ports: [{name: a, port: " + "9" * 5000 + "}]",
            "must be a whole number from 1 to 65535, not the number 99999",
        ),
        ("ports: [{name: a, port: true}]", "must be a whole number from 1 to 65535, not true"),
        ('ports: [{name: a, port: "80"}]', 'must be a whole number from 1 to 65535, not "80"; remove the quotes'),
        ("ports: [{name: a, port: }]", "must be a whole number from 1 to 65535, not nothing"),
        ("ports: [{name: a, port: 1}, {name: a, port: 2}]", 'ports[1].name "a" is a duplicate'),
        ("volumes: [data:/data]", "volumes[0] must be a map with source and target, not text"),
        ("volumes: [{source: ./data, target: /data}]", 'volumes[0].source "./data" is a host path, but only named'),
        ("volumes: [{source: /data, target: /data}]", 'volumes[0].source "/data" is a host path'),
        ("volumes: [{source: ~/data, target: /data}]", 'volumes[0].source "~/data" is a host path'),
        ("volumes: [{source: 'C:\\x', target: /data}]", "is a host path"),
        ("volumes: [{source: a b, target: /data}]", 'volumes[0].source "a b" is not a name'),
        ("volumes: [{source: a}]", "volumes[0].target is required"),
        (
            "volumes: [{source: a, target: data}]",
            'volumes[0].target must be an absolute path in the container, not "data"',
        ),
        ("volumes: [{source: a, target: /}]", 'volumes[0].target "/" is not a valid mount path in the container'),
        ("volumes: [{source: a, target: /a/../..}]", "is not a valid mount path in the container"),
        ("volumes: [{source: a, target: '/a:b'}]", "is not a valid mount path in the container"),
        ("volumes: [{source: a, target: /x}, {source: b, target: /x/}]", 'volumes[1].target "/x/" is a duplicate'),
        *(
            (
                f"volumes: [{{source: a, target: {other}}}, {{source: b, target: /x}}]",
                f'"/x" is a duplicate of "{other}"',
            )
            for other in ("/x/", "/x/.", "//x", "///x", "/./x", "/x//", "/x/./")
        ),
        *(
            (f"volumes: [{{source: a, target: {target}}}]", f'"{target}" belongs to the kernel in every container')
            for target in ("/proc", "/proc/x", "/sys", "/sys/fs/cgroup", "/dev", "//dev/", "/dev/./null", "/proc/.")
        ),
        *(
            (f"volumes: [{{source: a, target: {target}}}]", f'"{target}" is a file that Docker provides')
            for target in ("/etc/hosts", "/etc/hostname", "/etc/resolv.conf", "/etc//hosts/x", "/.dockerenv")
        ),
        ("volumes: [{source: a, target: /data/../proc}]", "is not a valid mount path in the container"),
        ("readiness: true", "readiness must be a map, not true"),
        ("readiness: {}", "readiness must have exactly one of command, tcp, or path (with or without port)"),
        ("readiness: {command: []}", "readiness must have exactly one of"),
        ("readiness: {tcp: 1, command: [a]}", "readiness must have exactly one of"),
        ("readiness: {tcp: 1, port: 2}", "readiness must have exactly one of"),
        ("readiness: {port: 1}", "readiness.path is required; for a TCP connection check use tcp"),
        ("readiness: {path: /x}", "readiness.port is required, because the service has no port named http"),
        ("readiness: {path: x, port: 1}", 'readiness.path must begin with /: "x"'),
        ("readiness: {tcp: http}", 'readiness.tcp must be a whole number from 1 to 65535, not "http"'),
        (
            "readiness: {tcp: 1, retries: 0}",
            "readiness.retries must be a whole number from 1 to 1000, not the number 0",
        ),
        ("readiness: {tcp: 1, interval: 0s}", 'readiness.interval must be from 100ms to 168h, not "0s"'),
        ("depends_on: web", "depends_on must be a map or a list of services, not text"),
        ("depends_on: [true]", "depends_on[0] must be text, not a boolean"),
        ("depends_on: {web: service_healthy}", "depends_on.web must be a map, not text"),
        (
            "depends_on: {web: {condition: healthy}}",
            "depends_on.web.condition must be service_started, service_healthy or",
        ),
        ("depends_on: {web: {restart: true}}", "depends_on.web.restart is not a known key; known keys: condition"),
        ("security: 1", "security must be a map, not the number 1"),
        ("security: {new_privileges: 1}", "security.new_privileges must be true or false, not the number 1"),
        ("security: {pids_limit: 0}", "security.pids_limit must be a whole number from 1 to 4194304, not the number 0"),
        (
            "security: {cap_add: [SYS_ADMIN]}",
            'security.cap_add[0] "SYS_ADMIN" is not a capability for containers: NET_RAW is the only one that can be '
            "added",
        ),
        (
            "security: {cap_add: [CAP_NET_RAW]}",
            'security.cap_add[0] "CAP_NET_RAW" is not a capability for containers: write it without CAP_',
        ),
        ("pids_limit: 5", 'pids_limit is not a known key; did you mean "security"?'),
        ("resources: 1", "resources must be a map, not the number 1"),
        ("resources: {cpus: 0}", "resources.cpus must be from 0.001 to 1024 cores, not the number 0"),
        ("resources: {cpus: -1}", "resources.cpus must be a number of cores such as 0.5 or 2, not the number -1"),
        ("resources: {cpus: 1e9}", "resources.cpus must be a number of cores such as 0.5 or 2, not the number 1e9"),
        ("resources: {cpus: 500m}", 'resources.cpus must be a number of cores such as 0.5 or 2, not "500m"'),
        (
            "resources: {memory: 512}",
            "resources.memory must be a size such as 512m or 1g, not the number 512; write 512m",
        ),
        ("resources: {memory: 1m}", 'resources.memory must be from 6m to 64t, not "1m"'),
        ("resources: {memory: 10000k}", 'resources.memory must be a whole number of mebibytes, not "10000k"'),
        ("resources: {memory: lots}", 'resources.memory must be a size such as 512m or 1g, not "lots"'),
        (
            "stop_grace_period: 10",
            "stop_grace_period must be a duration such as 5s, 1m30s or 500ms, not the number 10; write 10s",
        ),
        ("replicas: 0", "replicas must be a whole number from 1 to 10000, not the number 0"),
        ("replicas: 10001", "replicas must be a whole number from 1 to 10000, not the number 10001"),
        ('replicas: "2"', 'must be a whole number from 1 to 10000, not "2"; remove the quotes'),
        ("replicas: all", 'replicas must be a whole number from 1 to 10000, not "all"'),
        ("replicas:", "replicas must be a whole number from 1 to 10000, not nothing"),
        ("stop_grace_period: soon", 'stop_grace_period must be a duration such as 5s, 1m30s or 500ms, not "soon"'),
        ("stop_grace_period: 5s 3s", "must be a duration such as"),
        ("stop_grace_period: -5s", "must be a duration such as"),
        ("stop_grace_period: 8d", "must be a duration such as"),
        ("stop_grace_period: 200h", 'stop_grace_period must be from 0s to 168h, not "200h"'),
        ("stop_grace_period: 999999999h999999999h", "must be from 0s to 168h"),
        ("imgae: redis", 'imgae is not a known key; did you mean "image"?'),
        ("environment: {A: b}", 'environment is not a known key; did you mean "env"?'),
        ("entrypoint: [a]", 'entrypoint is not a known key; did you mean "command"?'),
        ("secrets: [a]", 'secrets is not a known key; did you mean "secret_refs"?'),
        ("Ports: []", 'Ports is not a known key; did you mean "ports"?'),
        ("privileged: true", "privileged is not a known key; known keys: image, command, args, env,"),
    ],
)
def test_service_may_not_have(problems: Problems, written: str, fact: str) -> None:
    message = said(problems, SERVICE, written)
    assert message.startswith("services.job."), message
    assert fact in message


@pytest.mark.parametrize("written", ["", "path: /healthz?full=1", "port: 8080", "interval: 100ms", "start_period: 0s"])
def test_health_check_may_have(problems: Problems, written: str) -> None:
    fits(problems, HEALTH, written)


@pytest.mark.parametrize(
    ("written", "fact"),
    [
        ("path: up", 'healthcheck.path must begin with /: "up"'),
        ("path: /ü", 'healthcheck.path "/ü" is not a URL path: percent-encode'),
        ("path: '/a b'", "is not a URL path"),
        ("port: http", 'healthcheck.port must be a whole number from 1 to 65535, not "http"'),
        (
            "timeout: 5",
            "healthcheck.timeout must be a duration such as 5s, 1m30s or 500ms, not the number 5; write 5s for seconds",
        ),
        ("retries: 1.5", "healthcheck.retries must be a whole number from 1 to 1000, not the number 1.5"),
        ("command: [a]", "healthcheck.command is not a known key; known keys: interval"),
        ("prot: 1", 'healthcheck.prot is not a known key; did you mean "port"?'),
    ],
)
def test_health_check_may_not_have(problems: Problems, written: str, fact: str) -> None:
    assert fact in said(problems, HEALTH, written)


@pytest.mark.parametrize(
    "written",
    [
        "build: {context: ./app, dockerfile: docker/Dockerfile, platforms: [linux/arm64, linux/arm/v7]}",
        "build:",
        "tasks: {release: {service: web, command: [a]}, seed: {service: web, args: [b], env: {C: 1}}}",
        "tasks:",
        "environments:",
        "environments: {staging: , prod: {services: {web: }}}",
        "ingress:",
        "deploy: {max_parallel: 2, on_failure: halt, progress_deadline: 1h, reschedule_after: 5m}",
        "deploy: {max_parallel: 100%}",
        "deploy:",
        "registry: {repository: registry.example.com/team/shop, username: u, password_secret: P}",
        "registry: {repository: localhost:5000/shop}",
        "registry:",
        "registries:",
        "registries: {docker.io: {username: u, password_secret: P}, 'r:5000': {username: 7, password_secret: Q}}",
        "registries: {'[fd00::1]:5000': {username: u, password_secret: P}}",
    ],
)
def test_file_may_have(problems: Problems, written: str) -> None:
    fits(problems, TOP, written)


@pytest.mark.parametrize(
    ("written", "fact"),
    [
        ("build: {context: https://example.com/a.git}", 'build.context must be a folder, not the URL "https://'),
        ("build: {platforms: linux/amd64}", "build.platforms must be a list such as [linux/amd64], not text"),
        ("build: {platforms: [amd64]}", 'build.platforms[0] "amd64" is not a platform: write it as linux/amd64'),
        ("build: {dockerfile: }", "build.dockerfile has no value"),
        ("build: .", "build must be a map, not text"),
        ("build: {docker_file: x}", 'build.docker_file is not a known key; did you mean "dockerfile"?'),
        ("tasks: [release]", "tasks must be a map of tasks, not a list"),
        ("tasks: {release: {command: [a]}}", "tasks.release.service is required"),
        ("tasks: {release: {service: web}}", "tasks.release needs command or args"),
        (
            "tasks: {release: {service: wbe, command: [a]}}",
            'tasks.release.service "wbe" not found in services; did you',
        ),
        ("tasks: {release: {service: web, command: bin/migrate}}", "tasks.release.command must be a list such as"),
        ("tasks: {a b: {service: web, args: [a]}}", 'tasks."a b" "a b" is not a name'),
        (
            "deploy: {max_parallel: 0}",
            "deploy.max_parallel must be a number of nodes such as 2, or a percentage such as 25%",
        ),
        (
            "deploy: {max_parallel: 101%}",
            'must be a number of nodes such as 2, or a percentage such as 25%, not "101%"',
        ),
        ("deploy: {max_parallel: 0.5}", "must be a number of nodes such as 2"),
        ("deploy: {on_failure: abort}", 'deploy.on_failure must be rollback or halt, not "abort"'),
        ("deploy: {progress_deadline: 0s}", 'deploy.progress_deadline must be from 1s to 168h, not "0s"'),
        ("deploy: {reschedule_after: 500ms}", 'deploy.reschedule_after must be from 1s to 168h, not "500ms"'),
        ("deploy: {reschedule_after: 60}", "must be a duration such as 5s, 1m30s or 500ms, not the number 60"),
        ("registry: {}", "registry.repository is required"),
        (
            "registry: {repository: 'localhost/shop:1'}",
            "is not a repository: write it as registry.example.com/team/app",
        ),
        ("registry: {repository: a/b, username: u}", "registry.password_secret is required with username"),
        ("registries: [registry.example.com]", "registries must be a map of registries, not a list"),
        ("registries: {r.example.com: {username: u}}", 'registries."r.example.com".password_secret is required'),
        ("registries: {r.example.com: {password_secret: P}}", 'registries."r.example.com".username is required'),
        ("registries: {r.example.com: {username: '', password_secret: P}}", "username"),
        ("registries: {registry: {username: u, password_secret: P}}", '"registry" is not a registry: write it as'),
        ("registries: {r.example.com/team: {username: u, password_secret: P}}", "is not a registry"),
        ("registries: {'https://r.example.com': {username: u, password_secret: P}}", "is not a registry"),
        ("registries: {index.docker.io: {username: u, password_secret: P}}", "is Docker Hub: write it as docker.io"),
        ("registry: {repository: a/b, password_secret: P}", "registry.username is required with password_secret"),
        ("environments: [staging]", "environments must be a map of environments, not a list"),
        ("environments: {staging: production}", "environments.staging must be a map, not text"),
        ("environments: {a b: }", 'environments."a b" "a b" is not a name'),
        (
            "environments: {" + ", ".join(f"e{n}: " for n in range(101)) + "}",
            "environments has 101 entries; at most 100",
        ),
        ("service: {}", 'service is not a known key; did you mean "services"?'),
        ("version: 3", 'version is not a known key; did you mean "schema_version"?'),
        ("x-anything: 3", "x-anything is not a known key; known keys: schema_version, organization"),
    ],
)
def test_file_may_not_have(problems: Problems, written: str, fact: str) -> None:
    assert fact in said(problems, TOP, written)


@pytest.mark.parametrize(
    "written",
    [
        "redirect_http: false",
        "tls: {mode: off}",
        'tls: {mode: "manual"}',
        "tls: {mode: auto, email: ops@example.com, ca_directory_url: https://ca.example.com/directory}",
        "tls: ",
        "tls: {}",
    ],
)
def test_ingress_may_have(problems: Problems, written: str) -> None:
    fits(problems, INGRESS, written)


@pytest.mark.parametrize(
    ("written", "fact"),
    [
        ("redirect_http: ", "ingress.redirect_http must be true or false, not nothing"),
        ("redirect_http: 1", "ingress.redirect_http must be true or false, not the number 1"),
        ("redirect_http: yes", 'ingress.redirect_http must be true or false, not "yes"'),
        ("tls: {mode: on}", 'ingress.tls.mode must be auto, off or manual, not "on"'),
        ("tls: {mode: false}", "ingress.tls.mode must be auto, off or manual, not false"),
        (
            "tls: {mode: off}, redirect_http: true",
            "ingress.redirect_http must not be true while ingress.tls.mode is off: nothing serves HTTPS",
        ),
        ("tls: {email: ops}", 'ingress.tls.email "ops" is not an e-mail address'),
        ("tls: {ca_directory_url: ca.example.com}", "is not a URL that begins with https://"),
        ("tls: auto", "ingress.tls must be a map, not text"),
    ],
)
def test_ingress_may_not_have(problems: Problems, written: str, fact: str) -> None:
    assert fact in said(problems, INGRESS, written)


@pytest.mark.parametrize("host", ["a.example.com", "A.Example.COM", "localhost", "10.0.0.1", "203.0.113.10.sslip.io"])
def test_host_may_be(problems: Problems, host: str) -> None:
    text = INGRESS.replace("HERE", "redirect_http: false").replace("a.example.com", host)
    assert problems(text) == []


@pytest.mark.parametrize(
    ("host", "fact"),
    [
        ("https://a.example.com", "is a URL: write only the host, without scheme and path"),
        ("a.example.com/x", "is a URL: write only the host"),
        ("a.example.com:8080", 'must not contain a port: write "a.example.com"'),
        ("'[::1]'", "is an IPv6 address"),
        ("'2001:db8::1'", "is an IPv6 address"),
        ("'*.example.com'", "is a wildcard, which is not supported"),
        ("a_b.com", "must not contain an underscore"),
        ("a.example.com.", 'must not end with a dot: write "a.example.com"'),
        ("BÜCHER.example.com", 'is not a DNS name: write "xn--bcher-kva.example.com"'),
        ("'a\u3002..b'", "is not a DNS name"),
        ("-a.com", "is not a host name such as app.example.com"),
        ("a..b", "is not a host name such as app.example.com"),
        ("a" * 64, "is not a host name such as app.example.com"),
        (".".join(["a" * 60] * 5), "is not a host name such as app.example.com"),
    ],
)
def test_host_may_not_be(problems: Problems, host: str, fact: str) -> None:
    text = INGRESS.replace("HERE", "redirect_http: false").replace("host: a.example.com", f"host: {host}")
    messages = problems(text.replace("hosts: [a.example.com]", f"hosts: [{host}]"))
    assert [message.split(" ")[0] for message in messages] == ["ingress.hosts[0]", "ingress.rules[0].match.host"]
    assert fact in messages[0]


@pytest.mark.parametrize("count", [200, 500])
def test_ingress_may_have_many_hosts(problems: Problems, count: int) -> None:
    assert problems(_with_hosts(count)) == []


def test_ingress_may_have_500_hosts_and_no_more(problems: Problems) -> None:
    assert problems(_with_hosts(501)) == ["ingress.hosts has 501 entries; at most 500 are accepted"]


def _with_hosts(count: int) -> str:
    hosts = [f"h{n}.example.com" for n in range(count)]
    rules = [{"match": {"host": host}, "target": {"service": "web", "port": "http"}} for host in hosts]
    return HEAD + WEB + "ingress: " + json.dumps({"hosts": hosts, "rules": rules})


PREFIX = INGRESS.replace("HERE", "redirect_http: false").replace(
    "match: {host: a.example.com}", "match: {host: a.example.com, path_prefix: PREFIX}"
)


@pytest.mark.parametrize("prefix", ["/", "/api", "/api/", "/api/v1.2", "/a%20b", "/.well-known", "/a..b", "/~ann"])
def test_path_prefix_may_be(problems: Problems, prefix: str) -> None:
    assert problems(PREFIX.replace("PREFIX", prefix)) == []


@pytest.mark.parametrize(
    ("prefix", "fact"),
    [
        ("api", 'must begin with /: "api"'),
        ("'/a?b'", "must be a path without a query"),
        ("'/a#b'", "is not a URL path"),
        ("'/a b'", "is not a URL path"),
        ("/ä", "is not a URL path"),
        ("/a/../b", "contains . or .. segments"),
        ("/a/%2E%2e/b", "contains . or .. segments"),
        ("/./a", "contains . or .. segments"),
        ("/a//b", "contains //: write a single /"),
        ("/a%2Fb", "contains %2F, %5C or \\: routes cannot"),
        ("/a%5cb", "contains %2F, %5C or \\: routes cannot"),
        ("'/a\\b'", "contains %2F, %5C or \\: routes cannot"),
    ],
)
def test_path_prefix_may_not_be(problems: Problems, prefix: str, fact: str) -> None:
    (message,) = problems(PREFIX.replace("PREFIX", prefix))
    assert message.startswith("ingress.rules[0].match.path_prefix ")
    assert fact in message


@pytest.mark.parametrize("written", ["0s", "30s", "1h"])
def test_drain_timeout_may_be(problems: Problems, written: str) -> None:
    assert problems(INGRESS.replace("HERE", f"drain_timeout: {written}")) == []


@pytest.mark.parametrize("text", ["a", "- a", "~", "3", "true"])
def test_file_that_is_not_a_map_is_rejected(problems: Problems, text: str) -> None:
    (message,) = problems(text)
    assert message.startswith("the file must be a map of keys such as schema_version, not ")


def test_empty_map_lacks_required_keys(problems: Problems) -> None:
    assert problems("{}") == [
        "schema_version is required",
        "organization is required",
        "project is required",
        "services is required",
    ]


@pytest.mark.parametrize("services", ["services:", "services: {}"])
def test_at_least_one_service_is_needed(problems: Problems, services: str) -> None:
    assert problems(HEAD + services) == ["services needs at least one service"]


def test_file_may_have_200_services_and_no_more(problems: Problems) -> None:
    assert problems(HEAD + "services: " + json.dumps({f"s{n}": None for n in range(200)})) == []
    assert problems(HEAD + "services: " + json.dumps({f"s{n}": None for n in range(201)})) == [
        "services has 201 entries; at most 200 are accepted"
    ]
