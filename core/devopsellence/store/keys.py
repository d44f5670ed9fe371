"""Building and parsing of all etcd keys.

All keys have one prefix (a setting, so that several installations can share an etcd). Every name is checked against
:data:`NAME` before becoming part of a key. Prefixes to read or watch end with ``/``, because ``nodes/n1`` would match
``nodes/n10`` as well.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from devopsellence.names import NAME, NAME_RULE, InvalidName, check_host, check_name

__all__ = [
    "DEFAULT_PREFIX",
    "NAME",
    "NAME_RULE",
    "PEERS",
    "REGISTRY",
    "EnvironmentRef",
    "InvalidName",
    "Keys",
    "check_name",
]

DEFAULT_PREFIX: Final = "/devopsellence/v1/"
#: In place of a service, for the registry password; not a valid service name.
REGISTRY: Final = "_registry"
#: Part of a node's ingress that lists peers instead of a host; not a valid host name.
PEERS: Final = "+peers"
_RELEASE_DIGITS: Final = 10


@dataclass(frozen=True, order=True)
class EnvironmentRef:
    """Reference to an environment: organization, project and environment, all valid names."""

    organization: str
    project: str
    environment: str

    def __post_init__(self) -> None:
        check_name("organization", self.organization)
        check_name("project", self.project)
        check_name("environment", self.environment)

    def __str__(self) -> str:
        return f"{self.organization}/{self.project}/{self.environment}"

    @classmethod
    def parse(cls, path: str) -> EnvironmentRef:
        """Parse ``organization/project/environment``; ValueError if malformed."""
        parts = path.split("/")
        if len(parts) != 3:
            raise ValueError(f"{path!r} is not organization/project/environment")
        return cls(*parts)


@dataclass(frozen=True)
class Keys:
    """Builder and parser of the keys under one prefix.

    Results of ``*_prefix`` end with ``/``. ``parse_*`` methods take a full key and raise ValueError for a key of
    another kind.
    """

    prefix: str = DEFAULT_PREFIX

    def __post_init__(self) -> None:
        if not (self.prefix.startswith("/") and self.prefix.endswith("/")):
            raise ValueError(f"the key prefix {self.prefix!r} must begin and end with '/'")

    @property
    def nodes_prefix(self) -> str:
        return f"{self.prefix}nodes/"

    def node(self, node: str) -> str:
        return self.nodes_prefix + check_name("node", node)

    @property
    def heartbeats_prefix(self) -> str:
        return f"{self.prefix}heartbeats/"

    def heartbeat(self, node: str) -> str:
        return self.heartbeats_prefix + check_name("node", node)

    @property
    def environments_prefix(self) -> str:
        return f"{self.prefix}environments/"

    def environment(self, env: EnvironmentRef) -> str:
        return f"{self.environments_prefix}{env}"

    @property
    def all_releases_prefix(self) -> str:
        return f"{self.prefix}releases/"

    def releases_prefix(self, env: EnvironmentRef) -> str:
        return f"{self.all_releases_prefix}{env}/"

    def release(self, env: EnvironmentRef, number: int) -> str:
        if not 0 < number < 10**_RELEASE_DIGITS:
            raise ValueError(f"{number} is not a release number")
        return f"{self.releases_prefix(env)}{number:0{_RELEASE_DIGITS}d}"

    @property
    def rollouts_prefix(self) -> str:
        return f"{self.prefix}rollouts/"

    def rollout(self, env: EnvironmentRef) -> str:
        return f"{self.rollouts_prefix}{env}"

    @property
    def all_assignments_prefix(self) -> str:
        return f"{self.prefix}assignments/"

    def assignments_prefix(self, node: str) -> str:
        return f"{self.all_assignments_prefix}{check_name('node', node)}/"

    def assignment(self, node: str, env: EnvironmentRef) -> str:
        return f"{self.assignments_prefix(node)}{env}"

    @property
    def all_statuses_prefix(self) -> str:
        return f"{self.prefix}status/"

    def statuses_prefix(self, node: str) -> str:
        return f"{self.all_statuses_prefix}{check_name('node', node)}/"

    def status(self, node: str, env: EnvironmentRef) -> str:
        return f"{self.statuses_prefix(node)}{env}"

    @property
    def operators_prefix(self) -> str:
        return f"{self.prefix}operators/"

    def operator(self, name: str) -> str:
        return self.operators_prefix + check_name("operator", name)

    @property
    def all_secrets_prefix(self) -> str:
        return f"{self.prefix}secrets/"

    def secrets_prefix(self, env: EnvironmentRef) -> str:
        return f"{self.all_secrets_prefix}{env}/"

    def secret(self, env: EnvironmentRef, service: str, name: str) -> str:
        """Return the key of a secret; ``service`` is a service name or :data:`REGISTRY`."""
        return f"{self.secrets_prefix(env)}{_secret_scope(service)}/{check_name('secret', name)}"

    @property
    def all_certificates_prefix(self) -> str:
        return f"{self.prefix}certificates/"

    def certificates_prefix(self, env: EnvironmentRef) -> str:
        return f"{self.all_certificates_prefix}{env}/"

    def certificate(self, env: EnvironmentRef, host: str) -> str:
        return self.certificates_prefix(env) + check_host(host)

    @property
    def all_ingress_prefix(self) -> str:
        return f"{self.prefix}ingress/"

    def ingress_prefix(self, node: str) -> str:
        return f"{self.all_ingress_prefix}{check_name('node', node)}/"

    def ingress(self, node: str, env: EnvironmentRef, part: str) -> str:
        """Return the key of a part of a node's ingress; ``part`` is a host or :data:`PEERS`."""
        return f"{self.ingress_prefix(node)}{env}/{_ingress_part(part)}"

    @property
    def hosts_prefix(self) -> str:
        return f"{self.prefix}hosts/"

    def host_claim(self, node: str, host: str) -> str:
        return f"{self.hosts_prefix}{check_name('node', node)}/{check_host(host)}"

    @property
    def all_events_prefix(self) -> str:
        return f"{self.prefix}events/"

    def events_prefix(self, env: EnvironmentRef) -> str:
        return f"{self.all_events_prefix}{env}/"

    def event(self, env: EnvironmentRef, event_id: str) -> str:
        return self.events_prefix(env) + check_name("event", event_id)

    @property
    def election_prefix(self) -> str:
        return f"{self.prefix}election/controller/"

    def candidate(self, lease_id: int) -> str:
        return f"{self.election_prefix}{lease_id:016x}"

    @property
    def all_operator_access_prefix(self) -> str:
        return f"{self.prefix}access/operators/"

    def operator_access(self, name: str) -> str:
        return self.all_operator_access_prefix + check_name("operator", name)

    @property
    def denied(self) -> str:
        return f"{self.prefix}access/denied"

    @property
    def gateways(self) -> str:
        return f"{self.prefix}access/gateways"

    @property
    def authorities(self) -> str:
        return f"{self.prefix}access/authorities"

    @property
    def issued_certificates_prefix(self) -> str:
        return f"{self.prefix}access/certificates/"

    def issued_certificate(self, serial: str) -> str:
        """Return the key of a certificate that a gateway has signed, by its serial number in hexadecimal digits."""
        return self.issued_certificates_prefix + check_name("serial number", serial)

    def parse_issued_certificate(self, key: str) -> str:
        """Return the serial number of an ``access/certificates/`` key."""
        return check_name("serial number", self._after(key, self.issued_certificates_prefix))

    def used_join_token(self, serial: str) -> str:
        """Return the key that marks a join token as used, by the serial number of its certificate."""
        return f"{self.prefix}access/joins/{check_name('serial number', serial)}"

    def parse_used_join_token(self, key: str) -> str:
        """Return the serial number of an ``access/joins/`` key."""
        return check_name("serial number", self._after(key, f"{self.prefix}access/joins/"))

    def parse_operator(self, key: str) -> str:
        """Return the name of an ``operators/`` key."""
        return check_name("operator", self._after(key, self.operators_prefix))

    def parse_operator_access(self, key: str) -> str:
        """Return the operator of an ``access/operators/`` key."""
        return check_name("operator", self._after(key, self.all_operator_access_prefix))

    def parse_node(self, key: str) -> str:
        """Return the node of a ``nodes/`` or ``heartbeats/`` key."""
        for prefix in (self.nodes_prefix, self.heartbeats_prefix):
            if key.startswith(prefix):
                return check_name("node", key.removeprefix(prefix))
        raise ValueError(f"{key!r} is not a key about a node")

    def parse_environment(self, key: str) -> EnvironmentRef:
        """Return the environment of an ``environments/`` or ``rollouts/`` key."""
        for prefix in (self.environments_prefix, self.rollouts_prefix):
            if key.startswith(prefix):
                return EnvironmentRef.parse(key.removeprefix(prefix))
        raise ValueError(f"{key!r} is not a key about an environment")

    def parse_release(self, key: str) -> tuple[EnvironmentRef, int]:
        """Return environment and number of a ``releases/`` key."""
        env, _, digits = self._after(key, self.all_releases_prefix).rpartition("/")
        if len(digits) != _RELEASE_DIGITS or not (digits.isascii() and digits.isdigit()) or int(digits) == 0:
            raise ValueError(f"{key!r} does not end with a release number of {_RELEASE_DIGITS} digits")
        return EnvironmentRef.parse(env), int(digits)

    def parse_assignment(self, key: str) -> tuple[str, EnvironmentRef]:
        """Return node and environment of an ``assignments/`` or ``status/`` key."""
        for prefix in (self.all_assignments_prefix, self.all_statuses_prefix):
            if key.startswith(prefix):
                node, _, env = key.removeprefix(prefix).partition("/")
                return check_name("node", node), EnvironmentRef.parse(env)
        raise ValueError(f"{key!r} is not a key about a node's assignment")

    def parse_secret(self, key: str) -> tuple[EnvironmentRef, str, str]:
        """Return environment, service and name of a ``secrets/`` key."""
        parts = self._after(key, self.all_secrets_prefix).split("/")
        if len(parts) != 5:
            raise ValueError(f"{key!r} is not a key about a secret")
        env = EnvironmentRef(*parts[:3])
        return env, _secret_scope(parts[3]), check_name("secret", parts[4])

    def parse_certificate(self, key: str) -> tuple[EnvironmentRef, str]:
        """Return environment and host of a ``certificates/`` key."""
        env, _, host = self._after(key, self.all_certificates_prefix).rpartition("/")
        return EnvironmentRef.parse(env), check_host(host)

    def parse_ingress(self, key: str) -> tuple[str, EnvironmentRef, str]:
        """Return node, environment and part of an ``ingress/`` key."""
        node, _, rest = self._after(key, self.all_ingress_prefix).partition("/")
        env, _, part = rest.rpartition("/")
        return check_name("node", node), EnvironmentRef.parse(env), _ingress_part(part)

    def parse_host_claim(self, key: str) -> tuple[str, str]:
        """Return node and host of a ``hosts/`` key."""
        node, _, host = self._after(key, self.hosts_prefix).partition("/")
        return check_name("node", node), check_host(host)

    def parse_event(self, key: str) -> tuple[EnvironmentRef, str]:
        """Return environment and id of an ``events/`` key."""
        env, _, event_id = self._after(key, self.all_events_prefix).rpartition("/")
        return EnvironmentRef.parse(env), check_name("event", event_id)

    @staticmethod
    def _after(key: str, prefix: str) -> str:
        if not key.startswith(prefix):
            raise ValueError(f"{key!r} is not under {prefix!r}")
        return key.removeprefix(prefix)


def _secret_scope(service: str) -> str:
    return service if service == REGISTRY else check_name("service", service)


def _ingress_part(part: str) -> str:
    return part if part == PEERS else check_host(part)
