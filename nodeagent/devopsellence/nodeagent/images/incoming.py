"""Archive of an image while it arrives from a peer: bounded in size, in time and by the free space.

A peer can be hostile: send more than it announced, nothing, or next to nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Final

import grpc.aio

#: Longest wait for the first piece: the peer may serve others first, and its engine writes the archive before it sends.
TURN_SECONDS: Final = 600.0
#: Longest wait for another piece.
SILENCE_SECONDS: Final = 60.0
#: Least pace of a peer, in bytes per second of waiting, after the first ``SILENCE_SECONDS``.
LEAST_PACE: Final = 32 * 1024
#: Limit of an archive, as a multiple of the announced size and in addition to it: the size is that of the content, and
#: an archive adds up to 2.5 KiB per file.
SIZE_FACTOR: Final = 4
SIZE_ADDITION: Final = 1 << 30
#: Bytes from one check of the free space to the next.
_CHECK_BYTES: Final = 64 << 20


class PeerFailed(Exception):
    """The peer does not provide the image; the message has the reason."""


class IncomingArchive:
    """Pieces of an archive, read from the call to a peer. Lives on the event loop.

    ``size``: announced by the peer. ``report`` is called with the number of bytes after each piece, ``check_room`` now
    and then; what it raises ends the transfer.
    """

    def __init__(
        self, call: Any, size: int, report: Callable[[int], None], check_room: Callable[[], Awaitable[None]]
    ) -> None:
        self.count = 0
        self._call = call
        self._limit = SIZE_FACTOR * size + SIZE_ADDITION
        self._size = size
        self._report = report
        self._check_room = check_room
        self._checked = 0
        self._waited = 0.0

    async def first_piece(self) -> bytes:
        """Return the first piece, once it is this node's turn. Otherwise as :meth:`next_piece`."""
        return await self._piece(TURN_SECONDS)

    async def next_piece(self) -> bytes:
        """Return the next piece; empty at the end.

        Raises:
            PeerFailed: the peer sends too much, too little or too slowly.
            grpc.aio.AioRpcError: the transfer broke off.
        """
        piece = await self._piece(SILENCE_SECONDS)
        if self._waited > SILENCE_SECONDS + self.count / LEAST_PACE:
            raise PeerFailed(f"it is too slow: {self.count} bytes in {self._waited:.0f} s")
        return piece

    async def _piece(self, seconds: float) -> bytes:
        loop = asyncio.get_running_loop()
        began = loop.time()
        try:
            async with asyncio.timeout(seconds):
                part = await self._call.read()
        except TimeoutError as error:
            raise PeerFailed(f"it has sent nothing for {seconds:.0f} s") from error
        # Time in which this node does not read is not the peer's, nor is the wait for its turn.
        self._waited += loop.time() - began if self.count else 0.0
        if part is grpc.aio.EOF:
            return b""
        if not part.data:
            raise PeerFailed("it sent an empty piece")
        self.count += len(part.data)
        if self.count > self._limit:
            raise PeerFailed(f"it sent {self.count} bytes for an image of {self._size} bytes")
        if self.count >= self._checked + _CHECK_BYTES:
            self._checked = self.count
            await self._check_room()
        self._report(self.count)
        return bytes(part.data)
