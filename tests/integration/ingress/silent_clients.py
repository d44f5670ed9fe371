"""Many connections that send nothing: a process of its own for each share, because of limits of open files.

``python -m tests.integration.ingress.silent_clients <source address> <port> <count>`` writes ``open`` once all
connections are asked for, and ``closed`` once the server has ended each of them. It ends with its stdin.
"""

from __future__ import annotations

import contextlib
import select
import selectors
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack

#: Connections of one process, and so of one source address: fewer than there are ports.
SHARE = 5000


class SilentClients:
    """Connections opened by other processes."""

    def __init__(self, processes: list[subprocess.Popen[str]]) -> None:
        self._processes = processes

    def wait(self, word: str) -> None:
        """Wait until all processes have printed ``word``."""
        for process in self._processes:
            assert process.stdout is not None
            assert process.stdout.readline().strip() == word


@contextlib.contextmanager
def silent_clients(port: int, count: int) -> Iterator[SilentClients]:
    """Open ``count`` connections to ``port``, a multiple of :data:`SHARE`; they end with the context."""
    assert count % SHARE == 0
    with ExitStack() as stack:
        processes = []
        for index in range(count // SHARE):
            command = [sys.executable, "-m", __name__, f"127.0.1.{index + 1}", str(port), str(SHARE)]
            process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            # Leaving the context of a process closes its stdin and waits for its end.
            processes.append(stack.enter_context(process))
        yield SilentClients(processes)


def _say(word: str) -> None:
    sys.stdout.write(f"{word}\n")
    sys.stdout.flush()


def main(source: str, port: int, count: int) -> None:
    """Open the connections, tell of them, and wait until they or stdin are closed."""
    with selectors.EpollSelector() as selector, ExitStack() as stack:
        for _ in range(count):
            client = stack.enter_context(socket.socket())
            client.setblocking(False)
            client.bind((source, 0))
            with contextlib.suppress(BlockingIOError):
                client.connect(("127.0.0.1", port))
            selector.register(client, selectors.EVENT_READ)
        _say("open")
        selector.register(sys.stdin, selectors.EVENT_READ)
        while len(selector.get_map()) > 1:
            for key, _ in selector.select():
                if key.fileobj is sys.stdin:
                    return
                selector.unregister(key.fileobj)
        _say("closed")
        select.select([sys.stdin], [], [])


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
