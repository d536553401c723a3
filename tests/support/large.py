"""What is too large to be held on its way: an engine that pours and counts, a caller who drinks when told to.

Both keep a checksum of each byte instead of the bytes. Engines listen at a path and callers have small buffers: over
TCP the kernel takes up to 33 MB for a reader that was quick once, and what lies there does not lie with the gateway.
"""

import asyncio
import contextlib
import hashlib
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from gateway.providers.base import Endpoint
from tests.support.house import STREAM_HEAD, Received, chunked, event

Kind = Literal["events", "length", "chunks"]
"""How an engine frames a long answer."""
DONE = b"data: [DONE]\n\n"
SMALL_BUFFER = 1 << 17
MB = 1 << 20


def piece(kind: Kind, number: int) -> bytes:
    """One of many, no two alike: what is lost, doubled or swapped is seen."""
    text = f"{number:08}" * 1000
    return event(text) if kind == "events" else text.encode() * 8


class Spring:
    """An engine's script: at least `total` bytes, as fast as they are taken."""

    def __init__(self, kind: Kind, total: int) -> None:
        self.kind = kind
        self.total = total
        self.poured = 0
        """Bytes of the answer that the engine could hand to its kernel."""
        self._digest = hashlib.sha256()

    @property
    def digest(self) -> str:
        return self._digest.hexdigest()

    async def __call__(
        self, request: Received | None, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        _make_small(writer, socket.SO_SNDBUF)
        pieces = -(-self.total // len(piece(self.kind, 0)))
        frame: Callable[[bytes], bytes] = chunked
        if self.kind == "events":
            writer.write(STREAM_HEAD)
        elif self.kind == "chunks":
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: x/x\r\nTransfer-Encoding: chunked\r\n\r\n")
        else:
            length = pieces * len(piece(self.kind, 0))
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: x/x\r\nContent-Length: %d\r\n\r\n" % length)
            frame = bytes
        for number in range(pieces):
            await self._pour(writer, piece(self.kind, number), frame)
        if self.kind == "events":
            await self._pour(writer, DONE, frame)
        if self.kind != "length":
            writer.write(b"0\r\n\r\n")

    async def _pour(self, writer: asyncio.StreamWriter, data: bytes, frame: Callable[[bytes], bytes]) -> None:
        self._digest.update(data)
        writer.write(frame(data))
        await writer.drain()
        self.poured += len(data)


class Drinker:
    """A caller on a connection of its own: takes a large answer, or sends a large body. `async with Drinker(port)`"""

    def __init__(self, port: int) -> None:
        self._port = port
        self._digest = hashlib.sha256()
        self.drunk = 0
        """Bytes of the answer's body, without framing and comments."""
        self.sent = 0
        self.is_whole = False
        """The answer ended as its framing had promised."""

    async def __aenter__(self) -> "Drinker":
        end = socket.socket()
        for buffer in (socket.SO_RCVBUF, socket.SO_SNDBUF):
            end.setsockopt(socket.SOL_SOCKET, buffer, SMALL_BUFFER)
        end.setblocking(False)
        await asyncio.get_running_loop().sock_connect(end, ("127.0.0.1", self._port))
        self._reader, self._writer = await asyncio.open_connection(sock=end, limit=8192)
        return self

    async def __aexit__(self, *error: object) -> None:
        self.leave()

    def leave(self) -> None:
        """As a process does that was killed."""
        self._writer.transport.abort()

    @property
    def digest(self) -> str:
        return self._digest.hexdigest()

    async def ask(self, request: bytes) -> None:
        """Send it, waiting for room."""
        self._writer.write(request)
        await self._writer.drain()

    async def pour(self, total: int) -> None:
        """An upload of so many bytes, as fast as they are taken. `sent` tells how far it is; the checksum is of it."""
        while self.sent < total:
            part = self.sent.to_bytes(8, "big") * 8192
            self._digest.update(part)
            await self.ask(part)
            self.sent += len(part)

    async def head(self) -> bytes:
        head = await self._reader.readuntil(b"\r\n\r\n")
        fields = dict(line.split(b": ", 1) for line in head.split(b"\r\n")[1:-2])
        self._left = int(fields[b"Content-Length"]) if b"Content-Length" in fields else None
        return head

    async def drink(self, most: int | None = None) -> None:
        """The body, or `most` bytes and a little more of it. Raises IncompleteReadError when it is cut."""
        stop = None if most is None else self.drunk + most
        while not self.is_whole and (stop is None or self.drunk < stop):
            if self._left is None:
                await self._drink_chunk()
            else:
                await self._drink_bytes()

    async def _drink_chunk(self) -> None:
        size = int(await self._reader.readuntil(b"\r\n"), 16)
        data = (await self._reader.readexactly(size + 2))[:-2]
        self.is_whole = size == 0
        if not data.startswith(b": "):  # heartbeats are ours
            self._take(data)

    async def _drink_bytes(self) -> None:
        data = await self._reader.readexactly(min(1 << 16, self._left))
        self._left -= len(data)
        self.is_whole = self._left == 0
        self._take(data)

    def _take(self, data: bytes) -> None:
        self.drunk += len(data)
        self._digest.update(data)


class Basin:
    """An engine that takes a body of known length only as far as it is told to. `async with Basin(path) as basin:`"""

    def __init__(self, path: Path) -> None:
        self.endpoint = Endpoint("http://localhost", socket=str(path))
        self.taken = 0
        """Bytes of the body that the engine has read."""
        self.left = asyncio.Event()
        """The gateway has ended the connection."""
        self.begun = asyncio.Event()
        self._digest = hashlib.sha256()
        self._wanted = 0.0
        self._more = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def digest(self) -> str:
        return self._digest.hexdigest()

    async def __aenter__(self) -> "Basin":
        self._server = await asyncio.start_unix_server(self._serve, self.endpoint.socket, limit=8192)
        return self

    async def __aexit__(self, *error: object) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def take(self, most: float = float("inf")) -> None:
        """From now on so many bytes more."""
        self._wanted = self.taken + most
        self._more.set()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            await self.fill(await reader.readuntil(b"\r\n\r\n"), reader, writer)

    async def fill(self, head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """From a request whose head was read already."""
        length = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
        self.begun.set()
        try:
            while self.taken < length:
                while self.taken >= self._wanted:
                    self._more.clear()
                    await self._more.wait()
                data = await reader.read(1 << 16)
                if not data:
                    break
                self.taken += len(data)
                self._digest.update(data)
            else:
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}")
        except ConnectionError:
            pass  # the gateway has gone
        finally:
            self.left.set()
            writer.close()


async def at_rest(count: Callable[[], int], quiet: float = 0.1, within: float = 10.0) -> int:
    """What a count says when it has not changed for `quiet` seconds."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + within
    known, since = count(), loop.time()
    while (now := loop.time()) - since < quiet:
        assert now < deadline, f"it goes on: {known}"
        await asyncio.sleep(0.01)
        if (said := count()) != known:
            known, since = said, now
    return known


def _make_small(writer: asyncio.StreamWriter, which: int) -> None:
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, which, SMALL_BUFFER)
