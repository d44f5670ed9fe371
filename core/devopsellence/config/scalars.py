"""What one value may be: each function takes a plain value and returns what it means.

They raise :class:`Unfit` for anything else. Units are those of the Compose file format where it has the field.
"""

from __future__ import annotations

import ipaddress
import posixpath
import re
from collections.abc import Callable
from typing import Final

from devopsellence.config.problems import quoted
from devopsellence.config.yaml_tree import Number
from devopsellence.names import HOST, NAME, NAME_RULE

# The longest argument or variable that Linux passes to a program (MAX_ARG_STRLEN), less its end.
MAX_TEXT: Final = (128 << 10) - 1
_MAX_REFERENCE: Final = 512

_VARIABLE: Final = r"[^\s=\x00-\x1f\x7f]+\Z"
_PLATFORM: Final = r"(?a)[a-z0-9]+/[a-z0-9_]+(?:/[a-z0-9.]+)?\Z"
_HOST_WITH_PORT: Final = r"(?a)[^/:]+:\d+\Z"
_URL: Final = r"https?://[^\s/]+\S*\Z"
_EMAIL: Final = r"[^\s@]+@[^\s@]+\Z"
# Docker's reference grammar: [registry[:port]/]path[:tag][@digest], the path in lower case.
_REPOSITORY: Final = (
    r"(?:(?:[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)*(?::\d{1,5})?|\[[0-9a-fA-F:]+\](?::\d{1,5})?)/)?"
    r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*)*"
)
_IMAGE: Final = rf"(?a){_REPOSITORY}(?::\w[\w.-]{{0,127}})?(?:@sha256:[0-9a-f]{{64}})?\Z"
_REPOSITORY_ALONE: Final = rf"(?a){_REPOSITORY}\Z"


class Unfit(ValueError):
    """The value is none of these. The message goes on where the value's path ends: "must be true or false, not 3"."""


def kind_of(value: object) -> str:
    """What a value is, for a message: "a list"."""
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
    """Text, or a number's source text."""
    if isinstance(value, bool):
        word = kind_of(value)
        raise Unfit(f'must be text, and {word} without quotes is not: write "{word}"')
    if not isinstance(value, str):
        raise Unfit("has no value: give it one, or leave it out" if value is None else _not("text", value))
    if len(value) > MAX_TEXT or len(value.encode()) > MAX_TEXT:
        raise Unfit(f"is longer than {MAX_TEXT} bytes, the most that Linux passes to a program")
    return str(value)


def filled(value: object) -> str:
    """Text that is not empty."""
    if not (result := text(value)):
        raise Unfit("must not be empty")
    return result


def variable_value(value: object) -> str:
    """What a variable in ``env`` is set to; may be empty, but must be written as such."""
    if value is None:
        raise Unfit('has no value: write "" for an empty one')
    return text(value)


def variable_name(value: object) -> str:
    if not re.match(_VARIABLE, result := filled(value)):
        raise Unfit(f"{quoted(result)} is not a variable's name: it may hold no space and no '='")
    return result


def name(value: object) -> str:
    if not NAME.match(result := filled(value)):
        raise Unfit(f"{quoted(result)} is not a name: a name is {NAME_RULE}")
    return result


def truth(value: object) -> bool:
    if not isinstance(value, bool):
        raise Unfit(f"must be true or false, not {shown(value)}")
    return value


def choice(*options: str) -> Callable[[object], str]:
    """One of a few words."""

    def check(value: object) -> str:
        if isinstance(value, str) and value in options:
            return str(value)
        raise Unfit(f"must be {', '.join(options[:-1])} or {options[-1]}, not {shown(value)}")

    return check


def schema_version(value: object) -> int:
    if isinstance(value, Number) and value == "1":
        return 1
    raise Unfit(f"must be 1, the only version that there is, not {shown(value)}")


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


def platform(value: object) -> str:
    if not re.match(_PLATFORM, result := filled(value)):
        raise Unfit(f"{quoted(result)} is not a platform: write it as linux/amd64")
    return result


