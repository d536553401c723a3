"""Engines that begin to answer before they have read all of a request: what is left of it still goes to them when the
answer is a good one, and no longer when it is a refusal (RFC 9112, 9.3 and 9.5)."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest

from gateway.providers.base import Endpoint
from tests.support.engine_end import until
from tests.support.house import CHAT, KEY, STREAM_HEAD, Front, Sizes, StubProvider, chunked, event, standing
from tests.support.loops import BOTH_LOOPS
from tests.support.wire import talk

pytestmark = BOTH_LOOPS
SIZE = 8 << 20
"""Bytes of a body: more than any kernel holds for an engine that does not read."""
LARGE = CHAT | {"messages": [{"role": "user", "content": "x" * SIZE}]}
SPOOLED = CHAT | {"messages": [{"role": "user", "content": "x" * 1000}] * (SIZE // 1000)}
"""Of so many parts that it is kept in a file in memory, and read from it while it is sent."""
PART = b'--x\r\nContent-Disposition: form-data; name="%b"\r\n\r\n%b\r\n'
FORM = PART % (b"model", b"served") + PART % (b'file"; filename="a.wav', b"x" * SIZE) + b"--x--\r\n"


class HastyEngine:
    """Reads the head, says `first`, reads the rest, says `then`."""

    def __init__(self, first: bytes, then: bytes) -> None:
        self._first = first
        self._then = then
        self.read = 0
        self.left = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            length = next(int(row[15:]) for row in head.split(b"\r\n") if row.lower().startswith(b"content-length:"))
            writer.write(self._first)
            await asyncio.sleep(0.05)
            while self.read < length and (data := await reader.read(1 << 20)):
                self.read += len(data)
            writer.write(self._then)
            self.left += not await reader.read(1)
        except ConnectionError:
            self.left += 1
        finally:
            writer.close()


@contextlib.asynccontextmanager
async def in_front_of(engine: HastyEngine) -> AsyncIterator[Front]:
    server = await asyncio.start_server(engine.serve, "127.0.0.1", 0, limit=1 << 20)
    try:
        endpoint = Endpoint(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
        async with standing(StubProvider(endpoint), Sizes(body_limit=2 * SIZE, answer_time=3, gap=3)) as front:
            yield front
            await until(lambda: engine.left)
    finally:
        server.close()


def request(front: Front, kind: str) -> bytes:
    if kind == "spooled":
        return front.request(SPOOLED)
    if kind != "multipart":
        return front.request(LARGE | ({"stream": True} if kind == "stream" else {}))
    head = f"POST /v1/audio/transcriptions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\nConnection: close\r\n"
    length = f"Content-Type: multipart/form-data; boundary=x\r\nContent-Length: {len(FORM)}\r\n\r\n"
    return (head + length).encode() + FORM


@pytest.mark.parametrize("kind", ["JSON", "spooled", "multipart", "stream"])
async def test_an_engine_that_begins_a_good_answer_early_still_gets_the_rest_of_the_request(kind: str) -> None:
    if kind == "stream":
        first, then = STREAM_HEAD + chunked(event("o")), chunked(event("k", "stop")) + b"0\r\n\r\n"
    else:
        first, then = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\no", b"k"
    engine = HastyEngine(first, then)
    async with in_front_of(engine) as front:
        heard = await talk(front.port, request(front, kind))
        assert heard.only.status == 200 and engine.read > SIZE
        if kind == "stream":
            assert b'"o"' in heard.only.body and b'"k"' in heard.only.body and b"error" not in heard.only.body
        else:
            assert heard.only.body == b"ok"


@pytest.mark.parametrize("kind", ["JSON", "multipart", "stream"])
async def test_an_engine_that_refuses_early_is_sent_no_more(kind: str) -> None:
    refusal = b"HTTP/1.1 413 X\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"
    engine = HastyEngine(refusal, b"")
    async with in_front_of(engine) as front:
        heard = await talk(front.port, request(front, kind))
        assert heard.only.status == 413
        await until(lambda: engine.left)
        assert engine.read < SIZE
