"""Parsers of single values: text, names, images, hosts, paths. All raise :class:`Unfit` for invalid values.

Units are those of the Compose file format for fields of Compose.
"""

from __future__ import annotations

import ipaddress
import posixpath
import re
import socket
from collections.abc import Callable
from typing import Final

from devopsellence.config.problems import quoted
from devopsellence.config.yaml_tree import Number
from devopsellence.names import HOST, NAME, NAME_RULE

# Longest argument or variable that Linux passes to a program (MAX_ARG_STRLEN), without the terminator.
MAX_TEXT: Final = (128 << 10) - 1
# Leaves room for "=" and the longest secret (64 KiB) within MAX_TEXT.
MAX_VARIABLE_NAME: Final = 32 << 10
_MAX_REFERENCE: Final = 512
# Paths of a container that Docker and the kernel provide: below the first a volume breaks the container or hides what
# programs expect there, and the others are files, over which no folder can be mounted.
_KERNEL_FOLDERS: Final = ("/proc", "/sys", "/dev")
_DOCKER_FILES: Final = ("/etc/hosts", "/etc/hostname", "/etc/resolv.conf", "/.dockerenv")
# Names in every container's /etc/hosts, which come before DNS.
_HOSTS_FILE: Final = frozenset(
    {"localhost", "ip6-localhost", "ip6-loopback", "ip6-localnet", "ip6-mcastprefix", "ip6-allnodes", "ip6-allrouters"}
)

_VARIABLE: Final = r"[^\s=\x00-\x1f\x7f]+\Z"
_PLATFORM: Final = r"(?a)[a-z0-9]+/[a-z0-9_]+(?:/[a-z0-9.]+)?\Z"
_HOST_WITH_PORT: Final = r"(?a)[^/:]+:\d+\Z"
_URL: Final = r"https?://[^\s/]+\S*\Z"
_EMAIL: Final = r"[^\s@]+@[^\s@]+\Z"
_REGISTRY_HOST: Final = r"(?a)(?:[a-z0-9-]+(?:\.[a-z0-9-]+)*|\[[0-9a-fA-F:]+\])(?::\d{1,5})?\Z"
_DOCKER_HUB_NAMES: Final = frozenset(
    {"index.docker.io", "registry-1.docker.io", "registry.docker.io", "hub.docker.com"}
)
# Docker's reference grammar: [registry[:port]/]path[:tag][@digest], the path in lower case.
_REPOSITORY: Final = (
    r"(?:(?:[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)*(?::\d{1,5})?|\[[0-9a-fA-F:]+\](?::\d{1,5})?)/)?"
    r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*)*"
)
_IMAGE: Final = rf"(?a){_REPOSITORY}(?::\w[\w.-]{{0,127}})?(?:@sha256:[0-9a-f]{{64}})?\Z"
_REPOSITORY_ALONE: Final = rf"(?a){_REPOSITORY}\Z"


class Unfit(ValueError):
    """Invalid value. The message continues the sentence after the path: "must be true or false, not 3"."""


