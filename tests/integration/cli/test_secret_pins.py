"""Secrets in a deploy: references become versions, and nodes get access."""

from __future__ import annotations

import pytest

from devopsellence.age import AgeIdentity
from devopsellence.api.v1.stored_pb2 import Node, Registry, Release
from devopsellence.api.v1.workload_pb2 import Image, Service
from devopsellence.cli.output import CliError
from devopsellence.cli.secrets import pin, pin_versions, registry_password
from devopsellence.cli.store.reader import Reader
from devopsellence.store.etcd import Etcd
from devopsellence.store.keys import REGISTRY
from tests.integration.cli.secret_operator import Operator, service
from tests.support.cli import REF

VALUE = b"hunter2"


def registry() -> Registry:
    return Registry(repository="registry.example.com/shop", username="shop", password_secret="REGISTRY_PASSWORD")


def pinned(operator: Operator, services: list[Service], login: Registry | None = None, *names: str) -> list[str]:
    """Return the result of ``pin`` for the attached, registered nodes ``names``."""

    async def work(etcd: Etcd) -> list[str]:
        nodes = await Reader(etcd).get_many({name: etcd.keys.node(name) for name in names}, Node)
        draft = Release(services=services, registry=login)
        try:
            return await pin(etcd, REF, draft, nodes=list(nodes.values()))
        finally:
            for service, pinned in zip(services, draft.services, strict=True):
                service.CopyFrom(pinned)
            if login is not None:
                login.CopyFrom(draft.registry)

    with operator.being():
        return operator.etcd(work)


def test_secret_reference_means_current_version_by_default(ann: Operator) -> None:
    for value in (b"one", b"two"):
        ann.set("DATABASE_URL", value)
    ann.set("TOKEN", VALUE, service="worker")
    ann.set("REGISTRY_PASSWORD", VALUE, service=REGISTRY)
    services = [service("web", DATABASE_URL=0), service("worker", TOKEN=0)]
    login = registry()
    assert pinned(ann, services, login) == []
    assert [ref.version for each in services for ref in each.secret_refs] == [2, 1]
    assert login.password_version == 1
    # As a release that is repeated has them.
    again = [service("web", DATABASE_URL=1), service("worker", TOKEN=1)]
    assert pinned(ann, again) == []
    assert [ref.version for each in again for ref in each.secret_refs] == [1, 1]


def test_version_no_longer_stored_is_refused_instead_of_replaced(ann: Operator) -> None:
    ann.set("TOKEN", VALUE, service="worker")
    ann.set("REGISTRY_PASSWORD", VALUE, service=REGISTRY)
    before, login = ann.dump(), registry()
    login.password_version = 5
    with pytest.raises(CliError, match="TOKEN of worker \\(version 7\\)") as caught:
        pinned(ann, [service("worker", TOKEN=7)])
    assert caught.value.code == "secret_version_gone"
    with pytest.raises(CliError, match="REGISTRY_PASSWORD of the registry \\(version 5\\)"):
        ann.etcd(lambda etcd: registry_password(etcd, REF, login))
    assert ann.dump() == before


def test_missing_secrets_are_named_together_with_commands(ann: Operator) -> None:
    ann.set("TOKEN", VALUE, service="worker")
    # A secret of the same name of another service is another secret.
    services = [service("web", DATABASE_URL=0, TOKEN=0), service("worker", TOKEN=0)]
    with pytest.raises(CliError) as caught:
        pinned(ann, services, registry())
    assert caught.value.code == "missing_secret"
    assert caught.value.message == (
        "missing secrets: REGISTRY_PASSWORD, DATABASE_URL, TOKEN "
        "(run devopsellence secret set <name> --service <service> --stdin)"
    )
    commands = [finding.next_actions[0].command for finding in caught.value.findings]
    assert commands == [
        "devopsellence secret set REGISTRY_PASSWORD --registry --env production --stdin",
        "devopsellence secret set DATABASE_URL --service web --env production --stdin",
        "devopsellence secret set TOKEN --service web --env production --stdin",
    ]
    assert [ref.version for each in services for ref in each.secret_refs] == [0, 0, 0]


def test_deploy_grants_secret_to_nodes_of_service_only(ann: Operator) -> None:
    ann.set("DATABASE_URL", VALUE)
    ann.set("TOKEN", VALUE, service="worker")
    n1 = ann.node("n1", labels="web")
    ann.ok("node", "register", "n2", "--labels", "web")
    ann.ok("node", "register", "n3", "--labels", "worker")
    services = [service("web", DATABASE_URL=0)]
    # n3 runs no user of a secret, so nobody misses its key.
    assert pinned(ann, services, None, "n1", "n2", "n3") == ["n2"]
    secret = ann.stored("DATABASE_URL")
    assert secret is not None
    assert n1.decrypt(secret.versions[-1].age) == VALUE
    assert ann.versions("DATABASE_URL") == [1]
    node = ann.read(lambda etcd: etcd.keys.node("n1"), Node)
    assert node is not None
    assert node.age_recipient == n1.recipient


