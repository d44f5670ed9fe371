"""The folder that Envoy is given: its files, what is kept beside them, and each container's own folder. Blocks.

Envoy follows renames. What refers to something is written after it when it comes and before it when it goes, so that
no file that Envoy reads names what is not there (Envoy's documentation, "eventual consistency considerations").
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import structlog

from devopsellence.nodeagent.docker.model import Now
from devopsellence.nodeagent.envoy.config import ORDER
from devopsellence.nodeagent.envoy.container import BOOTSTRAP, CONFIG, RUN, run_folder
from devopsellence.nodeagent.envoy.endpoints import Key, Place, Places
from devopsellence.nodeagent.envoy.model import Backend, Endpoint, Route, RouterPeer, Site, TlsCertificate
from devopsellence.nodeagent.state import write_file
from devopsellence.nodeagent.tls import Files
from devopsellence.store.keys import EnvironmentRef

#: Of the node's own certificate, for other nodes' routers.
NODE_FOLDER: Final = "node"
AUTHORITY, CERTIFICATE, KEY = "ca.crt", "tls.crt", "tls.key"
_KEPT: Final = "kept"
_PORTS: Final = "ports.json"
_log = structlog.get_logger()


class EnvoyFolder:
    """One node's folder: ``config``, which containers are given, ``run`` with an own folder for each container, and
    what is kept."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._digests: dict[str, bytes] = {}

    def open(self) -> None:
        """Make it, for nobody else to read. OSError."""
        config = self.path / CONFIG
        for each in (self.path, self.path / RUN, self.path / _KEPT, config, config / RUN, config / NODE_FOLDER):
            each.mkdir(parents=True, exist_ok=True, mode=0o700)
            each.chmod(0o700)

    def load(self, now: Now) -> list[tuple[EnvironmentRef, Site | None, dict[Key, Place]]]:
        """What was kept; what cannot be read is named in the log, and comes again with the next wish."""
        found = []
        for path in sorted((self.path / _KEPT).glob("*.json")):
            try:
                found.append(from_bytes(path.read_bytes(), now))
            except (OSError, ValueError) as error:
                _log.warning("what was routed cannot be read", path=str(path), error=str(error))
        return found

    def count(self) -> int:
        """How many files Envoy was given."""
        return len(self._there())

    def ports(self) -> tuple[int, ...]:
        """The ports that Envoy was last told to listen on."""
        with suppress(OSError, ValueError, TypeError):
            return tuple(int(load) for load in json.loads((self.path / _PORTS).read_bytes()))
        return ()

    def write(
        self,
        kept: Mapping[EnvironmentRef, bytes | None],
        files: Mapping[str, bytes],
        ports: Iterable[int],
    ) -> bool:
        """Put everything in place that is another than it was; whether something of Envoy's was. OSError.

        ``kept``: of the environments that may have changed; None: nothing any more. ``files``: all of Envoy's.
        """
        for env, content in kept.items():
            if content is not None:
                self._put(_kept_name(env), content)
        changed = [name for name in files if self._differs(f"{CONFIG}/{name}", files[name])]
        for name in sorted(changed, key=_rank):
            self._put(f"{CONFIG}/{name}", files[name])
        stale = self._stale(files)
        for path in stale:
            path.unlink(missing_ok=True)
            self._digests.pop(str(path.relative_to(self.path)), None)
        for env, content in kept.items():
            if content is None:
                (self.path / _kept_name(env)).unlink(missing_ok=True)
                self._digests.pop(_kept_name(env), None)
        self._put(_PORTS, json.dumps(sorted(ports)).encode())
        return bool(changed or stale)

    def again(self, names: Iterable[str]) -> None:
        """Put these of Envoy's files in place once more, as they are, for an Envoy that has refused them. OSError."""
        for name in names:
            path = self.path / CONFIG / name
            write_file(path, path.read_bytes(), sync=False)

    def follow(self, files: Files) -> None:
        """Have the node's own certificate as it is now. OSError."""
        for name, source in ((AUTHORITY, files.authority), (CERTIFICATE, files.certificate), (KEY, files.key)):
            self._put(f"{CONFIG}/{NODE_FOLDER}/{name}", source.read_bytes())

    def begin(self, spec_hash: str, bootstrap: bytes) -> None:
        """Make a container's own folder. OSError."""
        run = run_folder(self.path, spec_hash)
        run.mkdir(mode=0o700, exist_ok=True)
        write_file(run / BOOTSTRAP, bootstrap, sync=False)

    def end(self, used: Iterable[str]) -> None:
        """Remove the own folders of all containers but those with these hashes."""
        keep = set(used)
        for each in (self.path / RUN).iterdir():
            if each.name not in keep:
                shutil.rmtree(each, ignore_errors=True)

    def _differs(self, name: str, content: bytes) -> bool:
        digest = hashlib.sha256(content).digest()
        if name not in self._digests:
            with suppress(OSError):
                self._digests[name] = hashlib.sha256((self.path / name).read_bytes()).digest()
        return self._digests.get(name) != digest

    def _put(self, name: str, content: bytes) -> None:
        if not self._differs(name, content):
            return
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        # Until it is there nobody knows what is.
        self._digests.pop(name, None)
        write_file(path, content, sync=False)
        self._digests[name] = hashlib.sha256(content).digest()

    def _stale(self, files: Mapping[str, bytes]) -> list[Path]:
        there = self._there()
        # The other way round than they were written.
        return [there[name] for name in sorted(there, key=_rank, reverse=True) if name not in files]

    def _there(self) -> dict[str, Path]:
        config = self.path / CONFIG
        found = {str(path.relative_to(config)): path for path in config.rglob("*.json")}
        return {name: path for name, path in found.items() if name.startswith(ORDER)}


