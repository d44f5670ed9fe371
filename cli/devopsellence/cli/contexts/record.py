"""Context of a cluster: its connection under a name, and the form in the file. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from devopsellence.cli import reach
from devopsellence.cli.ssh.host import SshHost
from devopsellence.store.settings import Settings

_PATHS: Final = ("ca_cert", "cert", "key", "password_file")
_TEXTS: Final = ("server_name", "username", "prefix")
_SSH: Final = "ssh"


class InvalidContext(ValueError):
    """A value in the file that this version cannot use; the message says why, as a clause."""


@dataclass(frozen=True)
class ClusterContext:
    """Connection to a cluster: the settings, with absolute paths and perhaps an ssh host (``cli.reach``)."""

    settings: Settings

    def document(self) -> dict[str, Any]:
        """Return the JSON form, which :meth:`parse` reads back; absent values are left out."""
        settings = self.settings
        document: dict[str, Any] = {"endpoints": list(settings.endpoints)}
        document |= {name: str(path) for name in _PATHS if (path := getattr(settings, name)) is not None}
        document |= {name: text for name in _TEXTS if (text := getattr(settings, name))}
        return document | ({"ssh": str(host)} if (host := reach.ssh_host(settings)) is not None else {})

    @classmethod
    def parse(cls, document: Mapping[str, Any]) -> ClusterContext:
        """Return the context of a JSON form.

        Raises:
            ValueError: a value, such as an address, is missing, unknown, of another type, or not valid.
        """
        values = dict(document)
        endpoints = values.pop("endpoints", None)
        if not (isinstance(endpoints, list) and all(isinstance(endpoint, str) for endpoint in endpoints)):
            raise InvalidContext("'endpoints' is not a list of addresses")
        for name, value in values.items():
            # An unknown value is of a later version: to drop it on the next change would lose it.
            if name not in (*_PATHS, *_TEXTS, _SSH):
                raise InvalidContext(f"{name!r} is unknown to this version")
            if not isinstance(value, str):
                raise InvalidContext(f"{name!r} is not a text")
            if name in _PATHS and not Path(value).is_absolute():
                raise InvalidContext(f"{name!r} is not an absolute path")
        host = SshHost.parse(values.pop(_SSH)) if _SSH in values else None
        settings: dict[str, Any] = {name: Path(value) if name in _PATHS else value for name, value in values.items()}
        return cls(reach.through(Settings(endpoints=tuple(endpoints), **settings), host))
