"""A caller leaves, in each phase of the data path: within a second the engine knows, and nothing of it is left over.

With engines that are scripts, so that each phase can be held; what real engines make of it is in `tests/engines`, and
callers who leave the line or a body that is checked are in `tests/web`.
"""

import asyncio
import contextlib
import logging
import os
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gateway.providers.base import Endpoint, Ready
from tests.support.engine_end import full
from tests.support.house import CHAT, KEY, STREAM_HEAD, STREAMED, House, Received, Script, chunked, event, house, stream
from tests.support.large import MB, Basin, Drinker, Kind, Spring, at_rest
from tests.support.loops import BOTH_LOOPS
from tests.support.wire import Caller

Reader, Writer = asyncio.StreamReader, asyncio.StreamWriter
SOON = 1.0
LONG = {"first_byte": 60, "answer_time": 60, "gap": 60, "body_gap": 60, "write_timeout": 60, "hold_max": 60}
"""No limit of the gateway's ends anything here."""


def taken() -> tuple[int, int]:
    """Open files and living tasks of this process: of the gateway, and of its engine's and callers' ends."""
    return len(os.listdir("/proc/self/fd")), len(asyncio.all_tasks())


@contextlib.asynccontextmanager
async def nothing_left(h: House, caplog: pytest.LogCaptureFixture) -> AsyncIterator[None]:
    """Whoever leaves inside leaves nothing: no slot, no place, no connection, no task, and no word in the log."""
    caplog.set_level(logging.WARNING)
    before = taken()
    yield
    snapshot = h.conductor.snapshot
    await h.until(lambda: (snapshot().in_flight, snapshot().waiting) == (0, 0), within=SOON)
    await h.until(lambda: taken() == before, within=SOON)
    assert h.visits[-1].outcome == "left" and h.visits[-1].code == ""
    assert not caplog.records, caplog.text


async def silent(request: Received, reader: Reader, writer: Writer) -> None:
    await asyncio.sleep(60)


async def a_head_only(request: Received, reader: Reader, writer: Writer) -> None:
    writer.write(STREAM_HEAD)
    await asyncio.sleep(60)


async def a_long_answer(request: Received, reader: Reader, writer: Writer) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: x/x\r\nContent-Length: 1000000\r\n\r\n" + b"x" * 200_000)
    await asyncio.sleep(60)


