"""Joining: this machine becomes a node by a join token, with a key that is made here and never leaves the machine.

Everything can be repeated after a crash, with the same token: the key is on disk before the token is used, and the
gateway gives the same certificate for the same key again. The agent does not import this: it needs cryptography.
"""

from __future__ import annotations

import asyncio
import datetime
import json
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cryptography import x509
from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_attempt, wait_random_exponential

from devopsellence import input_file
from devopsellence.atomic_file import write_atomic
from devopsellence.certificates.facts import common_name
from devopsellence.certificates.files import KeyPair, locked
from devopsellence.certificates.join_token import JoinToken, UnusableToken
from devopsellence.certificates.request import SigningRequest, new_request
from devopsellence.client_certificate import UnusableCertificate, certificate_end, read_credentials
from devopsellence.memory_file import memory_file
from devopsellence.server_certificate import CertificateFiles
from devopsellence.store.errors import Ambiguous, PermissionDenied, Rejected, Unavailable
from devopsellence.store.etcd import Etcd
from devopsellence.store.identities import user_of_node
from devopsellence.store.settings import Settings, SettingsError
from devopsellence.store.settings_file import agent_variables, client_variables, settings_file

#: Time that a gateway may take to answer.
_SECONDS: Final = 10.0
_PUBLIC: Final = 0o644


class FolderInUse(Exception):
    """The folder is that of another machine, or of something else; the message is a sentence."""


class CertificateUnusable(Exception):
    """The gateway's certificate does not fit what the token says; the message is a sentence."""


@dataclass(frozen=True)
class NodeFolder:
    """Folder of an agent's certificate and settings."""

    root: Path

    @property
    def files(self) -> CertificateFiles:
        return CertificateFiles.in_folder(self.root)

    @property
    def settings(self) -> Path:
        return self.root / "agent.env"

    @property
    def attempt(self) -> Path:
        """File with the key of a join that has not come to its end."""
        return self.root / ".join"


@dataclass(frozen=True)
class JoinedNode:
    """Node that this machine has become. ``replaced``: the folder was another's before."""

    name: str
    expires: datetime.datetime
    replaced: bool


def check_time(token: JoinToken, now: datetime.datetime) -> None:
    """Check that a token is not one of the past. Pure.

    Raises:
        UnusableToken: it is.
    """
    if now >= token.expires:
        message = f"it was valid until {token.expires:%Y-%m-%d %H:%M} UTC, and this machine's clock says {now:%H:%M}"
        raise UnusableToken(f"{message}; create another with devopsellence node register {token.node}")


def owner_of(folder: NodeFolder) -> str:
    """Return whose the certificate in a folder is; "" without one.

    Raises:
        FolderInUse: nobody can tell.
    """
    try:
        return common_name(x509.load_pem_x509_certificate(input_file.read(folder.files.certificate)))
    except FileNotFoundError:
        return ""
    except (OSError, ValueError) as error:
        raise FolderInUse(f"{folder.files.certificate} cannot be read: {error}") from error


def join(token: JoinToken, folder: NodeFolder, *, replace: bool) -> JoinedNode:
    """Have this machine's certificate signed, and write it with the agent's settings.

    ``replace`` allows a folder of another machine. What a gateway refuses leaves no file.

    Raises:
        UnusableToken: the token has expired. FolderInUse, Busy, CertificateUnusable, StoreError, OSError.
    """
    check_time(token, datetime.datetime.now(datetime.UTC))
    settings = _settings(token)
    _check_folder(folder, token, replace=replace)
    is_new = not folder.root.exists()
    folder.root.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        with locked(folder.root):
            replaced = _check_folder(folder, token, replace=replace)
            resumed = _resumed(folder, token)
            request = resumed or _begun(folder, token)
            try:
                chain = asyncio.run(_signed(settings, request, token.node))
            except (PermissionDenied, Rejected, Unavailable) as error:
                # Otherwise the token may have been used for this key, which is needed again then.
                if resumed is None or not isinstance(error, Unavailable):
                    folder.attempt.unlink()
                raise
            expires = _checked_end(settings, KeyPair(chain, request.key))
            _install(folder, token, KeyPair(chain, request.key))
            folder.attempt.unlink()
    finally:
        if is_new:
            with suppress(OSError):
                folder.root.rmdir()
    return JoinedNode(token.node, expires, replaced)


