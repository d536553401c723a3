"""Bodies that stream through: nothing of them is held, and a slow engine slows the caller."""

import asyncio

import pytest

from gateway.providers.base import Endpoint, Ready
from tests.support.house import KEY, answer, house

SIZE = 64 << 20


def head(port: int, length: int, extra: str = "") -> bytes:
    return (
        f"POST /v1/audio/transcriptions HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nAuthorization: Bearer {KEY}\r\n"
        f"Content-Type: multipart/form-data; boundary=x\r\nContent-Length: {length}\r\nConnection: close\r\n{extra}\r\n"
    ).encode()


class Upload:
    """SIZE bytes, as fast as they are taken, and how many were."""

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self._writer = writer
        self.sent = 0

    async def run(self) -> None:
        while self.sent < SIZE:
            self._writer.write(bytes(1 << 16))
            await self._writer.drain()
            self.sent += 1 << 16


async def test_a_multipart_body_arrives_as_it_was_sent() -> None:
    """Its boundary and every byte of it; never parsed, so never changed."""
    body = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\n' + bytes(range(256)) * 400
    body += b"\r\n--x--\r\n"
    async with house(script=answer({"text": "hello"})) as h:
        reply = await h.raw(head(h.port, len(body)) + body)
        assert b'{"text": "hello"}' in reply
        seen = h.engine.received[0]
        assert seen.body == body
        assert seen.header("Content-Type") == ["multipart/form-data; boundary=x"]


async def test_a_body_waits_at_the_caller_until_the_engine_is_there() -> None:
    """Held without being read: 64 MiB wait in no memory of ours."""
    async with house(ready_at_once=False, body_limit=SIZE, hold_max=20) as h:
        reader, writer = await asyncio.open_connection("127.0.0.1", h.port)
        writer.write(head(h.port, SIZE))
        upload = Upload(writer)
        uploading = asyncio.create_task(upload.run())
        await h.until(lambda: h.conductor.snapshot().waiting == 1)
        await asyncio.sleep(0.3)
        assert upload.sent < 16 << 20, "the gateway took it in before there was anybody to give it to"
        h.provider.tell(Ready())
        await asyncio.wait_for(uploading, 20)
        assert (await reader.read()).startswith(b"HTTP/1.1 200")
        assert len(h.engine.received[0].body) == SIZE
        writer.close()


@pytest.mark.parametrize("body", [b"", b"no parts at all", b"--another\r\n\r\n", b"\r\n\r\n--y--"])
async def test_a_body_that_is_none_rents_nothing(body: bytes) -> None:
    async with house(ready_at_once=False, looks_first=True) as h:
        reply = await h.raw(head(h.port, len(body)) + body)
        assert reply.startswith(b"HTTP/1.1 400") and b"boundary" in reply
        assert h.provider.starts == 0


@pytest.mark.parametrize("parts", [[b"--x\r\nabc"], [b"-", b"-x\r\nabc"], [b"\r\n", b"--x\r\nabc"]])
async def test_a_body_whose_beginning_was_seen_arrives_whole_however_it_came(parts: list[bytes]) -> None:
    async with house(ready_at_once=False, looks_first=True) as h:
        reader, writer = await asyncio.open_connection("127.0.0.1", h.port)
        writer.write(head(h.port, sum(map(len, parts))))
        for part in parts:
            writer.write(part)
            await writer.drain()
            await asyncio.sleep(0.05)
        await h.until(lambda: h.conductor.snapshot().waiting == 1)
        h.provider.tell(Ready())
        assert (await reader.read()).startswith(b"HTTP/1.1 200")
        assert h.engine.received[0].body == b"".join(parts)
        writer.close()


async def test_an_engine_that_reads_slowly_slows_the_caller() -> None:
    """Nothing piles up in between: what the engine does not take stays with the caller."""
    taken, over = asyncio.Event(), asyncio.Event()

    async def takes_the_head_only(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.readuntil(b"\r\n\r\n")
            taken.set()
            await over.wait()
        finally:
            writer.transport.abort()

    stubborn = await asyncio.start_server(takes_the_head_only, "127.0.0.1", 0)
    async with stubborn, house(body_limit=SIZE) as h:
        h.provider.endpoint = Endpoint(f"http://127.0.0.1:{stubborn.sockets[0].getsockname()[1]}")
        _, writer = await asyncio.open_connection("127.0.0.1", h.port)
        writer.write(head(h.port, SIZE))
        upload = Upload(writer)
        uploading = asyncio.create_task(upload.run())
        await asyncio.wait_for(taken.wait(), 5)
        await asyncio.sleep(0.5)
        assert upload.sent < 16 << 20
        uploading.cancel()
        writer.transport.abort()
        over.set()
