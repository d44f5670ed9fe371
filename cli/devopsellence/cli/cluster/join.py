"""What a node's machine needs to take part: its certificate, made where the cluster's authority is at hand."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from devopsellence.api.v1.stored_pb2 import Node
from devopsellence.cli.certificates import subjects
from devopsellence.cli.certificates.pki import CertificateAuthority, load_certificate
from devopsellence.cli.cluster import issue as issuing
from devopsellence.cli.cluster import programs
from devopsellence.cli.cluster.folder import ClusterFolder
from devopsellence.cli.output import CliError, NextAction
from devopsellence.cli.util.files import write_atomic
from devopsellence.store.settings import Settings


@dataclass(frozen=True)
class JoinInstructions:
    """How an agent is started, and what comes ``first``; ``bundle`` is the folder for its machine, if we made one."""

    command: str
    first: str
    bundle: Path | None = None

    def text(self, node: Node) -> str:
        """What is to be done next, in order."""
        return f"{self.first}\n  {self.command}\nThen here: devopsellence node attach {node.name}"


def join(folder: ClusterFolder, settings: Settings, node: Node, *, asked: bool) -> JoinInstructions:
    """How the agent of ``node`` joins the cluster that ``settings`` lead to, with its certificate if we can make it.

    ``asked``: a person named the folder, so that it must be the cluster's.

    Raises:
        CliError: ``authority_missing``, ``authority_unusable``, ``authority_other``.
    """
    if settings.cert is None:
        # Without certificates nobody can tell who calls an agent, so that it has no API.
        command = programs.bare_agent_command(node, ",".join(settings.endpoints), settings.prefix)
        return JoinInstructions(command, "Next, on that machine:")
    authority = _authority(folder, settings, asked=asked)
    members = folder.members() if authority else {}
    variables = programs.client_variables(
        programs.endpoints(members) or ",".join(settings.endpoints), settings.prefix, programs.AGENT_HOME
    )
    command = programs.agent_command(node, variables)
    if authority is None:
        made = f"devopsellence cluster issue node {node.name} --uid {node.uid}"
        first = (
            f"Next, where the cluster's authority is: {made}\nThen, with that in {programs.AGENT_HOME} on that machine:"
        )
        return JoinInstructions(command, first)
    bundle = folder.node(node.name)
    with folder.locked():
        issuing.issue(authority, bundle, subjects.node(node.name, node.uid), issuing.now())
        text = programs.settings_file(programs.agent_variables(node, variables))
        write_atomic(bundle.settings_file("agent"), text, mode=0o644)
    first = (
        f"Next, copy {bundle.root} to {programs.AGENT_HOME} on that machine (agent.env is for the systemd unit),\n"
        "and start there:"
    )
    return JoinInstructions(command, first, bundle.root)


def _authority(folder: ClusterFolder, settings: Settings, *, asked: bool) -> CertificateAuthority | None:
    """The authority in ``folder`` if it is the one of the cluster that ``settings`` lead to."""
    if not asked and not folder.authority_key.exists():
        return None
    authority = issuing.load(folder)
    if settings.ca_cert is not None and load_certificate(settings.ca_cert) == authority.certificate:
        return authority
    if not asked:
        return None
    action = NextAction("see which that is", f"openssl x509 -noout -text -in {settings.ca_cert}")
    message = f"the authority in {folder.root} is not the one of this cluster"
    raise CliError("authority_other", message, next_actions=[action])
