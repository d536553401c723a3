"""Whoever reads slowly is waited for, on both sides: nothing of a large answer or body piles up in the gateway.

A gigabyte through a whole worker, with its memory looked at from outside, is in `test_large.py` (`make test-large`).
"""

import asyncio
import hashlib
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import pytest

from gateway.providers.base import Endpoint
from gateway.proxy import dialects
from gateway.proxy.reply import Reply
from gateway.proxy.upstream import Call, Limits, Upstream
from tests.support.house import CHAT, KEY, STREAMED, House, Received, chunked, event, house
from tests.support.large import DONE, MB, SMALL_BUFFER, Basin, Drinker, Kind, Spring, at_rest, piece
from tests.support.loops import BOTH_LOOPS

TOTAL = 24 * MB
KERNEL = 8 * MB
"""What the sockets' buffers may take in all before an engine has to wait."""
KINDS = pytest.mark.parametrize("kind", ["events", "length", "chunks"])


def body_for(kind: Kind) -> dict[str, object]:
    return STREAMED if kind == "events" else CHAT


def held(h: House) -> int:
    """Bytes that the gateway still has for its callers."""
    return sum(c.transport.get_write_buffer_size() for c in h.server.connections if c.transport is not None)


@BOTH_LOOPS
@KINDS
async def test_a_caller_who_stops_reading_lets_the_engine_wait_and_then_gets_every_byte(
    kind: Kind, tmp_path: Path
) -> None:
    """Twice in one answer: at once, and in the middle."""
    spring = Spring(kind, TOTAL)
    sizes = {"write_timeout": 20, "gap": 20, "answer_time": 60, "engine_socket": tmp_path / "s"}
    async with house(script=spring, **sizes) as h, Drinker(h.port) as caller:
        await caller.ask(h.request(body_for(kind)))
        await h.until(lambda: spring.poured)
        assert await at_rest(lambda: spring.poured) < KERNEL and held(h) < MB
        await caller.head()
        await caller.drink(TOTAL // 3)
        before = await at_rest(lambda: spring.poured)
        assert TOTAL // 3 <= before < TOTAL // 3 + KERNEL and held(h) < MB
        await caller.drink()
        assert caller.is_whole and caller.digest == spring.digest and caller.drunk >= TOTAL
        await h.until(lambda: h.visits)
        assert h.visits[0].outcome == "answered"


@BOTH_LOOPS
@KINDS
async def test_a_caller_who_is_slow_from_the_first_byte_on_gets_every_byte(kind: Kind) -> None:
    """What came with the engine's head is more than goes out at once: then, too, somebody must ask for the rest."""
    pieces = b"".join(piece(kind, number) for number in range(4 * MB // len(piece(kind, 0))))
    pieces += DONE if kind == "events" else b""
    media, length = ("text/event-stream", "") if kind == "events" else ("x/x", f"Content-Length: {len(pieces)}\r\n")
    framing = length if kind == "length" else "Transfer-Encoding: chunked\r\n"

    async def at_once(request: Received, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = f"HTTP/1.1 200 OK\r\nContent-Type: {media}\r\n{framing}\r\n".encode()
        writer.write(head + (pieces if kind == "length" else chunked(pieces) + b"0\r\n\r\n"))
        await writer.drain()

    async with house(script=at_once, gap=2, answer_time=4, write_timeout=4) as h, Drinker(h.port) as caller:
        await h.until(lambda: h.server.connections)
        for connection in h.server.connections:
            connection.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 16)
        await caller.ask(h.request(body_for(kind)))
        await h.until(lambda: held(h) > 0)
        await caller.head()
        await caller.drink()
        assert caller.is_whole and caller.digest == hashlib.sha256(pieces).hexdigest()


class QuickReply:
    """A caller who is behind with each write, and has caught up before anybody comes to look."""

    streams = True
    is_open = True
    dialect = dialects.OPENAI
    loading_text = None
    first_token_at: float | None = None
    events = 0
    usage = None

    def __init__(self) -> None:
        self.timings: dict[str, float] = {}
        self.heard = b""
        self.is_finished = False

    def begin_now(self, *_: Any, **__: Any) -> None:
        """Nobody looks at the head."""

    def pass_now(self, data: bytes, framed: bytes | None = None) -> bool:
        self.heard += data
        return False

    async def flush(self) -> None:
        """All of it is out."""

    drain = flush

    async def finish(self) -> None:
        self.is_finished = True

    async def answer(self, status: int, body: bytes, *_: Any, **__: Any) -> None:
        self.heard = body


@BOTH_LOOPS
@pytest.mark.parametrize("media", ["text/event-stream", "application/json"], ids=["stream", "whole"])
async def test_a_caller_who_catches_up_before_anybody_looks_is_not_waited_for(media: str) -> None:
    """Full and empty again in one turn of the loop: then nobody ever says that it may go on."""
    events = [event("x" * 70_000), event("y" * 70_000), event("z", "stop")]

    async def slowly(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(f"HTTP/1.1 200 OK\r\nContent-Type: {media}\r\nTransfer-Encoding: chunked\r\n\r\n".encode())
        for each in events:
            writer.write(chunked(each))
            await asyncio.sleep(0.02)
        writer.write(b"0\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(slowly, "127.0.0.1", 0)
    upstream = Upstream(
        Endpoint(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"),
        Limits(connect=1, first_byte=1, answer=1, gap=1, heartbeat=10),
    )
    reply = QuickReply()
    async with server:
        await upstream.pipe(Call("POST", "/v1/chat/completions", [], (b"{}",), 2), cast(Reply, reply))
    assert reply.heard == b"".join(events) and reply.is_finished
    upstream.close()


@BOTH_LOOPS
@pytest.mark.parametrize("kind", ["events", "length"])
async def test_who_never_reads_on_is_let_go_after_write_timeout_and_the_engine_told_at_once(kind: Kind) -> None:
    spring = Spring(kind, TOTAL)
    async with house(script=spring, write_timeout=0.2, gap=20, answer_time=20, slots=1) as h, Drinker(h.port) as caller:
        await caller.ask(h.request(body_for(kind)))
        await h.until(lambda: spring.poured)
        await at_rest(lambda: spring.poured, quiet=0.1)
        await h.until(lambda: h.engine.left == 1, within=0.2 + 1)
        await h.until(lambda: not h.server.connections and h.conductor.snapshot().in_flight == 0, within=1)
        assert h.visits[0].outcome == "left" and h.visits[0].code == "write_timeout"


# --- uploads


def upload_head(h: House, length: int) -> bytes:
    return (
        f"POST /v1/audio/transcriptions HTTP/1.1\r\nHost: 127.0.0.1:{h.port}\r\nAuthorization: Bearer {KEY}\r\n"
        f"Content-Type: multipart/form-data; boundary=x\r\nContent-Length: {length}\r\n\r\n"
    ).encode()


@BOTH_LOOPS
async def test_an_engine_that_stops_reading_lets_the_caller_wait_and_gets_every_byte(tmp_path: Path) -> None:
    """Twice in one body: at once, and in the middle."""
    sizes = {"body_limit": TOTAL, "answer_time": 60, "body_gap": 20, "receive_buffer": SMALL_BUFFER}
    async with Basin(tmp_path / "s") as basin, house(**sizes) as h, Drinker(h.port) as caller:
        h.provider.endpoint = basin.endpoint
        await caller.ask(upload_head(h, TOTAL))
        async with asyncio.timeout(20), asyncio.TaskGroup() as group:
            group.create_task(caller.pour(TOTAL))
            await basin.begun.wait()
            assert await at_rest(lambda: caller.sent) < KERNEL
            basin.take(TOTAL // 3)
            await h.until(lambda: basin.taken >= TOTAL // 3)
            assert await at_rest(lambda: caller.sent) < TOTAL // 3 + KERNEL
            basin.take()
        assert b" 200 OK" in await caller.head()
        assert basin.taken == TOTAL and basin.digest == caller.digest


class Pieces(Sequence[bytes]):
    """A body that is held in pieces, and how many of them were asked for."""

    def __init__(self, number: int) -> None:
        self._number = number
        self.asked = 0

    def __len__(self) -> int:
        return self._number

    def __getitem__(self, at: Any) -> Any:
        if at >= self._number:
            raise IndexError(at)
        self.asked = at + 1
        return at.to_bytes(8, "big") * (MB // 8)


@BOTH_LOOPS
async def test_a_body_that_is_held_already_is_not_held_twice_for_an_engine_that_does_not_read(tmp_path: Path) -> None:
    """JSON was read whole to be checked. It goes out in pieces, and each waits until there is room for it."""
    number = TOTAL // MB
    pieces, digest = Pieces(number), hashlib.sha256(b"".join(Pieces(number))).hexdigest()
    async with Basin(tmp_path / "s") as basin:
        upstream = Upstream(basin.endpoint, Limits(connect=5, first_byte=5, answer=20, gap=5, heartbeat=10))
        reply = QuickReply()
        call = Call("POST", "/v1/chat/completions", [], pieces, number * MB)
        piping = asyncio.create_task(upstream.pipe(call, cast(Reply, reply)))
        await asyncio.wait_for(basin.begun.wait(), 5)
        assert await at_rest(lambda: pieces.asked) * MB < KERNEL
        basin.take()
        await asyncio.wait_for(piping, 10)
        assert basin.taken == number * MB and basin.digest == digest
        assert reply.heard == b"{}"
        upstream.close()
