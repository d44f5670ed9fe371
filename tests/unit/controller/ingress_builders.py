"""An environment with an ingress, its certificates, and agents that say where their routers answer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from devopsellence.api.v1 import stored_pb2 as pb
from devopsellence.api.v1 import workload_pb2
from devopsellence.store.keys import PEERS
from tests.unit.controller.builders import KEYS, REF, Store, service

WEB = service("web")
HOST = "app.example.com"


def ingress(*hosts: str, to: Sequence[str] = ("web",), **fields: Any) -> workload_pb2.Ingress:
    """Each of ``hosts`` leads to each of the services ``to``."""
    made = workload_pb2.Ingress(hosts=hosts, tls_mode=workload_pb2.Ingress.AUTO)
    for host in hosts:
        for name in to:
            made.rules.add(host=host, path_prefix=f"/{name}", service=name, port="http")
    made.MergeFrom(workload_pb2.Ingress(**fields))
    return made


def certificate(host: str = HOST, serial: str = "", **issuance: Any) -> pb.Certificate:
    """With ``serial`` empty there is none yet; ``issuance``: how one comes about."""
    certificate = pb.Certificate(
        organization=REF.organization, project=REF.project, environment=REF.environment, host=host
    )
    if serial:
        certificate.source = pb.Certificate.ACME
        certificate.serial, certificate.chain_pem, certificate.key_age = serial, f"chain {serial}", f"key {serial}"
    if issuance:
        certificate.issuance.CopyFrom(pb.Issuance(**issuance))
    return certificate


def put_certificate(store: Store, host: str = HOST, serial: str = "", **issuance: Any) -> None:
    store.put(KEYS.certificate(REF, host), certificate(host, serial, **issuance))


def beat(store: Store, name: str, *, address: str = "", uid: str = "") -> None:
    """``name``'s agent is there; its router answers at ``address``."""
    store.put(KEYS.heartbeat(name), pb.Heartbeat(node=name, uid=uid or f"uid-{name}", router_address=address))


def serving_store(*names: str, hosts: Sequence[str] = (HOST,)) -> Store:
    """``names`` (web) have settled at release 1, which routes ``hosts`` to web."""
    store = Store()
    for name in names:
        store.add_node(name, "web")
        beat(store, name, address=f"{name}.internal:7444")
    store.set_environment(*names)
    store.deploy(1, WEB, ingress=ingress(*hosts))
    settle(store)
    return store


def settle(store: Store) -> None:
    """Until every agent has reported, and there is nothing left to do."""
    store.converge()
    for name in [view.name for view in store.snapshot().nodes]:
        assignment = store.assignment(name)
        if assignment is not None and KEYS.heartbeat(name) in store.records:
            store.report(name)
    store.converge()


def parts(store: Store, name: str) -> dict[str, pb.NodeIngress]:
    """Return the ingress parts of ``name`` by name of the part, without one that is about claims only."""
    found = {part: record.message for part, record in store.parts(name).items()}
    assert all(found.values())
    return {
        part: message
        for part, message in found.items()
        if message is not None and (part != PEERS or message.peers or message.forwarders)
    }


def serial(store: Store, name: str, host: str = HOST) -> str:
    """Of the certificate that ``name`` was given for ``host``; "" without one."""
    found = parts(store, name).get(host)
    return found.certificate.serial if found is not None else ""


def peers(store: Store, name: str) -> dict[str, str]:
    """Return the peers of ``name`` with their addresses."""
    found = parts(store, name).get("+peers")
    return {peer.node: peer.address for peer in found.peers} if found is not None else {}
