"""Token of an operator: the access of a CI job to a cluster, in one line of text.

A token holds private keys. It is read from a variable or a file, kept in memory, and passed on as paths of files that
exist in memory alone: nothing is written to disk, and nothing is left after the process, however it ends.
"""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Final

from devopsellence import input_file
from devopsellence.certificates import token_text
from devopsellence.cli.output import CliError, NextAction
from devopsellence.memory_file import memory_file
from devopsellence.store.keys import DEFAULT_PREFIX
from devopsellence.store.settings import (
    CA_CERT,
    CERT,
    ENDPOINTS,
    ETCD_SERVER_NAME,
    KEY,
    PASSWORD_FILE,
    PREFIX,
    SERVER_NAME,
    USERNAME,
    Settings,
    SettingsError,
)

TOKEN: Final = "DEVOPSELLENCE_TOKEN"  # noqa: S105 - the variable's name
TOKEN_FILE: Final = "DEVOPSELLENCE_TOKEN_FILE"  # noqa: S105 - the variable's name
IDENTITY: Final = "DEVOPSELLENCE_IDENTITY"
#: Begins every token, so that scanners of leaked secrets recognise it, and a later format differs.
MARK: Final = "devopsellence-token-1-"
MAX_BYTES: Final = 64 << 10
_SAID_BY_TOKEN: Final = (ENDPOINTS, CA_CERT, CERT, KEY, SERVER_NAME, USERNAME, PASSWORD_FILE, PREFIX, IDENTITY)


@dataclass(frozen=True)
class TokenSettings(Settings):
    """Settings of a token: with the age identity (None: the role needs none), and the environment ("": several)."""

    identity: Path | None = None
    environment: str = ""


@dataclass(frozen=True)
class Token:
    """Content of a token: addresses of gateways, PEM of certificates and key, age identity, environment.

    ``repr`` shows no private key. ``identity`` is empty for a role that neither sets nor reads secrets, ``environment``
    for a token of several environments.
    """

    endpoints: tuple[str, ...]
    authority: str
    certificate: str
    key: str = field(repr=False)
    identity: str = field(default="", repr=False)
    environment: str = ""
    server_name: str = ETCD_SERVER_NAME
    prefix: str = DEFAULT_PREFIX

    def text(self) -> str:
        """Return the token as one line, which :meth:`parse` reads back."""
        return token_text.encode(MARK, asdict(self))

    @classmethod
    def parse(cls, text: str) -> Token:
        """Return the content of a token; unknown fields, of a later version, are ignored.

        Raises:
            ValueError: ``text`` is no token; the message says why and shows nothing of it.
        """
        return cls(**_known_fields(token_text.decode(MARK, text)))

    def settings(self) -> TokenSettings:
        """Return the settings, with paths of files in memory that only this process can open.

        Raises:
            SettingsError: a value is invalid.
        """
        return TokenSettings(
            endpoints=self.endpoints,
            ca_cert=memory_file("ca.crt", self.authority),
            cert=memory_file("tls.crt", self.certificate),
            key=memory_file("tls.key", self.key),
            server_name=self.server_name,
            prefix=self.prefix,
            identity=memory_file("operator.age", self.identity) if self.identity else None,
            environment=self.environment,
        )


_FIELDS: Final = frozenset(each.name for each in fields(Token))
_REQUIRED: Final = frozenset({"authority", "certificate", "key"})


def place_of(settings: Settings, path: Path, name: str) -> str:
    """Return where a file of these settings is, for messages: its path, or "the <name> in the token"."""
    return f"the {name} in the token" if isinstance(settings, TokenSettings) else str(path)


def take(flags: Mapping[str, str], environ: MutableMapping[str, str]) -> TokenSettings | None:
    """Return the settings of the token of this process; None without one.

    Removes the token from ``environ``, so that docker, git and their plugins do not inherit it. ``flags`` are those of
    the command line, by variable.

    Raises:
        CliError: ``token_invalid``, ``settings_invalid`` (exit code 2): there are two tokens, or another setting beside
            the token.
    """
    file = flags.get(TOKEN_FILE) or environ.get(TOKEN_FILE)
    if TOKEN in environ and file:
        raise CliError("settings_invalid", f"{TOKEN} and {TOKEN_FILE} (--token-file) exclude each other", exit_code=2)
    if TOKEN in environ:
        source, text = TOKEN, environ.pop(TOKEN)
    elif file:
        source, text = file, _content(Path(file))
    else:
        return None
    if beside := [name for name in _SAID_BY_TOKEN if flags.get(name) or environ.get(name)]:
        message = f"{', '.join(beside)} cannot be set beside a token, which has its own; unset one of them"
        raise CliError("settings_invalid", message, exit_code=2)
    if not text.strip():
        action = NextAction("create one", "devopsellence operator token create <name> --role deployer --env <env>")
        message = f"{source} is empty: the job has no token, such as for a pull request of a fork"
        raise CliError("token_invalid", message, exit_code=2, next_actions=[action])
    try:
        return Token.parse(text).settings()
    except (ValueError, SettingsError) as error:
        raise CliError("token_invalid", f"{source} holds no usable token: {error}", exit_code=2) from None


def _content(path: Path) -> str:
    try:
        return input_file.read(path, MAX_BYTES).decode("ascii")
    except OSError as error:
        raise CliError("token_invalid", f"cannot read the token {path}: {error.strerror}", exit_code=2) from error
    except UnicodeDecodeError:
        raise CliError("token_invalid", f"{path} holds no usable token: it is not text", exit_code=2) from None


def _known_fields(document: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of a token's fields, after a check of their types."""
    known = {name: document[name] for name in _FIELDS & document.keys()}
    endpoints = known.pop("endpoints", None)
    texts = [*known.values(), *(endpoints if isinstance(endpoints, list) else [None])]
    if not all(isinstance(text, str) for text in texts) or not known.keys() >= _REQUIRED:
        raise ValueError("a part of it is missing")
    return {**known, "endpoints": tuple(endpoints or ())}
