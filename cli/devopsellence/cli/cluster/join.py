"""Ways of a machine to become a registered node: a join token, or a folder with a certificate; the agent's start."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from devopsellence import input_file
from devopsellence.api.v1.stored_pb2 import Node
from devopsellence.atomic_file import write_atomic
from devopsellence.certificates import subjects
from devopsellence.certificates.authority import CertificateAuthority
from devopsellence.certificates.join_token import JoinToken
from devopsellence.certificates.pem import load_certificates
from devopsellence.certificates.request import new_request
from devopsellence.cli.cluster import authority as authorities
from devopsellence.cli.cluster import issue, programs
from devopsellence.cli.cluster.folder import ClusterFolder
from devopsellence.cli.errors import of_store
from devopsellence.cli.output import CliError, NextAction
from devopsellence.store.errors import NotServed, StoreError
from devopsellence.store.etcd import Etcd
from devopsellence.store.identities import user_of_join_token
from devopsellence.store.settings import Settings
from devopsellence.store.settings_file import AGENT_HOME, agent_variables, client_variables, settings_file


@dataclass(frozen=True)
class JoinInstructions:
    """Ways of a machine into the cluster.

    ``command`` starts its agent with the files in the usual folder, ``intro`` are the steps before. ``bundle`` is the
    folder to copy, if created. ``token``: None without one, for the reason ``no_token``.
    """

    command: str
    intro: str
    bundle: Path | None = None
    token: JoinToken | None = None
    no_token: str = ""

    @property
    def join_command(self) -> str:
        """Command for the machine that uses the token; "" without one. Nobody sees the token by ``ps``."""
        return f"echo {self.token.text()} | devopsellence-agent join" if self.token is not None else ""

    @property
    def next_steps(self) -> list[NextAction]:
        """Steps on the node's machine."""
        start = NextAction("start the agent on the node", self.command)
        return [NextAction("on the node, as root", self.join_command), start] if self.token is not None else [start]

    def text(self, after: Sequence[NextAction]) -> str:
        """Return the next steps, in order; ``after``: the steps once the agent runs."""
        then = [f"Then here, to {step.label}: {step.command}" for step in after]
        by_folder = [self.intro, f"  {self.command}"]
        if self.token is None:
            because = [f"There is no join token: {self.no_token}."] if self.no_token else []
            return "\n".join([*because, *by_folder, *then])
        by_token = [
            f"Next, on the node, as root, once and before {self.token.expires:%H:%M} UTC:",
            f"  {self.join_command}",
            "  systemctl enable --now devopsellence-agent",
        ]
        return "\n".join([*by_token, *(["Or without the token:", *by_folder] if self.bundle else []), *then])

    def document(self) -> dict[str, Any]:
        """Return the facts for JSON."""
        token = self.token
        return {
            "agent_command": self.command,
            "bundle": str(self.bundle) if self.bundle else None,
            "join_token": token.text() if token is not None else None,
            "join_command": self.join_command or None,
            "join_expires_at": token.expires.isoformat().replace("+00:00", "Z") if token is not None else None,
        }


@dataclass(frozen=True)
class JoinSource:
    """Facts about the cluster on this machine. ``authority``: the cluster's, if it is here."""

    folder: ClusterFolder
    settings: Settings
    authority: CertificateAuthority | None

    @classmethod
    def of(cls, folder: ClusterFolder, settings: Settings, *, required: bool) -> JoinSource:
        """Return what is known; ``required``: the folder was given as an option, so it must hold the cluster's CA.

        Raises:
            CliError: ``authority_missing``, ``authority_unusable``, ``authority_other``.
        """
        has_certificates = settings.cert is not None
        return cls(folder, settings, _authority(folder, settings, required=required) if has_certificates else None)

    @property
    def gateways(self) -> tuple[str, ...]:
        """Addresses for an agent: those given to ``cluster init``, else the operator's own."""
        controllers = self.folder.control_plane().controllers if self.authority is not None else ()
        return tuple(programs.gateways(controllers).split(",")) if controllers else self.settings.endpoints


async def create_token(etcd: Etcd, node: Node, source: JoinSource) -> tuple[JoinToken | None, str]:
    """Return a join token for a registered node; None with the reason if nobody signs one for this operator.

    An error is no reason to fail: the node is registered.
    """
    settings, request = etcd.settings, new_request()
    if settings.ca_cert is None:
        return None, ""
    try:
        chain = await etcd.sign_certificate(request.csr, user_of_join_token(node.uid))
    except NotServed:
        return None, "no gateway signs certificates"
    except StoreError as error:
        return None, of_store(error).message
    token = JoinToken(
        endpoints=source.gateways,
        authority=input_file.read(settings.ca_cert).decode("ascii"),
        certificate=chain.decode(),
        key=request.key.decode(),
        node=node.name,
        uid=node.uid,
        arguments=tuple(programs.agent_arguments(node)),
        prefix=settings.prefix,
    )
    return token, ""


def instructions(source: JoinSource, node: Node, token: JoinToken | None, no_token: str = "") -> JoinInstructions:
    """Return how the machine of ``node`` joins, and create its certificate if the CA is on this machine.

    Raises:
        CliError: ``key_unusable``.
    """
    settings = source.settings
    if settings.cert is None:
        # Without certificates, an agent cannot authenticate callers, so it has no API.
        command = programs.bare_agent_command(node, ",".join(settings.endpoints), settings.prefix)
        return JoinInstructions(command, "Next, on the node:")
    variables = client_variables(",".join(source.gateways), settings.prefix, AGENT_HOME)
    command = programs.agent_command(node, variables)
    if source.authority is None:
        issue_command = f"devopsellence cluster issue node {node.name} --uid {node.uid}"
        intro = (
            f"Next, on the machine with the cluster's CA: {issue_command}\n"
            f"Then copy the folder to {AGENT_HOME} on the node, and start the agent there:"
        )
        return JoinInstructions(command, intro, None, token, no_token)
    bundle = _bundle(source.folder, source.authority, node, variables)
    intro = (
        f"Copy {bundle} to {AGENT_HOME} on the node (agent.env is for the systemd unit),\nand start the agent there:"
    )
    return JoinInstructions(command, intro, bundle, token, no_token)


def _bundle(folder: ClusterFolder, authority: CertificateAuthority, node: Node, variables: Mapping[str, str]) -> Path:
    bundle = folder.node(node.name)
    with folder.locked():
        issue.issue(authority, bundle, subjects.node(node.name, node.uid), issue.now())
        content = settings_file(agent_variables(programs.agent_arguments(node), variables))
        write_atomic(bundle.settings_file("agent"), content, mode=0o644)
    return bundle.root


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
