"""``cluster init``: create the CA, certificates and settings files before the first machine runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from devopsellence.atomic_file import write_atomic
from devopsellence.certificates import subjects
from devopsellence.certificates.authority import CertificateAuthority, CertificateRequest
from devopsellence.cli.cluster import authority as authorities
from devopsellence.cli.cluster import issue, programs
from devopsellence.cli.cluster.authority import Passphrase
from devopsellence.cli.cluster.folder import CertificateBundle, ClusterFolder, ControlPlane
from devopsellence.cli.cluster.issue import IssuedBundle
from devopsellence.cli.output import CliError
from devopsellence.cli.util.addresses import check_host
from devopsellence.cli.util.text import columns
from devopsellence.store.keys import InvalidName, check_name
from devopsellence.store.settings import Settings, SettingsError
from devopsellence.store.settings_file import client_variables, settings_file


@dataclass(frozen=True)
class InitResult:
    """Result of ``cluster init``; ``issued`` pairs each bundle with a description of its destination."""

    folder: ClusterFolder
    control_plane: ControlPlane
    prefix: str
    issued: Sequence[tuple[str, IssuedBundle]]

    @property
    def operator_variables(self) -> dict[str, str]:
        """Variables for access to the cluster from this machine as root, through the gateways."""
        home = str(self.folder.root_operator.root)
        return client_variables(programs.gateways(self.control_plane.controllers), self.prefix, home)

    def text(self) -> str:
        """Return the text for a terminal: destinations of the folders and next steps."""
        rows = [[str(issued.bundle.root), issued.outcome, where, issued.why or "-"] for where, issued in self.issued]
        lines = [
            f"The CA certificate is {self.folder.authority_certificate}.",
            f"Keep the CA key {self.folder.authority_key} and its passphrase in a safe place, with a backup:",
            "cluster init needs them again in eight months, to renew the authority that signs certificates.",
            "",
            columns(("FOLDER", "STATE", "COPY TO", "REASON"), rows),
            "",
        ]
        if not self.control_plane.members:
            return "\n".join([*lines, "Next: devopsellence cluster init --etcd <name>=<address>"])
        return "\n".join(
            [
                *lines,
                "Each folder of an etcd member has an etcd.env for the EnvironmentFile= of etcd's systemd unit;",
                f"etcd reads the certificates from {programs.ETCD_HOME}. The folder controller has a controller.env;",
                f"controllers serve the gateways that nodes and operators use, on port {programs.GATEWAY_PORT}.",
                "Once etcd and a controller are running:",
                *(f"  {line}" for line in programs.exports(self.operator_variables)),
                "  devopsellence context add <name> --use       # the same for all shells, instead of these exports",
                "  devopsellence node register <name>",
            ]
        )

    def document(self) -> dict[str, Any]:
        return {
            "authority": str(self.folder.authority_certificate),
            "members": dict(self.control_plane.members),
            "controllers": list(self.control_plane.controllers),
            "bundles": [
                {"folder": str(issued.bundle.root), "outcome": issued.outcome, "why": issued.why, "goes_to": where}
                for where, issued in self.issued
            ],
            "variables": self.operator_variables if self.control_plane.members else {},
        }


def parse_members(options: Sequence[str]) -> dict[str, str]:
    """Parse etcd members of the form ``NAME=ADDRESS``, in order.

    Raises:
        CliError: ``invalid_member`` or ``invalid_address`` (exit code 2).
    """
    members: dict[str, str] = {}
    for option in options:
        name, separator, address = option.partition("=")
        try:
            check_name("etcd member", name)
        except InvalidName as error:
            raise CliError("invalid_member", f"--etcd {option!r}: {error}", exit_code=2) from error
        if not separator or name in members:
            why = "expected NAME=ADDRESS, such as e1=10.0.0.1" if not separator else f"duplicate member {name}"
            raise CliError("invalid_member", f"--etcd {option!r}: {why}", exit_code=2)
        members[name] = check_host(address)
    _check_endpoints("invalid_member", "--etcd", programs.endpoints(members))
    return members


def parse_controllers(options: Sequence[str]) -> tuple[str, ...]:
    """Parse addresses of controllers.

    Raises:
        CliError: ``invalid_address`` (exit code 2).
    """
    controllers = tuple(dict.fromkeys(check_host(option) for option in options))
    _check_endpoints("invalid_address", "--controller", programs.gateways(controllers))
    return controllers


def _check_endpoints(code: str, option: str, endpoints: str) -> None:
    """Refuse addresses that a client cannot use together."""
    try:
        if endpoints:
            Settings(tuple(endpoints.split(",")))
    except SettingsError as error:
        raise CliError(code, f"{option}: {error}", exit_code=2) from error


def initialize(
    folder: ClusterFolder, given: ControlPlane, prefix: str, passphrase: Passphrase, *, force: bool
) -> InitResult:
    """Create or renew the CA and all certificates; what is not ``given`` is as in the last call."""
    at = issue.now()
    with folder.locked():
        last = folder.control_plane()
        machines = ControlPlane(given.members or last.members, given.given_controllers or last.given_controllers)
        authority = authorities.establish(folder, at, passphrase, force=force)
        folder.remember(machines)
        return write_bundles(folder, authority, prefix, at, force=force)


def write_bundles(
    folder: ClusterFolder, authority: CertificateAuthority, prefix: str, at: datetime, *, force: bool = False
) -> InitResult:
    """Create or renew the folders of the control plane's machines and of root; call with the folder locked."""
    machines = folder.control_plane()
    issued = [
        (where, issue.issue(authority, bundle, request, at, force=force))
        for where, bundle, request in _bundles(folder, machines)
    ]
    if not authority.is_root:
        # Controllers renew certificates with it, unattended.
        authority.issued.write(folder.controller.issuing_certificate, folder.controller.issuing_key)
    _write_settings(folder, machines.members, prefix)
    return InitResult(folder, machines, prefix, issued)


def _bundles(folder: ClusterFolder, machines: ControlPlane) -> list[tuple[str, CertificateBundle, CertificateRequest]]:
    """Return destination, folder and content of each certificate."""
    return [
        *(
            (f"{programs.ETCD_HOME} on {address}", folder.member(name), subjects.member(address))
            for name, address in machines.members.items()
        ),
        (
            f"{programs.CONTROLLER_HOME} on controller machines",
            folder.controller,
            subjects.controller(*machines.controllers),
        ),
        ("(stays here, for you)", folder.root_operator, subjects.root()),
    ]


def _write_settings(folder: ClusterFolder, members: Mapping[str, str], prefix: str) -> None:
    for name in members:
        variables = programs.member_variables(name, members)
        write_atomic(folder.member(name).settings_file("etcd"), settings_file(variables), mode=0o644)
    if members:
        variables = programs.controller_variables(members, prefix)
        write_atomic(folder.controller.settings_file("controller"), settings_file(variables), mode=0o644)
        root = folder.root_operator
        lines = programs.exports(programs.etcdctl_variables(members, str(root.root)))
        text = "".join(f"{line}\n" for line in lines)
        write_atomic(root.settings_file("etcdctl"), text.encode(), mode=0o644)