def folder(value: object) -> str:
    if "://" in (result := filled(value)):
        raise Unfit(f"must be a folder, not the address {quoted(result)}")
    return result


def url_path(value: object) -> str:
    """The path of a URL, as ``/up``: printable ASCII, no query."""
    result = filled(value)
    if not result.startswith("/"):
        raise Unfit(f"must begin with /, not be {quoted(result)}")
    if not (result.isascii() and result.isprintable()) or " " in result or "#" in result:
        raise Unfit(f"{quoted(result)} is not the path of a URL: percent-encode what is not plain in one")
    return result


def path_prefix(value: object) -> str:
    """What a path begins with, in the one way that a router writes it: without ``.``, ``..``, ``//`` and ``%2F``."""
    if "?" in (result := url_path(value)):
        raise Unfit(f"must be a path without a query, not {quoted(result)}")
    if {".", ".."} & {*re.sub("(?i)%2e", ".", result).split("/")}:
        raise Unfit(f"{quoted(result)} holds a . or .. as a step: write where it leads")
    if "//" in result:
        raise Unfit(f"{quoted(result)} holds //: write one /")
    if re.search(r"(?i)%2f|%5c|\\", result):
        raise Unfit(f"{quoted(result)} holds a slash that is none (%2F, %5C or \\): no request can be told by it")
    return result


def host(value: object) -> str:
    """A host's name in lower case."""
    result = filled(value).lower()
    if HOST.match(result):
        return result
    raise Unfit(f"{quoted(result)} {_why_no_host(result)}")


def _why_no_host(written: str) -> str:
    """What is wrong with a host's name, and how to write it."""
    if not written.isascii():
        return f"is not as DNS has it{_in_dns(written)}"
    if "://" in written or "/" in written:
        return "is an address: write the host alone, without scheme and path"
    if _is_ipv6(written):
        return "is an IPv6 address, which cannot be a host: write a name such as app.example.com"
    if re.match(_HOST_WITH_PORT, written):
        return f"has a port, which is not the ingress's to say: write {quoted(written.partition(':')[0])}"
    if "*" in written:
        return "is a wildcard, and hosts are named one by one: write each, such as app.example.com"
    if written.endswith(".") and HOST.match(written[:-1]):
        return f"ends with a dot, which no browser sends: write {quoted(written[:-1])}"
    if "_" in written:
        return "has an underscore, which no host's name may have: write - instead"
    return "is not a host name such as app.example.com: letters, digits and -, in labels of at most 63, 253 in all"


def _in_dns(written: str) -> str:
    """``: write "xn--…"``, where there is such a form (RFC 3490)."""
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
        raise Unfit(f"{quoted(result)} is not an address that begins with https://")
    return result


def volume_source(value: object) -> str:
    """A named volume; a path on the host is not accepted, because a service may run on any node."""
    result = filled(value)
    if "/" in result or "\\" in result or result.startswith((".", "~")):
        raise Unfit(
            f"{quoted(result)} is a path on the host; only named volumes are mounted: "
            "write a name such as app_data, or copy the files into the image"
        )
    return name(result)


def volume_target(value: object) -> str:
    """An absolute path in the container, without ``.``, ``..`` and doubled slashes."""
    result = filled(value)
    if not result.startswith("/"):
        raise Unfit(f"must be an absolute path in the container, not {quoted(result)}")
    normal = posixpath.normpath(result.replace("//", "/")).replace("//", "/")
    if normal == "/" or ".." in result.split("/") or ":" in result or not result.isprintable():
        raise Unfit(f"{quoted(result)} is not a path in the container that a volume can be mounted at")
    return normal


def _not(wanted: str, value: object) -> str:
    return f"must be {wanted}, not {kind_of(value)}"


def shown(value: object) -> str:
    if isinstance(value, str) and not isinstance(value, Number):
        return quoted(value)
    return kind_of(value)