def _settings(token: JoinToken) -> Settings:
    """Return the connection to the gateways of a token, with files in memory."""
    try:
        settings = Settings(
            token.endpoints,
            ca_cert=memory_file("ca.crt", token.authority),
            cert=memory_file("tls.crt", token.certificate),
            key=memory_file("tls.key", token.key),
            prefix=token.prefix,
        )
        read_credentials(settings.ca_cert, settings.cert, settings.key)
    except UnusableCertificate as error:
        # The paths in its message are nobody's.
        raise UnusableToken("its certificate and key do not fit each other") from error
    except SettingsError as error:
        raise UnusableToken(str(error)) from error
    return settings


def _check_folder(folder: NodeFolder, token: JoinToken, *, replace: bool) -> bool:
    """Return True if the folder is another machine's, and may be taken.

    Raises:
        FolderInUse: it may not.
    """
    try:
        owner = owner_of(folder)
    except FolderInUse:
        if replace:
            return True
        raise
    if owner in ("", user_of_node(token.uid)):
        return False
    if not replace:
        raise FolderInUse(f"{folder.root} has the certificate of {owner}, and the token is for another machine")
    return True


def _resumed(folder: NodeFolder, token: JoinToken) -> SigningRequest | None:
    """Return the key of an interrupted join with the same token, and its signing request; None for none."""
    with suppress(OSError, ValueError, KeyError, TypeError):
        stored = json.loads(input_file.read(folder.attempt))
        if stored["token"] == token.serial:
            return SigningRequest(bytes.fromhex(stored["csr"]), stored["key"].encode())
    return None


def _begun(folder: NodeFolder, token: JoinToken) -> SigningRequest:
    """Return a new key with its signing request, which is on disk before it is used."""
    made = new_request()
    content = {"token": token.serial, "csr": made.csr.hex(), "key": made.key.decode()}
    write_atomic(folder.attempt, json.dumps(content).encode())
    return made


async def _signed(settings: Settings, request: SigningRequest, node: str) -> bytes:
    """Return the certificate for a key.

    Raises:
        Ambiguous: the token may have been used for it. Other errors: it was not.
    """
    async with Etcd(settings, timeout=_SECONDS) as etcd:
        try:
            return await etcd.join(request.csr, node)
        except Ambiguous as error:
            retrying = AsyncRetrying(
                retry=retry_if_exception_type((Ambiguous, Unavailable)),
                wait=wait_random_exponential(multiplier=0.2, max=2),
                stop=stop_after_attempt(3),
                reraise=True,
            )
            try:
                return await retrying(etcd.join, request.csr, node)
            except Unavailable:
                raise error from None


def _checked_end(settings: Settings, pair: KeyPair) -> datetime.datetime:
    """Return the end of a certificate, after a check that the cluster accepts it."""
    files = memory_file("tls.crt", pair.certificate.decode()), memory_file("tls.key", pair.key.decode())
    end = certificate_end(settings.ca_cert, *files)
    if not end:
        raise CertificateUnusable("the gateway's certificate is not of the authority in the token, or not valid now")
    return datetime.datetime.fromtimestamp(end, datetime.UTC)


def _install(folder: NodeFolder, token: JoinToken, pair: KeyPair) -> None:
    client = client_variables(",".join(token.endpoints), token.prefix, str(folder.root))
    write_atomic(folder.files.authority, token.authority.encode(), mode=_PUBLIC)
    write_atomic(folder.settings, settings_file(agent_variables(token.arguments, client)), mode=_PUBLIC)
    pair.write(folder.files.certificate, folder.files.key)
