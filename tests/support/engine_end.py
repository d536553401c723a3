"""An engine that is one plain socket in a test's hand: each byte, and each end, comes when the test says so.

Nothing runs between two lines of a test: what an engine does while the loop does not look (it closed a moment ago, and
nobody was told yet) is written down as it happens.
"""

import asyncio
import contextlib
import select
import socket
import struct
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Literal

from gateway.providers.base import Endpoint
from gateway.proxy.connection import Connection

Over = Literal["tcp", "unix"]
PATIENCE = 5.0
"""Seconds until a test gives up. Nothing waits this long when it works."""


async def until(holds: Callable[[], object], within: float = PATIENCE) -> None:
    loop = asyncio.get_running_loop()
    deadline = loop.time() + within
    while not holds():
        assert loop.time() < deadline, "it did not come"
        await asyncio.sleep(0.001)


class EngineEnd:
    """The other end of one connection."""

    def __init__(self, end: socket.socket) -> None:
        self.socket = end
        self.socket.settimeout(PATIENCE)

    def say(self, data: bytes) -> None:
        self.socket.sendall(data)

    async def hear(self, length: int) -> bytes:
        """So many bytes of what was asked; fewer only when there is an end."""
        heard = b""
        while len(heard) < length and (data := await self._read(length - len(heard))):
            heard += data
        return heard

    async def _read(self, most: int) -> bytes:
        await until(self.has_more)
        return self.socket.recv(most)

    def has_more(self) -> bool:
        """Whether bytes, or an end, are there to be read."""
        return bool(select.select([self.socket], [], [], 0)[0])

    async def is_left(self) -> bool:
        """Whether we have closed: by an end, or by a reset."""
        try:
            return await self._read(1) == b""
        except ConnectionError:
            return True

    def end(self) -> None:
        """It will say no more; it still hears."""
        self.socket.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """As a process that ends: by an end if it has read everything, else by a reset."""
        self.socket.close()

    def reset(self) -> None:
        """Close by a reset, over TCP."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()


@contextlib.asynccontextmanager
async def connected(over: Over = "tcp", *, buffer: int | None = None) -> AsyncIterator[tuple[Connection, EngineEnd]]:
    """A fresh connection and its engine. `buffer`: bytes that the engine's kernel takes before somebody reads."""
    loop = asyncio.get_running_loop()
    connection = Connection(loop, over)
    ours: socket.socket
    if over == "unix":
        ours, theirs = socket.socketpair()
    else:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            if buffer is not None:
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
            ours = socket.create_connection(listener.getsockname())
            theirs = listener.accept()[0]
    ours.setblocking(False)
    engine = EngineEnd(theirs)
    try:
        if over == "unix":
            await loop.create_unix_connection(lambda: connection, sock=ours)
        else:
            await loop.create_connection(lambda: connection, sock=ours)
        yield connection, engine
    finally:
        connection.abort()
        engine.close()
        await until(lambda: connection.is_lost)


@contextlib.contextmanager
def full() -> Iterator[Endpoint]:
    """Somebody listens, and nobody takes what comes: the line of those who want to connect is full."""
    with contextlib.ExitStack() as all_of_them:
        listener = all_of_them.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        for _ in range(3):
            waiting = all_of_them.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(listener.getsockname())
        yield Endpoint(f"http://127.0.0.1:{listener.getsockname()[1]}")
