"""Gate between an agent and its Docker Engine: holds back a call, so that a test can end the agent at exactly that
moment.
"""

from __future__ import annotations

import socket
import threading
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Final, Self

ENGINE: Final = "/var/run/docker.sock"


class Gate:
    """Socket in front of the engine that stops at the first request with ``stop_at`` in it.

    ``forward``: the request reaches the engine, and only the answer is held back; otherwise nothing is sent.
    ``reached`` is set at that moment; ``lift`` closes the connection and lets everything through.
    """

    def __init__(self, folder: Path, stop_at: bytes, *, forward: bool) -> None:
        self.reached = threading.Event()
        self._stop_at = stop_at
        self._forward = forward
        self._lifted = threading.Event()
        self._late = False
        self._path = folder / "gate.sock"
        self._server = socket.socket(socket.AF_UNIX)
        self._server.bind(str(self._path))
        self._server.listen(64)
        self._answered = threading.Event()
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.lift()
        self._server.close()

    @property
    def host(self) -> str:
        return f"unix://{self._path}"

    def wait(self) -> None:
        """Return once the request has come and, if forwarded, the engine has answered."""
        assert self.reached.wait(30)
        assert not self._forward or self._answered.wait(30)

    def lift(self, *, late: bool = False) -> None:
        """Let everything through. ``late``: first send the held-back request to the engine, although the caller is
        gone.
        """
        self._late = late
        self._lifted.set()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client = self._server.accept()[0]
                engine = socket.socket(socket.AF_UNIX)
                engine.connect(ENGINE)
                held = threading.Event()
                threading.Thread(target=self._requests, args=(client, engine, held), daemon=True).start()
                threading.Thread(target=self._answers, args=(client, engine, held), daemon=True).start()

    def _requests(self, client: socket.socket, engine: socket.socket, held: threading.Event) -> None:
        with suppress(OSError):
            while content := client.recv(1 << 16):
                if self._stop_at in content.split(b"\r\n", 1)[0] and not self.reached.is_set():
                    held.set()
                    self.reached.set()
                    if not self._forward:
                        self._lifted.wait()
                        if self._late:
                            engine.sendall(content)
                            engine.recv(1 << 16)
                        break
                engine.sendall(content)
        _close(client, engine)

    def _answers(self, client: socket.socket, engine: socket.socket, held: threading.Event) -> None:
        with suppress(OSError):
            while content := engine.recv(1 << 16):
                if held.is_set() and self._forward:
                    self._answered.set()
                    self._lifted.wait()
                    break
                client.sendall(content)
        _close(client, engine)


def _close(*sockets: socket.socket) -> None:
    for each in sockets:
        with suppress(OSError):
            each.shutdown(socket.SHUT_RDWR)
        each.close()
