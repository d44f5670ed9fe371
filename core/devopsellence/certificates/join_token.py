"""Join token: all that a machine needs to become a node of a cluster, in one line of text. Pure.

It holds the private key of a certificate that is good for a single call to a gateway, within an hour.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Final

from devopsellence.access.certificate import serial_number, validity
from devopsellence.certificates import token_text
from devopsellence.store.keys import DEFAULT_PREFIX, InvalidName, check_name

#: Begins every join token, so that scanners of leaked secrets recognise it, and a later format differs.
MARK: Final = "devopsellence-join-1-"
#: Most bytes of a token's text.
MAX_BYTES: Final = 16 << 10
_MOST_TEXTS: Final = 64
#: One word in the settings file of a systemd unit.
_WORD: Final = re.compile(r"[!-~]{1,300}\Z", re.ASCII)


class UnusableToken(ValueError):
    """A text that is no join token, or one of the past; the message says why, as a clause, and shows nothing of it."""


@dataclass(frozen=True)
class JoinToken:
    """Content of a join token: addresses of gateways, the authorities to trust, a certificate with its key, the node.

    Certificates and key are PEM. ``arguments`` are those of the agent, but for the connection to the gateways. ``repr``
    shows no private key.
    """

    endpoints: tuple[str, ...]
    authority: str
    certificate: str
    key: str = field(repr=False)
    node: str
    uid: str
    arguments: tuple[str, ...]
    prefix: str = DEFAULT_PREFIX

    @property
    def expires(self) -> datetime.datetime:
        """Return the end of the token, aware."""
        return validity(self.certificate.encode())[1]

    @property
    def serial(self) -> str:
        """Return the serial number of the token's certificate, as in the deny-list."""
        return serial_number(self.certificate.encode())

    def text(self) -> str:
        """Return the token as one line, which :meth:`parse` reads back."""
        return token_text.encode(MARK, asdict(self), compress=True)

    @classmethod
    def parse(cls, text: str) -> JoinToken:
        """Return the content of a token; unknown fields, of a later version, are ignored.

        Raises:
            UnusableToken: ``text`` is no token.
        """
        try:
            document = token_text.decode(MARK, text, compressed=True)
            token = cls(
                **{name: _text(document, name) for name in _TEXTS},
                endpoints=_words(document, "endpoints"),
                arguments=_words(document, "arguments"),
            )
            check_name("node", token.node)
            check_name("node uid", token.uid)
            validity(token.certificate.encode())
        except InvalidName as error:
            raise UnusableToken("a name in it is malformed") from error
        except ValueError as error:
            # The cause would show parts of the token in a traceback.
            raise UnusableToken(str(error)) from None
        return token


_TEXTS: Final = tuple(each.name for each in fields(JoinToken) if each.name not in ("endpoints", "arguments"))


def _text(document: Mapping[str, Any], name: str) -> str:
    value = document.get(name)
    if not isinstance(value, str) or not value:
        raise ValueError("a part of it is missing")
    return value


def _words(document: Mapping[str, Any], name: str) -> tuple[str, ...]:
    value = document.get(name)
    if not isinstance(value, Sequence) or isinstance(value, str) or not 0 < len(value) <= _MOST_TEXTS:
        raise ValueError("a part of it is missing")
    if not all(isinstance(word, str) and _WORD.match(word) for word in value):
        raise ValueError("a part of it is malformed")
    return tuple(value)