def kind_of(value: object) -> str:
    """Describe the type of a value for a message: "a list"."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Number):
        return f"the number {value[:20]}"
    if isinstance(value, str):
        return "text"
    return "a list" if isinstance(value, list) else "a map"


def text(value: object) -> str:
    """Parse text; a number counts as its source text."""
    if isinstance(value, bool):
        word = kind_of(value)
        raise Unfit(f'must be text, not a boolean: write "{word}" with quotes')
    if not isinstance(value, str):
        raise Unfit("has no value: set a value or remove the key" if value is None else _not("text", value))
    if len(value) > MAX_TEXT or len(value.encode()) > MAX_TEXT:
        raise Unfit(f"is longer than {MAX_TEXT} bytes, the most that Linux passes to a program")
    return str(value)


def filled(value: object) -> str:
    """Parse text that must not be empty."""
    if not (result := text(value)):
        raise Unfit("must not be empty")
    return result


def variable_value(value: object) -> str:
    """Parse the value of a variable in ``env``; an empty value needs quotes."""
    if value is None:
        raise Unfit('has no value: write "" for an empty value')
    return text(value)


def variable_name(value: object) -> str:
    if not re.match(_VARIABLE, result := filled(value)):
        raise Unfit(f"{quoted(result)} is not a variable name: spaces and '=' are not allowed")
    if len(result.encode()) > MAX_VARIABLE_NAME:
        raise Unfit(f"is longer than {MAX_VARIABLE_NAME} bytes, the limit for the name of a variable")
    return result


def name(value: object) -> str:
    if not NAME.match(result := filled(value)):
        raise Unfit(f"{quoted(result)} is not a name: a name is {NAME_RULE}")
    return result


def service_name(value: object) -> str:
    """Parse a name by which other containers can find a service: it must not mean something else to a resolver."""
    result = name(value)
    if result.lower() in _HOSTS_FILE or result.lower().endswith(".localhost"):
        raise Unfit(f"{quoted(result)} means the container itself in every container: choose another name")
    if _is_ipv4(result):
        raise Unfit(f"{quoted(result)} is read as an IP address, not looked up: choose a name with a letter")
    if result.endswith("."):
        raise Unfit(f"{quoted(result)} is not a name in DNS: remove the dot at its end")
    return result


def _is_ipv4(written: str) -> bool:
    """Tell whether resolvers take ``written`` for an address; "42" and "0x7f.1" are addresses as well."""
    try:
        socket.inet_aton(written)
    except OSError:
        return False
    return True


def truth(value: object) -> bool:
    if not isinstance(value, bool):
        raise Unfit(f"must be true or false, not {shown(value)}")
    return value


def choice(*options: str) -> Callable[[object], str]:
    """Return a parser that accepts only ``options``."""

    def check(value: object) -> str:
        if isinstance(value, str) and value in options:
            return str(value)
        raise Unfit(f"must be {', '.join(options[:-1])} or {options[-1]}, not {shown(value)}")

    return check


def schema_version(value: object) -> int:
    if isinstance(value, Number) and value == "1":
        return 1
    raise Unfit(f"must be 1, the only schema version, not {shown(value)}")


def image(value: object) -> str:
    if len(result := filled(value)) > _MAX_REFERENCE or not re.match(_IMAGE, result):
        raise Unfit(
            f"{quoted(result)} is not an image: write it as redis:7-alpine or registry.example.com/team/app:1.2"
        )
    return result


def repository(value: object) -> str:
    if len(result := filled(value)) > _MAX_REFERENCE or not re.match(_REPOSITORY_ALONE, result):
        raise Unfit(f"{quoted(result)} is not a repository: write it as registry.example.com/team/app, without a tag")
    return result


def registry_host(value: object) -> str:
    result = filled(value)
    host = re.match(_REGISTRY_HOST, result) and ("." in result or ":" in result or result == "localhost")
    if not host or len(result) > _MAX_REFERENCE:
        raise Unfit(
            f"{quoted(result)} is not a registry: write it as the first part of an image name, such as "
            "registry.example.com or localhost:5000; docker.io for Docker Hub"
        )
    if result in _DOCKER_HUB_NAMES:
        raise Unfit(f"{quoted(result)} is Docker Hub: write it as docker.io")
    return result


def platform(value: object) -> str:
    if not re.match(_PLATFORM, result := filled(value)):
        raise Unfit(f"{quoted(result)} is not a platform: write it as linux/amd64")
    return result


def folder(value: object) -> str:
    if "://" in (result := filled(value)):
        raise Unfit(f"must be a folder, not the URL {quoted(result)}")
    return result


def url_path(value: object) -> str:
    """Parse the path of a URL such as ``/up``: printable ASCII without fragment."""
    result = filled(value)
    if not result.startswith("/"):
        raise Unfit(f"must begin with /: {quoted(result)}")
    if not (result.isascii() and result.isprintable()) or " " in result or "#" in result:
        raise Unfit(f"{quoted(result)} is not a URL path: percent-encode special characters")
    return result


def path_prefix(value: object) -> str:
    """Parse a path prefix in normal form: without ``.``, ``..``, ``//`` and ``%2F``."""
    if "?" in (result := url_path(value)):
        raise Unfit(f"must be a path without a query, not {quoted(result)}")
    if {".", ".."} & {*re.sub("(?i)%2e", ".", result).split("/")}:
        raise Unfit(f"{quoted(result)} contains . or .. segments: write the path without them")
    if "//" in result:
        raise Unfit(f"{quoted(result)} contains //: write a single /")
    if re.search(r"(?i)%2f|%5c|\\", result):
        raise Unfit(f"{quoted(result)} contains %2F, %5C or \\: routes cannot match such a path")
    return result