async def half_an_answer(request: Received, reader: Reader, writer: Writer) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 20\r\n\r\n{")
    await asyncio.sleep(60)


async def an_event(request: Received, reader: Reader, writer: Writer) -> None:
    writer.write(STREAM_HEAD + chunked(event("a")))
    await asyncio.sleep(60)


LEAVE = pytest.mark.parametrize("politely", [True, False], ids=["fin", "reset"])


def leave(caller: Caller, politely: bool) -> None:
    caller.end() if politely else caller.vanish()


@BOTH_LOOPS
@LEAVE
@pytest.mark.parametrize(
    ("body", "script", "heard", "sizes"),
    [
        pytest.param(CHAT, silent, b"", {}, id="before the head"),
        pytest.param(STREAMED, silent, b": ", {"heartbeat": 0.03}, id="in company"),
        pytest.param(STREAMED, a_head_only, b"\r\n\r\n", {}, id="between head and first event"),
        pytest.param(STREAMED, an_event, b'"a"', {}, id="in a stream that is silent"),
        pytest.param(STREAMED, stream(*[event("a")] * 5000, gap=0.002), b'"a"', {}, id="in a stream that flows"),
        pytest.param(CHAT, half_an_answer, b"", {}, id="in a short answer"),
        pytest.param(CHAT, a_long_answer, b"xxx", {}, id="in a long answer"),
        pytest.param(CHAT, an_event, b"", {"gathers": True}, id="while an answer is put together"),
    ],
)
async def test_while_the_engine_works(
    body: dict[str, object],
    script: Script,
    heard: bytes,
    sizes: dict[str, object],
    politely: bool,
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with house(script=script, slots=1, **(LONG | sizes)) as h:
        h.conductor.wake()
        await h.until(lambda: h.state.value == "ready")
        async with nothing_left(h, caplog), Caller(h.port) as caller:
            await caller.send(h.request(body))
            await h.until(lambda: h.engine.received)
            await caller.hear(within=0.02 if not heard else 5, until=heard or b"never")
            leave(caller, politely)
            await h.until(lambda: h.engine.left == 1, within=SOON)


# --- while it connects


@BOTH_LOOPS
@LEAVE
async def test_while_the_engine_takes_no_connection(politely: bool, caplog: pytest.LogCaptureFixture) -> None:
    with full() as endpoint:
        async with house(connect=60, slots=1, **LONG) as h:
            h.provider.endpoint = endpoint
            h.conductor.wake()
            await h.until(lambda: h.state.value == "ready")
            async with nothing_left(h, caplog), Caller(h.port) as caller:
                await caller.send(h.request(CHAT))
                await h.until(lambda: h.conductor.snapshot().in_flight == 1)
                await asyncio.sleep(0.05)
                leave(caller, politely)


@BOTH_LOOPS
@LEAVE
async def test_while_the_engine_hangs_in_a_tls_handshake(politely: bool, caplog: pytest.LogCaptureFixture) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        async with house(connect=60, slots=1, **LONG) as h:
            h.provider.endpoint = Endpoint(f"https://127.0.0.1:{listener.getsockname()[1]}")
            h.conductor.wake()
            await h.until(lambda: h.state.value == "ready")
            loop = asyncio.get_running_loop()
            async with nothing_left(h, caplog), Caller(h.port) as caller:
                await caller.send(h.request(CHAT))
                engine, _ = await loop.sock_accept(listener)
                with engine:
                    assert await loop.sock_recv(engine, 10_000)  # its hello
                    leave(caller, politely)
                    async with asyncio.timeout(SOON):
                        assert await heard_end(engine)


async def heard_end(end: socket.socket) -> bool:
    with contextlib.suppress(ConnectionError):
        while await asyncio.get_running_loop().sock_recv(end, 1 << 16):
            pass
    return True


# --- while somebody is waited for who reads slowly


@BOTH_LOOPS
@pytest.mark.parametrize("kind", ["events", "length", "chunks"])
async def test_while_the_engine_waits_because_its_caller_does_not_read(
    kind: Kind, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    spring = Spring(kind, 64 * MB)
    async with house(script=spring, slots=1, engine_socket=tmp_path / "s", **LONG) as h:
        h.conductor.wake()
        await h.until(lambda: h.state.value == "ready")
        async with nothing_left(h, caplog), Drinker(h.port) as caller:
            await caller.ask(h.request(STREAMED if kind == "events" else CHAT))
            await h.until(lambda: spring.poured)
            await at_rest(lambda: spring.poured, quiet=0.05)
            caller.leave()
            await h.until(lambda: h.engine.left == 1, within=SOON)


class Slow:
    """An engine that reads a body a little at a time, so that it notices an end, and is never through with it."""

    def __init__(self) -> None:
        self.read = 0
        self.left = False

    async def __call__(self, reader: Reader, writer: Writer) -> None:
        try:
            while data := await reader.read(32768):
                self.read += len(data)
                await asyncio.sleep(0.005)
        except ConnectionError:
            pass  # the same news in other words
        finally:
            self.left = True
            writer.close()


@BOTH_LOOPS
@pytest.mark.parametrize(("what", "politely"), [("json", True), ("multipart", False)], ids=["json", "multipart"])
async def test_while_a_large_body_is_sent(
    what: str, politely: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """JSON is with the gateway already; an upload is with its caller still, whose connection is not read from."""
    engine = Slow()
    server = await asyncio.start_unix_server(engine, tmp_path / "s", limit=32768)
    async with server, house(slots=1, body_limit=64 * MB, **LONG) as h:
        h.provider.endpoint = Endpoint("http://localhost", socket=str(tmp_path / "s"))
        h.conductor.wake()
        await h.until(lambda: h.state.value == "ready")
        async with nothing_left(h, caplog), Caller(h.port) as caller:
            if what == "json":
                await caller.send(h.request(CHAT | {"user": "x" * 2 * MB}))
            else:
                await caller.send(upload(h, 32 * MB))
                await fill(h, caller)
            await h.until(lambda: engine.read > 30_000)
            leave(caller, politely)
            await h.until(lambda: engine.left, within=SOON + 0.5)


def upload(h: House, length: int) -> bytes:
    return (
        f"POST /v1/audio/transcriptions HTTP/1.1\r\nHost: 127.0.0.1:{h.port}\r\nAuthorization: Bearer {KEY}\r\n"
        f"Content-Type: multipart/form-data; boundary=x\r\nContent-Length: {length}\r\n\r\n"
    ).encode()


async def fill(h: House, caller: Caller) -> None:
    """Send until nobody reads any more, and little lies unread: an end behind more than that never gets here."""
    async with asyncio.timeout(5):
        while all(connection.transport.is_reading() for connection in h.server.connections):
            await caller.send(b"x" * 65536)
            await asyncio.sleep(0.005)


@BOTH_LOOPS
@LEAVE
async def test_while_an_upload_waits_for_an_engine_that_does_not_read(
    politely: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Nobody reads from this caller, so no loop tells that it has gone: its slot was taken for as long as that took."""
    async with Basin(tmp_path / "s") as basin, house(slots=1, body_limit=64 * MB, **LONG) as h:
        h.provider.endpoint = basin.endpoint
        h.conductor.wake()
        await h.until(lambda: h.state.value == "ready")
        async with Caller(h.port) as caller:
            await caller.send(upload(h, 32 * MB))
            await fill(h, caller)
            leave(caller, politely)
            await h.until(lambda: h.conductor.snapshot().in_flight == 0, within=SOON)
        basin.take()
        await asyncio.wait_for(basin.left.wait(), SOON)
        assert basin.taken < 32 * MB and h.visits[0].outcome == "left"


@BOTH_LOOPS
async def test_while_an_upload_waits_for_the_start() -> None:
    """More of it came than is read before there is anybody to take it."""
    async with house(ready_at_once=False, body_limit=64 * MB, **LONG) as h, Caller(h.port) as caller:
        await caller.send(upload(h, 32 * MB))
        await fill(h, caller)
        assert h.conductor.snapshot().waiting == 1
        caller.end()
        await h.until(lambda: h.conductor.snapshot().waiting == 0, within=SOON)
        h.provider.tell(Ready())
        await h.until(lambda: h.state.value == "ready")
        assert h.engine.received == [] and h.visits[0].outcome == "left"
