"""Size of what a container is started with: Linux limits the words and variables of a program in total. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from devopsellence.age import plaintext_size
from devopsellence.api.v1.stored_pb2 import Secret
from devopsellence.api.v1.workload_pb2 import Service
from devopsellence.cli.output import CliError
from devopsellence.cli.secrets.records import SecretId

#: A quarter of the stack limit (8 MiB) in Docker's containers, without room for the variables of image and engine.
MAX_START_BYTES: Final = (2 << 20) - (4 << 10)
# Of each word or variable: the zero at its end, and a pointer.
_OVERHEAD: Final = 1 + 8


def too_large(services: Iterable[Service], secrets: Mapping[SecretId, Secret]) -> CliError | None:
    """Return an error for the first service that Linux would not start with its pinned secrets; None for none."""
    for service in services:
        if (size := start_bytes(service, secrets)) > MAX_START_BYTES:
            message = (
                f'service "{service.name}" cannot start: its command, args, env and secrets have {size} bytes, and '
                f"Linux passes at most {MAX_START_BYTES} to a program; put large values into files of the image"
            )
            return CliError("start_too_large", message, exit_code=2)
    return None


def start_bytes(service: Service, secrets: Mapping[SecretId, Secret]) -> int:
    """Return the bytes that Linux counts for the words and variables of a service with pinned secrets."""
    variables = {name: len(value.encode()) for name, value in service.env.items()}
    for ref in service.secret_refs:
        versions = secrets[SecretId(service.name, ref.secret)].versions
        variables[ref.name] = next((plaintext_size(kept.age) for kept in versions if kept.version == ref.version), 0)
    words = sum(len(word.encode()) + _OVERHEAD for word in (*service.command, *service.args))
    return words + sum(len(name.encode()) + 1 + size + _OVERHEAD for name, size in variables.items())
