"""A caller made of bytes: what it sends, and when, is decided here; what it hears is all that came, and how it ended.

Plain sockets instead of asyncio's streams: after a reset, a stream forgets what had come before it.
"""

import asyncio
import contextlib
import json
import re
import socket
import struct
from dataclasses import dataclass
from typing import Any, Final

REQUEST_ID: Final = re.compile(r"[A-Za-z0-9-]{16,64}")
"""What `X-Request-Id` of ours may look like."""

FIN: Final = "fin"
"""A step: we have nothing more to say."""
RESET: Final = "reset"
"""A step: we are gone, as a process is that was killed."""

ANSWERED: Final = "answered"
"""A step: something was heard."""

Step = bytes | float | str
"""Bytes are sent, a number is waited for (seconds)."""


@dataclass(frozen=True)
class Answer:
    """One answer as it came."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes

    def header(self, name: str) -> str | None:
        return next((value for key, value in self.headers if key.lower() == name.lower()), None)

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(frozen=True)
class Heard:
    """All that came back on one connection."""

    data: bytes
    closed: bool
    """Whether the other side ended it; False when patience did."""
    took: float

    @property
    def answers(self) -> list[Answer]:
        """Each answer in order, also `100 Continue`. Fails on bytes that are no answer."""
        rest, found = self.data, []
        while rest:
            head, blank, rest = rest.partition(b"\r\n\r\n")
            assert blank and head.startswith(b"HTTP/1.1 "), f"no answer: {head[:200]!r}"
            line, *lines = head.decode("latin-1").split("\r\n")
            headers = [(name, value.strip()) for name, _, value in (text.partition(":") for text in lines)]
            fields = {name.lower(): value for name, value in headers}
            status = int(line.split(" ")[1])
            if status < 200 or status == 204:
                body = b""
            elif "content-length" in fields:
                length = int(fields["content-length"])
                body, rest = rest[:length], rest[length:]
            elif fields.get("transfer-encoding") == "chunked":
                body, rest = _unchunked(rest)
            else:
                body, rest = rest, b""
            found.append(Answer(status, headers, body))
        return found

    @property
    def only(self) -> Answer:
        """The one answer."""
        answers = self.answers
        assert len(answers) == 1, [answer.status for answer in answers]
        return answers[0]

    @property
    def statuses(self) -> list[int]:
        return [answer.status for answer in self.answers]


def _unchunked(data: bytes) -> tuple[bytes, bytes]:
    whole = b""
    while True:
        size, line, data = data.partition(b"\r\n")
        if not line:
            return whole, b""  # it was cut
        length = int(size, 16)
        if length == 0:
            return whole, data.removeprefix(b"\r\n")
        whole, data = whole + data[:length], data[length + 2 :]


class Caller:
    """One connection. `async with Caller(port) as caller:`"""

    def __init__(self, port: int, *, receive_buffer: int | None = None) -> None:
        self._port = port
        self._socket = socket.socket()
        if receive_buffer is not None:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self._socket.setblocking(False)
        self._heard = bytearray()

    async def __aenter__(self) -> "Caller":
        await asyncio.get_running_loop().sock_connect(self._socket, ("127.0.0.1", self._port))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return self

    async def __aexit__(self, *error: object) -> None:
        self._socket.close()

    @property
    def has_heard(self) -> bool:
        return bool(self._heard)

    async def send(self, data: bytes) -> bool:
        """Whether the other side took it all."""
        try:
            await asyncio.get_running_loop().sock_sendall(self._socket, data)
        except ConnectionError:
            return False
        return True

    async def hear(self, within: float = 10.0, until: bytes | None = None) -> Heard:
        """Listen until the connection ends, `until` came, or patience is over."""
        loop = asyncio.get_running_loop()
        began, closed = loop.time(), False
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within):
                while until is None or until not in self._heard:
                    try:
                        data = await loop.sock_recv(self._socket, 1 << 18)
                    except ConnectionError:
                        data = b""
                    if not data:
                        closed = True
                        break
                    self._heard += data
        return Heard(bytes(self._heard), closed, loop.time() - began)

    def end(self) -> None:
        self._socket.shutdown(socket.SHUT_WR)

    def vanish(self) -> None:
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._socket.close()


async def talk(port: int, *steps: Step, within: float = 10.0) -> Heard:
    """Go through the steps on a connection of its own, listening all the while."""
    async with Caller(port) as caller:
        hearing = asyncio.ensure_future(caller.hear(within))
        try:
            for step in steps:
                if isinstance(step, bytes):
                    if not await caller.send(step):
                        break
                elif isinstance(step, float):
                    await asyncio.wait({hearing}, timeout=step)
                elif step == ANSWERED:
                    while not caller.has_heard and not hearing.done():
                        await asyncio.sleep(0.005)
                elif step == FIN:
                    with contextlib.suppress(OSError):
                        caller.end()
                else:
                    hearing.cancel()
                    await asyncio.wait({hearing})
                    caller.vanish()
                    return Heard(b"", True, 0.0)
            return await hearing
        finally:
            hearing.cancel()


async def get_page(port: int, path: str, headers: str = "") -> tuple[int, str, bytes]:
    """(status, head, body) of one GET on a connection of its own."""
    request = f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\n{headers}\r\n".encode()
    head, _, body = (await talk(port, request)).data.partition(b"\r\n\r\n")
    return int(head.split()[1]), head.decode("latin-1"), body