def host(value: object) -> str:
    """Parse a host name; returned in lower case."""
    result = filled(value).lower()
    if HOST.match(result):
        return result
    raise Unfit(f"{quoted(result)} {_why_no_host(result)}")


def _why_no_host(written: str) -> str:
    """Describe the problem of a host name, and a valid form."""
    if not written.isascii():
        return f"is not a DNS name{_in_dns(written)}"
    if "://" in written or "/" in written:
        return "is a URL: write only the host, without scheme and path"
    if _is_ipv6(written):
        return "is an IPv6 address, which cannot be a host of an ingress: write a name such as app.example.com"
    if re.match(_HOST_WITH_PORT, written):
        return f"must not contain a port: write {quoted(written.partition(':')[0])}"
    if "*" in written:
        return "is a wildcard, which is not supported: list every host, such as app.example.com"
    if written.endswith(".") and HOST.match(written[:-1]):
        return f"must not end with a dot: write {quoted(written[:-1])}"
    if "_" in written:
        return "must not contain an underscore: write - instead"
    return "is not a host name such as app.example.com: letters, digits and -, at most 63 per label and 253 in total"


def _in_dns(written: str) -> str:
    """Return ``: write "xn--…"``, or "" if there is no such form (RFC 3490)."""
    try:
        name = written.encode("idna").decode().lower()
    except UnicodeError:
        return ""
    return f": write {quoted(name)}" if HOST.match(name) else ""


def _is_ipv6(written: str) -> bool:
    try:
        return ipaddress.ip_address(written.strip("[]")).version == 6
    except ValueError:
        return False


def email(value: object) -> str:
    if not re.match(_EMAIL, result := filled(value)):
        raise Unfit(f"{quoted(result)} is not an e-mail address")
    return result


def url(value: object) -> str:
    if not re.match(_URL, result := filled(value)):
        raise Unfit(f"{quoted(result)} is not a URL that begins with https://")
    return result


def capability(value: object) -> str:
    """Parse a capability that a container may have on request."""
    result = filled(value)
    if result != "NET_RAW":
        form = "write it without CAP_" if result == "CAP_NET_RAW" else "NET_RAW is the only one that can be added"
        raise Unfit(f"{quoted(result)} is not a capability for containers: {form}")
    return result


def volume_source(value: object) -> str:
    """Parse the name of a volume; host paths are not accepted, because a service may run on any node."""
    result = filled(value)
    if "/" in result or "\\" in result or result.startswith((".", "~")):
        raise Unfit(
            f"{quoted(result)} is a host path, but only named volumes are supported: "
            "write a name such as app_data, or copy the files into the image"
        )
    return name(result)


def volume_target(value: object) -> str:
    """Parse an absolute path in the container, without ``.``, ``..`` and double slashes."""
    result = filled(value)
    if not result.startswith("/"):
        raise Unfit(f"must be an absolute path in the container, not {quoted(result)}")
    normal = normal_path(result)
    if normal == "/" or ".." in result.split("/") or ":" in result or not result.isprintable():
        raise Unfit(f"{quoted(result)} is not a valid mount path in the container")
    for folder_ in _KERNEL_FOLDERS:
        # A volume that shares memory between the containers of a service is sound.
        if _within(normal, folder_) and not _within(normal, "/dev/shm"):  # noqa: S108 (no temporary file)
            raise Unfit(f"{quoted(result)} belongs to the kernel in every container: mount the volume elsewhere")
    for file in _DOCKER_FILES:
        if _within(normal, file):
            raise Unfit(f"{quoted(result)} is a file that Docker provides in every container: mount it elsewhere")
    return normal


def normal_path(path: str) -> str:
    """Return the one spelling of an absolute path: ``/data`` for ``//data``, ``/data/`` and ``/data/.``."""
    return posixpath.normpath("/" + path.lstrip("/"))


def _within(path: str, folder_: str) -> bool:
    return path == folder_ or path.startswith(f"{folder_}/")


def _not(wanted: str, value: object) -> str:
    return f"must be {wanted}, not {kind_of(value)}"


def shown(value: object) -> str:
    if isinstance(value, str) and not isinstance(value, Number):
        return quoted(value)
    return kind_of(value)
