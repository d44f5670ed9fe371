"""Logins to image registries, as releases and assignments name them. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final, TypeAlias

from devopsellence.api.v1.stored_pb2 import Assignment, Registry, RegistryLogin, Release
from devopsellence.api.v1.workload_pb2 import Service

DOCKER_HUB: Final = "docker.io"
#: User name with the name and version of a password: for the repository of the app image, or for any of a host's.
Login: TypeAlias = Registry | RegistryLogin


def registry_host(name: str) -> str:
    """Return the registry's host of an image or repository name, such as ``registry.example.com:5000``.

    As Docker reads a name: the first part is a host if it has a dot or a port, or is ``localhost``; otherwise the image
    is on Docker Hub.
    """
    first, slash, _ = name.partition("/")
    is_host = slash and ("." in first or ":" in first or first == "localhost" or first != first.lower())
    return DOCKER_HUB if not is_host or first == f"index.{DOCKER_HUB}" else first


def logins(message: Release | Assignment) -> list[Login]:
    """Return the logins that ``message`` names, that of the app image's repository first."""
    own = [message.registry] if message.registry.password_secret else []
    return [*own, *message.registry_logins]


def login_for(repository: str, among: Iterable[Login]) -> Login | None:
    """Return the login to pull from ``repository``: that of the repository itself, else that of its host."""
    host = registry_host(repository)
    exact = (login for login in among if isinstance(login, Registry) and login.repository == repository)
    return next(exact, None) or next(
        (login for login in among if isinstance(login, RegistryLogin) and login.host == host), None
    )


def pull_login(service: Service, among: Sequence[Login], app_repository: str) -> Login | None:
    """Return the login that a node needs to pull the image of ``service``; None for none.

    ``app_repository`` is the repository of the app image, whose name is not known before the build; "" for none.
    """
    image = service.image
    if image.pinned.startswith("sha256:"):  # an image id, which no registry knows
        return None
    name = image.pinned or image.reference or (app_repository if image.app else "")
    return login_for(_repository(name), among) if name else None


def _repository(image: str) -> str:
    name = image.partition("@")[0]
    head, colon, tag = name.rpartition(":")
    return head if colon and "/" not in tag else name
