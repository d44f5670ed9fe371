"""Certificate and start command of a new node's agent."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from devopsellence.api.v1.stored_pb2 import Node
from devopsellence.atomic_file import write_atomic
from devopsellence.certificates import subjects
from devopsellence.certificates.authority import CertificateAuthority, load_certificates
from devopsellence.cli.cluster import authority as authorities
from devopsellence.cli.cluster import issue, programs
from devopsellence.cli.cluster.folder import ClusterFolder
from devopsellence.cli.output import CliError, NextAction
from devopsellence.store.settings import Settings


@dataclass(frozen=True)
class JoinInstructions:
    """Start command of an agent; ``intro`` are the steps before; ``bundle`` is the folder to copy, if created."""

    command: str
    intro: str
    bundle: Path | None = None

    def text(self, after: Sequence[NextAction]) -> str:
        """Return the next steps, in order; ``after``: the steps once the agent runs."""
        then = [f"Then here, to {step.label}: {step.command}" for step in after]
        return "\n".join([self.intro, f"  {self.command}", *then])


def join(folder: ClusterFolder, settings: Settings, node: Node, *, required: bool) -> JoinInstructions:
    """Return the start command for the agent of ``node``, and create its certificate if the CA is on this machine.

    ``required``: the folder was given as an option, so it must hold the CA of the cluster.

    Raises:
        CliError: ``authority_missing``, ``authority_unusable``, ``authority_other``.
    """
    if settings.cert is None:
        # Without certificates, an agent cannot authenticate callers, so it has no API.
        command = programs.bare_agent_command(node, ",".join(settings.endpoints), settings.prefix)
        return JoinInstructions(command, "Next, on the node:")
    authority = _authority(folder, settings, required=required)
    gateways = programs.gateways(folder.control_plane().controllers if authority else ()) or ",".join(
        settings.endpoints
    )
    variables = programs.client_variables(gateways, settings.prefix, programs.AGENT_HOME)
    command = programs.agent_command(node, variables)
    if authority is None:
        issue_command = f"devopsellence cluster issue node {node.name} --uid {node.uid}"
        intro = (
            f"Next, on the machine with the cluster's CA: {issue_command}\n"
            f"Then copy the folder to {programs.AGENT_HOME} on the node, and start the agent there:"
        )
        return JoinInstructions(command, intro)
    bundle = folder.node(node.name)
    with folder.locked():
        issue.issue(authority, bundle, subjects.node(node.name, node.uid), issue.now())
        text = programs.settings_file(programs.agent_variables(node, variables))
        write_atomic(bundle.settings_file("agent"), text, mode=0o644)
    intro = (
        f"Next, copy {bundle.root} to {programs.AGENT_HOME} on the node (agent.env is for the systemd unit),\n"
        "and start the agent there:"
    )
    return JoinInstructions(command, intro, bundle.root)


def _authority(folder: ClusterFolder, settings: Settings, *, required: bool) -> CertificateAuthority | None:
    """Return the CA in ``folder`` if it is the CA of the cluster."""
    if not required and not folder.has_authority:
        return None
    authority = authorities.load(folder, issue.now())
    if settings.ca_cert is not None and authority.root in load_certificates(settings.ca_cert):
        return authority
    if not required:
        return None
    action = NextAction("show the CA of this cluster", f"openssl x509 -noout -text -in {settings.ca_cert}")
    message = f"the CA in {folder.root} is not the CA of this cluster"
    raise CliError("authority_other", message, next_actions=[action])
