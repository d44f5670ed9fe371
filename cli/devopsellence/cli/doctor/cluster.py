"""Checks of records in etcd: leader election, heartbeats of nodes, ingress."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from devopsellence.cli.output import CheckResult, NextAction
from devopsellence.store.errors import StoreError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from datetime import datetime

    from devopsellence.api.v1.stored_pb2 import Candidate, Heartbeat
    from devopsellence.cli.cluster.certificates import KnownCertificate
    from devopsellence.store.etcd import Etcd

# Networks left from which on a warning is due.
FEW_NETWORKS: Final = 3
_RENEW_AUTHORITY: Final = NextAction(
    "renew it, on the machine with the cluster's CA, then copy the folders to their machines",
    "devopsellence cluster init",
)
_SHOW_RENEWAL: Final = NextAction(
    "see why, on that machine", "journalctl -u devopsellence-agent | grep 'certificate not renewed'"
)


async def controller(etcd: Etcd) -> list[CheckResult]:
    """Check for a leading controller, and the certificates of all controllers."""
    from datetime import UTC, datetime

    candidates = sorted((await etcd.list(etcd.keys.election_prefix)).items, key=lambda item: item.create_revision)
    if not candidates:
        actions = (
            NextAction("start a local cluster", "devopsellence dev up"),
            NextAction("or start the controller on a server", "devopsellence-controller"),
        )
        return [
            CheckResult(
                "controller",
                "error",
                "no controller is running, so releases are not rolled out",
                "no_controller",
                actions,
            )
        ]
    found = [_candidate(item.key, item.value) for item in candidates]
    standby = f", {len(found) - 1} on standby" if len(found) > 1 else ""
    leads = CheckResult("controller", "ok", f"{found[0].identity} is the leader{standby}")
    return [leads, *controller_certificates(found, datetime.now(UTC))]


def _candidate(key: str, value: bytes) -> Candidate:
    """Return the record of a controller; only with the key as identity if the record cannot be read."""
    from devopsellence.api.v1.stored_pb2 import Candidate
    from devopsellence.store.codec import decode

    try:
        return decode(Candidate, key, value)
    except StoreError:
        return Candidate(identity=key)


def controller_certificates(candidates: Iterable[Candidate], now: datetime) -> list[CheckResult]:
    """Return the results for certificates of controllers that end soon, as the controllers report them. Pure."""
    from datetime import UTC

    from devopsellence.cli.doctor.machine import validity
    from devopsellence.cli.untrusted import safe

    fix = NextAction(
        "renew, on the machine with the cluster's CA, then copy the folder to the controller",
        "devopsellence cluster init",
    )
    results = [
        validity(
            f"certificate of controller {safe(candidate.identity)}",
            f"the certificate of {safe(candidate.identity)}",
            candidate.certificate_expires_at.ToDatetime(UTC) - now,
            fix,
        )
        for candidate in candidates
        if candidate.HasField("certificate_expires_at")
    ]
    return [result for result in results if result.code]


async def certificates(etcd: Etcd) -> list[CheckResult]:
    """Check the certificates that agents use, and the authority that signs them; those in order give no result."""
    from datetime import UTC, datetime

    from devopsellence.cli.cluster.certificates import known_certificates, read_facts
    from devopsellence.cli.cluster.folder import ClusterFolder

    facts, _ = await read_facts(etcd, ClusterFolder.chosen(None))
    return certificate_problems(known_certificates(facts, datetime.now(UTC)))


def certificate_problems(known: Sequence[KnownCertificate]) -> list[CheckResult]:
    """Return the results for certificates of agents that were not renewed, and for a due issuing authority. Pure."""
    from devopsellence.certificates.life import CertificateState
    from devopsellence.cli.cluster.certificates import ISSUING
    from devopsellence.cli.untrusted import safe

    overdue = (CertificateState.EXPIRES_SOON, CertificateState.EXPIRED)
    results = {}
    for certificate in known:
        if certificate.identity == ISSUING and certificate.state in (*overdue, CertificateState.RENEWAL_DUE):
            subject, fix = f"the {ISSUING}", _RENEW_AUTHORITY
        elif certificate.is_of_agent and certificate.state in overdue:
            subject, fix = f"the certificate of {safe(certificate.used_by)}", _SHOW_RENEWAL
        else:
            continue
        expired = certificate.state is CertificateState.EXPIRED
        end = f"{certificate.expires:%Y-%m-%d}"
        message = f"{subject} has expired on {end}" if expired else f"{subject} was not renewed; it expires on {end}"
        severity, code = ("error", "certificate_expired") if expired else ("warning", "certificate_expires")
        results[subject] = CheckResult(subject.removeprefix("the "), severity, message, code, (fix,))
    return list(results.values())


async def nodes(etcd: Etcd) -> list[CheckResult]:
    """Check the record and heartbeat of each node."""
    from devopsellence.cli.nodes.registry import overview

    nodes, problems = await overview(etcd)
    results = [
        CheckResult(f"node {node.name}", "error" if node.note else "ok", node.note or _healthy_text(node), *_fix(node))
        for node in nodes
    ]
    results += [result for node in nodes if (result := few_networks(node.name, node.heartbeat)) is not None]
    for problem in problems:
        action = NextAction("show the record", f"etcdctl get {problem.key}")
        results.append(CheckResult(problem.key, "error", problem.reason, "record_unreadable", (action,)))
    if not results:
        action = NextAction("register a node", "devopsellence node register <name>")
        return [CheckResult("nodes", "warning", "no node is registered", "no_node", (action,))]
    return results


async def ingress(etcd: Etcd) -> list[CheckResult]:
    """Check the ingress of each environment from the records in etcd; ``ingress check`` checks from outside."""
    from datetime import UTC, datetime

    from devopsellence.cli.ingress.cluster_summary import ingress_summaries
    from devopsellence.cli.util.text import plural

    results = []
    for ingress in await ingress_summaries(etcd, datetime.now(UTC)):
        name = f"ingress {ingress.environment}"
        action = NextAction("check from outside", f"devopsellence ingress check --env {ingress.environment}")
        results += [
            CheckResult(name, problem.severity, problem.text, problem.code, (action,)) for problem in ingress.problems
        ]
        if not ingress.problems:
            results.append(
                CheckResult(name, "ok", f"{plural(ingress.hosts, 'host')} on {plural(len(ingress.nodes), 'node')}")
            )
    return results


def few_networks(name: str, heartbeat: Heartbeat | None) -> CheckResult | None:
    """Return a warning if a node has room for a few more environments only; each takes a network. Pure."""
    from devopsellence.cli.util.text import plural

    if heartbeat is None or not heartbeat.HasField("networks_left") or heartbeat.networks_left > FEW_NETWORKS:
        return None
    left = heartbeat.networks_left
    message = f"Docker has addresses for {plural(left, 'more network') if left else 'no more networks'}"
    more = "give Docker more addresses (default-address-pools in /etc/docker/daemon.json)"
    action = NextAction(f"on {name}, {more} or remove networks that nobody uses", "docker network prune")
    return CheckResult(f"networks of node {name}", "warning", message, "networks_few", (action,))


def _healthy_text(node: Any) -> str:
    labels = ",".join(node.node.labels) or "none"
    return f"agent {node.heartbeat.agent_version}, docker {node.heartbeat.docker_version}, labels {labels}"


def _fix(node: Any) -> tuple[str, tuple[NextAction, ...]]:
    """Return the error code and the next step for a node with a problem."""
    if not node.note:
        return "", ()
    if node.heartbeat is None:
        return "node_unreachable", (NextAction("on that machine", "systemctl status devopsellence-agent"),)
    if node.heartbeat.others:
        return "agent_twice", (NextAction("on those machines", "systemctl stop devopsellence-agent"),)
    if not node.heartbeat.problem and node.heartbeat.folder_problem:
        return "node_unwell", (NextAction("on that machine", "df -h; mount"),)
    return "node_unwell", (NextAction("on that machine", "docker version"),)
