"""A gigabyte through a whole worker, each way, while somebody stops reading: its memory stays where it was.

    make test-large

The gateway's process is looked at from outside. The same in small, with each loop, is in
`tests/proxy/test_back_pressure.py`.
"""

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from tests.support.house import CHAT, STREAMED
from tests.support.large import MB, Basin, Drinker, Kind, Spring, at_rest
from tests.support.worker import KEY, Worker, running

pytestmark = pytest.mark.large

TOTAL = 1024 * MB
KERNEL = 96 * MB
"""What the sockets between engine, gateway and caller take in all, at the most."""
GROWTH = 8 * MB
"""What the gateway's memory may grow by: the buffers of two connections, and what the allocator keeps of them."""


class Engine:
    """Answers what a gateway asks on its own, pours, and fills a basin."""

    def __init__(self, folder: Path) -> None:
        self.port = 0
        self.spring = Spring("events", TOTAL)
        self.basin = Basin(folder / "unused")

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
                head = await reader.readuntil(b"\r\n\r\n")
                if head.startswith(b"GET "):
                    body = b'{"data":[{"id":"served"}]}'
                    writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\n")
                    writer.write(b"Content-Length: %d\r\n\r\n%b" % (len(body), body))
                elif b"/transcriptions " in head or b"/embeddings " in head:
                    await self.basin.fill(head, reader, writer)
                else:
                    await self.spring(None, reader, writer)
        finally:
            writer.close()


class Memory:
    """Of the gateway's process, from when this was made."""

    def __init__(self, worker: Worker) -> None:
        (self._pid,) = worker.pids("-m gateway")
        self.before = self.now
        self.most = self.before

    @property
    def now(self) -> int:
        return int(Path(f"/proc/{self._pid}/statm").read_text().split()[1]) * 4096

    @property
    def growth(self) -> int:
        return self.most - self.before

    async def watch(self) -> None:
        while True:
            self.most = max(self.most, self.now)
            await asyncio.sleep(0.02)


@contextlib.asynccontextmanager
async def watched(worker: Worker, what: str) -> AsyncIterator[Memory]:
    """Its memory, looked at all the while; printed at the end."""
    memory, began = Memory(worker), time.monotonic()
    watching = asyncio.create_task(memory.watch())
    try:
        yield memory
    finally:
        watching.cancel()
        took = time.monotonic() - began
        print(f"\n{what}: {memory.before / MB:.1f} MB before, {memory.most / MB:.1f} MB at most, {took:.1f} s")


@pytest.fixture
async def engine(tmp_path: Path) -> AsyncIterator[Engine]:
    engine = Engine(tmp_path)
    server = await asyncio.start_server(engine, "127.0.0.1", 0)
    engine.port = server.sockets[0].getsockname()[1]
    async with server:
        yield engine


@pytest.fixture
async def worker(engine: Engine, tmp_path: Path) -> AsyncIterator[Worker]:
    settings = {"UPSTREAM_URL": f"http://127.0.0.1:{engine.port}", "MAX_REQUEST_BODY_SIZE": str(2 * TOTAL)}
    with running(tmp_path, **settings) as worker:
        await asyncio.to_thread(worker.until, "ready")
        yield worker


def head(worker: Worker, path: str, length: int, kind: str = "application/json") -> bytes:
    return (
        f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1:{worker.port}\r\nAuthorization: Bearer {KEY}\r\n"
        f"Content-Type: {kind}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n"
    ).encode()


def asked(worker: Worker, body: dict[str, object]) -> bytes:
    payload = json.dumps(body).encode()
    return head(worker, "/v1/chat/completions", len(payload)) + payload


@pytest.mark.parametrize("kind", ["events", "length", "chunks"])
async def test_a_caller_who_stops_reading_a_gigabyte(engine: Engine, worker: Worker, kind: Kind) -> None:
    spring = engine.spring = Spring(kind, TOTAL)
    async with watched(worker, f"an answer, {kind}") as memory, Drinker(worker.port) as caller:
        await caller.ask(asked(worker, STREAMED if kind == "events" else CHAT))
        await until(lambda: spring.poured)
        assert await at_rest(lambda: spring.poured, quiet=0.5) < KERNEL
        assert memory.growth < GROWTH
        await caller.head()
        await caller.drink(TOTAL // 2)
        assert await at_rest(lambda: spring.poured, quiet=0.5) < TOTAL // 2 + KERNEL
        await caller.drink()
        assert caller.is_whole and caller.digest == spring.digest and caller.drunk >= TOTAL
    assert memory.growth < GROWTH


async def test_an_engine_that_stops_reading_a_gigabyte(engine: Engine, worker: Worker) -> None:
    basin = engine.basin
    async with watched(worker, "an upload") as memory, Drinker(worker.port) as caller:
        await caller.ask(head(worker, "/v1/audio/transcriptions", TOTAL, "multipart/form-data; boundary=x"))
        async with asyncio.timeout(120), asyncio.TaskGroup() as group:
            group.create_task(caller.pour(TOTAL))
            await basin.begun.wait()
            assert await at_rest(lambda: caller.sent, quiet=0.5) < KERNEL
            assert memory.growth < GROWTH
            basin.take(TOTAL // 2)
            await until(lambda: basin.taken >= TOTAL // 2, within=60)
            assert await at_rest(lambda: caller.sent, quiet=0.5) < TOTAL // 2 + KERNEL
            basin.take()
        assert b" 200 OK" in await caller.head()
        assert basin.taken == TOTAL and basin.digest == caller.digest
    assert memory.growth < GROWTH


async def test_an_engine_that_stops_reading_a_body_that_was_checked(engine: Engine, worker: Worker) -> None:
    """It is held, for it had to be read whole; but once, whatever the engine does."""
    body = json.dumps({"model": "served", "input": "x" * 100 * MB}).encode()
    basin = engine.basin
    async with watched(worker, "a body of 100 MB") as memory, Drinker(worker.port) as caller:
        await caller.ask(head(worker, "/v1/embeddings", len(body)) + body)
        await asyncio.wait_for(basin.begun.wait(), 30)
        await asyncio.sleep(0.5)
        basin.take()
        assert b" 200 OK" in await asyncio.wait_for(caller.head(), 60)
    assert memory.growth < 100 * MB + 2 * GROWTH


async def until(what: Callable[[], object], within: float = 10) -> None:
    async with asyncio.timeout(within):
        while not what():
            await asyncio.sleep(0.01)