def _kept_name(env: EnvironmentRef) -> str:
    return f"{_KEPT}/{str(env).replace('/', '+')}.json"


def _rank(name: str) -> tuple[int, str]:
    """In the order in which files are to be written."""
    return next((place for place, begins in enumerate(ORDER) if name.startswith(begins)), len(ORDER)), name


# MERGED What the router keeps of each environment beside Envoy's files, so that the next


def to_bytes(env: EnvironmentRef, site: Site | None, places: Places, now: Now) -> bytes:
    """A site and the places of its environment. It holds private keys."""
    kept = {
        "env": str(env),
        "site": None if site is None else _site_to(site),
        "places": [
            {
                "service": key.service,
                "port": key.port,
                "endpoint": asdict(place.endpoint),
                "limit": now.wall + place.limit - now.mono if place.endpoint.draining else 0.0,
            }
            for key, place in sorted(places.items())
            if key.env == env
        ],
    }
    return json.dumps(kept, sort_keys=True).encode()


def from_bytes(content: bytes, now: Now) -> tuple[EnvironmentRef, Site | None, dict[Key, Place]]:
    """What :func:`to_bytes` made, by perhaps another agent of another start of the machine; ValueError if it did not.

    No drain gets longer by that than its site allows.
    """
    try:
        kept: Any = json.loads(content)
        env = EnvironmentRef.parse(kept["env"])
        site = None if kept["site"] is None else _site_from(env, kept["site"])
        longest = site.drain_seconds if site is not None else Site(env, (), (), ()).drain_seconds
        places = {}
        for each in kept["places"]:
            endpoint = Endpoint(**each["endpoint"])
            left = min(max(0.0, each["limit"] - now.wall), longest)
            key = Key(env, each["service"], each["port"], endpoint.container)
            places[key] = Place(endpoint, limit=now.mono + left if endpoint.draining else 0.0)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{type(error).__name__}: {error}") from error
    return env, site, places


def _site_to(site: Site) -> dict[str, Any]:
    fields = asdict(site)
    del fields["env"]
    return fields


def _site_from(env: EnvironmentRef, fields: Mapping[str, Any]) -> Site:
    known = {
        "hosts": tuple(fields["hosts"]),
        "routes": tuple(Route(**each) for each in fields["routes"]),
        "backends": tuple(
            Backend(each["service"], each["port"], tuple(Endpoint(**one) for one in each["endpoints"]))
            for each in fields["backends"]
        ),
        "certificates": {host: TlsCertificate(**each) for host, each in fields["certificates"].items()},
        "challenges": {
            host: tuple((token, answer) for token, answer in each) for host, each in fields["challenges"].items()
        },
        "peers": tuple(RouterPeer(**each) for each in fields["peers"]),
    }
    return Site(env, **{**fields, **known})
