"""Rotation of one cluster: each step as a method, on the cluster's folder and through the gateways."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from devopsellence.certificates import subjects
from devopsellence.certificates.authority import CertificateAuthority
from devopsellence.certificates.facts import fingerprint
from devopsellence.certificates.files import KeyPair
from devopsellence.cli.cluster import authority as authorities
from devopsellence.cli.cluster import issue
from devopsellence.cli.cluster.access import root_settings
from devopsellence.cli.cluster.authority import Passphrase
from devopsellence.cli.cluster.folder import ClusterFolder
from devopsellence.cli.cluster.init import InitResult, write_bundles
from devopsellence.cli.operators.recipients import approve_again
from devopsellence.cli.output import CliError, NextAction, Output
from devopsellence.cli.rotation import stages, steps
from devopsellence.cli.rotation.probe import Finding, Server, described
from devopsellence.cli.rotation.routers import wait_routers
from devopsellence.cli.rotation.stages import Stage
from devopsellence.store.etcd import Etcd
from devopsellence.store.settings import Settings

OPERATION: Final = "cluster ca rotate"


@dataclass(frozen=True)
class Rotation:
    """A rotation. ``left_out``: nodes that nobody waits for. ``seconds``: the longest wait of a step."""

    folder: ClusterFolder
    prefix: str
    flags: Mapping[str, str]
    environ: Mapping[str, str]
    left_out: tuple[str, ...]
    seconds: float
    output: Output

    def stage(self) -> Stage:
        """Return the stage, after the folders of machines that an interrupted step has left are completed.

        Raises:
            CliError: ``authority_missing``, ``authority_unusable``.
        """
        with self.folder.locked():
            stage = stages.stage_of(self.folder)
            self._signing()
            if stage is not Stage.NONE:
                self._write()
        return stage

    def settings(self) -> Settings:
        """Return the settings of root, who alone may change whom everybody trusts."""
        return root_settings(self.folder, self.flags, self.environ)

    async def check_gateways(self, etcd: Etcd) -> None:
        """Check that a gateway answers, and that the nodes left out exist."""
        await self._servers(etcd)

    def introduce(self, passphrase: Passphrase) -> InitResult:
        """Create the new CA; the folders of all machines trust both."""
        with self.folder.locked():
            stages.introduce(self.folder, issue.now(), passphrase)
            return self._write()

    def switch(self) -> InitResult:
        """Let the new CA sign, and put certificates of it into the folders of all machines."""
        with self.folder.locked():
            stages.switch(self.folder)
            return self._write()

    def retire(self) -> InitResult:
        """Forget the former CA; the folders of all machines trust the new one alone."""
        return self._end(stages.retire)

    def abandon(self) -> InitResult:
        """Forget the new CA; the folders of all machines trust the present one alone."""
        return self._end(stages.abandon)

    async def announce(self, etcd: Etcd) -> None:
        """Have everybody trust both CAs, and certificates renewed under the present one, which signs."""
        present = self._signing()
        await steps.announce(etcd, [_pem(root) for root in (present.root, *present.also_trusted)])

    async def announce_only(self, etcd: Etcd) -> None:
        """Have everybody trust the CA that signs, and no other."""
        await steps.announce(etcd, [_pem(self._signing().root)])

    async def announce_new(self, etcd: Etcd) -> None:
        """Have everybody trust the new CA alone; recipients that admins have approved stay approved."""
        await approve_again(etcd)
        await self.announce_only(etcd)

    async def wait_trusting(self, etcd: Etcd) -> list[str]:
        """Return once all servers and routers trust the new CA; return the operators that may not.

        Raises:
            CliError: ``rotation_waits``: some do not.
        """
        await self.announce(etcd)
        servers = await self._servers(etcd)
        following = authorities.load(self.folder.next, issue.now())
        await self._wait(servers, servers.gateways + servers.agents, self._signing().trusted, _root_of(following))
        await self._wait_routers(etcd, servers, following.root, renewed=False)
        return await steps.operators_unheard(etcd)

    async def wait_renewed(self, etcd: Etcd) -> list[str]:
        """Return once servers and routers have certificates under the new CA; return the operators that may have none.

        Raises:
            CliError: ``rotation_waits``: some servers have not.
        """
        servers, signing = await self._servers(etcd), self._signing()
        trusted, own = _pem(signing.root), _root_of(signing)
        # A gateway signs with the authority that has signed its own certificate: only then may nodes ask for new ones.
        await self._wait(servers, servers.gateways, trusted, own)
        await self.announce(etcd)
        await self._wait(servers, servers.agents, trusted, own)
        # The last of them may otherwise be asked by others that no longer trust its certificate.
        await self._wait_routers(etcd, servers, signing.root, renewed=True)
        return await steps.operators_without(etcd, signing.root)

    async def _servers(self, etcd: Etcd) -> steps.Servers:
        return await steps.find_servers(etcd, self.folder.control_plane(), self.left_out)

    async def _wait(self, servers: steps.Servers, awaited: Sequence[Server], trusted: bytes, own: KeyPair) -> None:
        findings = await steps.wait_ready(awaited, trusted, own, self._progress, seconds=self.seconds)
        # From here, etcd need not be reachable: it answers the machines of the control plane.
        members = await steps.wait_ready(servers.members, trusted, own, self._progress, seconds=0)
        findings |= {member: found for member, found in members.items() if found is not Finding.UNREACHABLE}
        _check([*servers.unknown, *described(findings)])

    async def _wait_routers(self, etcd: Etcd, servers: steps.Servers, root: x509.Certificate, *, renewed: bool) -> None:
        wanted = fingerprint(root)
        _check(await wait_routers(etcd, servers.uids, wanted, self._progress, renewed=renewed, seconds=self.seconds))

    def _progress(self, text: str) -> None:
        self.output.progress(OPERATION, text)

    def _signing(self) -> CertificateAuthority:
        return authorities.load(self.folder, issue.now())

    def _write(self) -> InitResult:
        return write_bundles(self.folder, self._signing(), self.prefix, issue.now())

    def _end(self, forget: Callable[[ClusterFolder], None]) -> InitResult:
        """Write folders that trust the signing CA alone, then ``forget`` the other, which ends the rotation."""
        with self.folder.locked():
            signing = self._signing()
            signing.also_trusted = ()
            result = write_bundles(self.folder, signing, self.prefix, issue.now())
            forget(self.folder)
        return result


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(Encoding.PEM)


def _root_of(authority: CertificateAuthority) -> KeyPair:
    """Return a certificate of the root operator by an authority, to try it out."""
    return authority.issue(subjects.root(), issue.now())


def _check(problems: Sequence[str]) -> None:
    """Check that nothing is waited for.

    Raises:
        CliError: ``rotation_waits``: something is.
    """
    if problems:
        actions = [
            NextAction("do what the command said before, bring nodes back, then", "the same command"),
            NextAction("or do without a node", f"devopsellence {OPERATION} --leave-out <node>"),
        ]
        raise CliError("rotation_waits", "; ".join(problems), next_actions=actions)