def test_deploy_grants_secret_to_cordoned_node(ann: Operator) -> None:
    n1 = ann.node("n1")
    node = Node(name="n1", uid=ann.uid("n1"), labels=["web"], cordoned=True)
    ann.write(lambda etcd: etcd.keys.node("n1"), node)
    ann.set("DATABASE_URL", VALUE)
    pinned(ann, [service("web", DATABASE_URL=0)], None, "n1")
    secret = ann.stored("DATABASE_URL")
    assert secret is not None
    assert n1.decrypt(secret.versions[-1].age) == VALUE


def test_registry_password_is_granted_to_nodes_pulling_app_image(ann: Operator) -> None:
    ann.set("REGISTRY_PASSWORD", VALUE, service=REGISTRY)
    keys = {name: ann.node(name, labels=label) for name, label in (("n1", "web"), ("n2", "worker"))}
    web, cache = service("web"), service("cache")
    cache.image.app = False
    # As before a build.
    web.image.CopyFrom(Image(app=True))
    before = ann.stored("REGISTRY_PASSWORD", REGISTRY)
    pinned(ann, [cache], registry(), "n1", "n2")
    assert ann.stored("REGISTRY_PASSWORD", REGISTRY) == before
    pinned(ann, [cache, web], registry(), "n1", "n2")
    secret = ann.stored("REGISTRY_PASSWORD", REGISTRY)
    assert secret is not None
    assert keys["n1"].decrypt(secret.versions[-1].age) == VALUE


def test_deploy_grants_secret_to_machine_set_up_again(ann: Operator) -> None:
    ann.node("n1")
    ann.ok("node", "attach", "n1")
    ann.set("DATABASE_URL", VALUE)
    anew = AgeIdentity.generate()
    ann.beat("n1", ann.uid("n1"), anew.recipient)
    pinned(ann, [service("web", DATABASE_URL=0)], None, "n1")
    secret = ann.stored("DATABASE_URL")
    assert secret is not None
    assert anew.decrypt(secret.versions[-1].age) == VALUE


def test_deploy_without_decryption_needs_no_identity(ann: Operator, bob: Operator) -> None:
    n1 = ann.node("n1")
    ann.ok("node", "attach", "n1")
    ann.set("DATABASE_URL", VALUE)
    assert pinned(bob, [service("web", DATABASE_URL=0)], None, "n1") == []
    assert not bob.path.exists()
    # An older version that nobody refers to does not matter either.
    assert pinned(bob, [], None, "n1") == []
    # But a node that has come since takes somebody who can open it.
    ann.beat("n1", ann.uid("n1"), AgeIdentity.generate().recipient)
    with pytest.raises(CliError) as caught:
        pinned(bob, [service("web", DATABASE_URL=0)], None, "n1")
    assert caught.value.code == "secret_sealed"
    secret = ann.stored("DATABASE_URL")
    assert secret is not None
    assert n1.decrypt(secret.versions[-1].age) == VALUE


def test_pinning_versions_writes_nothing(ann: Operator) -> None:
    ann.set("DATABASE_URL", VALUE)
    ann.node("n1")
    before = ann.dump()
    draft = Release(services=[service("web", DATABASE_URL=0)])
    ann.etcd(lambda etcd: pin_versions(etcd, REF, draft))
    assert draft.services[0].secret_refs[0].version == 1
    assert ann.dump() == before


def test_service_too_large_to_start_is_refused_and_nothing_written(ann: Operator) -> None:
    ann.set("KEY", b"x" * 65536)
    ann.node("n1")
    before = ann.dump()
    large = service("web", KEY=0)
    for index in range(31):
        large.secret_refs.add(name=f"KEY_{index}", secret="KEY")
    with pytest.raises(CliError, match='service "web" cannot start') as caught:
        pinned(ann, [large], None, "n1")
    assert (caught.value.code, caught.value.exit_code) == ("start_too_large", 2)
    assert ann.dump() == before


def test_registry_password_has_requested_version(ann: Operator, bob: Operator) -> None:
    def password(operator: Operator, login: Registry) -> str:
        with operator.being():
            return operator.etcd(lambda etcd: registry_password(etcd, REF, login))

    with pytest.raises(CliError, match="missing secrets: REGISTRY_PASSWORD"):
        password(ann, registry())
    ann.set("REGISTRY_PASSWORD", b"one", service=REGISTRY)
    ann.set("REGISTRY_PASSWORD", b"two", service=REGISTRY)
    assert password(ann, registry()) == "two"
    login = registry()
    login.password_version = 1
    assert password(ann, login) == "one"
    with pytest.raises(CliError) as caught:
        password(bob, login)
    assert caught.value.code == "secret_sealed"
