"""``cluster init``: everything that can be made before the first machine runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from devopsellence.cli.certificates import subjects
from devopsellence.cli.certificates.pki import CertificateRequest
from devopsellence.cli.cluster import issue as issuing
from devopsellence.cli.cluster import programs
from devopsellence.cli.cluster.folder import CertificateBundle, ClusterFolder
from devopsellence.cli.cluster.issue import IssuedBundle
from devopsellence.cli.output import CliError
from devopsellence.cli.util.addresses import check_host
from devopsellence.cli.util.files import write_atomic
from devopsellence.cli.util.text import columns
from devopsellence.store.keys import InvalidName, check_name
from devopsellence.store.settings import Settings, SettingsError


@dataclass(frozen=True)
class InitResult:
    """What there is afterwards. ``issued``: by the machine or person that it is for, as a phrase."""

    folder: ClusterFolder
    members: Mapping[str, str]
    prefix: str
    issued: Sequence[tuple[str, IssuedBundle]]

    @property
    def operator_variables(self) -> dict[str, str]:
        """How root reaches the cluster from this machine."""
        home = str(self.folder.root_operator.root)
        return programs.client_variables(programs.endpoints(self.members), self.prefix, home)

    def text(self) -> str:
        """What goes where, and what to do next."""
        rows = [[str(each.bundle.root), each.outcome, where, each.why or "-"] for where, each in self.issued]
        lines = [
            f"The cluster's authority is {self.folder.authority_certificate}; keep {self.folder.authority_key} here, "
            "and a copy of it in a safe place.",
            "",
            columns(("FOLDER", "IS", "GOES TO", "WHY"), rows),
            "",
        ]
        if not self.members:
            return "\n".join([*lines, "Next: devopsellence cluster init --etcd <name>=<address>"])
        return "\n".join(
            [
                *lines,
                f"In each of etcd's folders, etcd.env holds the variables that etcd is started with (as its "
                f"EnvironmentFile=); the certificates are looked for in {programs.ETCD_HOME}.",
                "When etcd runs:",
                *(f"  {line}" for line in programs.exports(self.operator_variables)),
                "  devopsellence cluster prepare",
            ]
        )

    def document(self) -> dict[str, Any]:
        return {
            "authority": str(self.folder.authority_certificate),
            "members": dict(self.members),
            "bundles": [
                {"folder": str(each.bundle.root), "outcome": each.outcome, "why": each.why, "goes_to": where}
                for where, each in self.issued
            ],
            "variables": self.operator_variables if self.members else {},
        }


def parse_members(said: Sequence[str]) -> dict[str, str]:
    """etcd's members from ``NAME=ADDRESS``, in the order said.

    Raises:
        CliError: ``invalid_member`` or ``invalid_address`` (exit code 2).
    """
    members: dict[str, str] = {}
    for each in said:
        name, separator, address = each.partition("=")
        try:
            check_name("etcd member", name)
        except InvalidName as error:
            raise CliError("invalid_member", f"--etcd {each!r}: {error}", exit_code=2) from error
        if not separator or name in members:
            why = "it should read like e1=10.0.0.1" if not separator else f"there is another member {name}"
            raise CliError("invalid_member", f"--etcd {each!r}: {why}", exit_code=2)
        members[name] = check_host(address)
    if members:
        try:
            Settings(tuple(programs.endpoints(members).split(",")))
        except SettingsError as error:
            raise CliError("invalid_member", str(error), exit_code=2) from error
    return members


def initialize(folder: ClusterFolder, members: Mapping[str, str], prefix: str, *, force: bool) -> InitResult:
    """Make or renew the authority and all certificates that there have to be; no ``members``: those said before."""
    at = issuing.now()
    with folder.locked():
        members = members or folder.members()
        authority = issuing.establish(folder, at, force=force)
        folder.remember(members)
        issued = [
            (where, issuing.issue(authority, bundle, request, at, force=force))
            for where, bundle, request in _bundles(folder, members)
        ]
        _write_settings(folder, members, prefix)
    return InitResult(folder, members, prefix, issued)


def _bundles(
    folder: ClusterFolder, members: Mapping[str, str]
) -> list[tuple[str, CertificateBundle, CertificateRequest]]:
    """Who gets which certificate."""
    return [
        *(
            (f"{programs.ETCD_HOME} on {address}", folder.member(name), subjects.member(address))
            for name, address in members.items()
        ),
        (f"{programs.CONTROLLER_HOME} where controllers run", folder.controller, subjects.controller()),
        ("stays here, for you", folder.root_operator, subjects.root()),
    ]


def _write_settings(folder: ClusterFolder, members: Mapping[str, str], prefix: str) -> None:
    for name in members:
        variables = programs.member_variables(name, members)
        write_atomic(folder.member(name).settings_file("etcd"), programs.settings_file(variables), mode=0o644)
    if members:
        where = programs.endpoints(members)
        variables = programs.client_variables(where, prefix, programs.CONTROLLER_HOME)
        write_atomic(folder.controller.settings_file("controller"), programs.settings_file(variables), mode=0o644)
