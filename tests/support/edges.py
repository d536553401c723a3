"""The edges that stand between callers and a gateway, each with the limit that cuts a cold start off there.

Each speaks as the platform does (status, content type, whether SDKs try again), from what the vendors say and what was
seen; none was asked live. Their Clock runs SHORTER times faster than the platforms', and only while this loop goes
round: a machine that stands still, or is busy with something else, makes no edge early.

    async with Clock() as clock, standing_before(port, CLOUDFLARE, clock) as edge:
        ...  # callers go to edge.port; edge.did says what it cut
"""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import TypeVar

from tests.support.house import Received, read_request

T = TypeVar("T")

SHORTER = 100.0
_TICK = 0.02
"""Seconds."""


class Clock:
    """Counts ticks, in the platforms' seconds. One does for all edges."""

    def __init__(self) -> None:
        self.now = 0.0
        self._alarms: dict[asyncio.Future[None], float] = {}

    async def __aenter__(self) -> "Clock":
        self._ticking = asyncio.ensure_future(self._tick())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._ticking.cancel()
        await asyncio.gather(self._ticking, return_exceptions=True)

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(_TICK)
            self.now += _TICK * SHORTER
            for alarm, when in list(self._alarms.items()):
                if when <= self.now and not alarm.done():
                    alarm.set_result(None)

    async def in_time(self, work: Awaitable[T], deadline: float | None) -> T | None:
        """What came of it; None when its time was over, and then it is cancelled. Without a deadline it has time."""
        task = asyncio.ensure_future(work)
        alarm: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if deadline is not None:
            self._alarms[alarm] = deadline
        try:
            await asyncio.wait({task, alarm}, return_when=asyncio.FIRST_COMPLETED)
            return task.result() if task.done() else None
        finally:
            self._alarms.pop(alarm, None)
            alarm.cancel()
            task.cancel()


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What one edge does. Seconds as the platform has them; None: no such limit."""

    name: str
    silence: float | None = None
    """Without a byte from behind, before an answer and in the middle of one."""
    total: float | None = None
    """For one request in all, also while bytes come."""
    worker: float | None = None
    """Until somebody behind is healthy."""
    result: float | None = None
    """Until an answer has begun; then the caller is sent to where the result will be."""
    says: tuple[int, str, bytes] | None = (524, "text/html", b"<html><title>524: A timeout occurred</title></html>")
    """Status, type and body when its time is over and no answer has begun; None: it only hangs up."""
    headers: tuple[tuple[str, str], ...] = ()
    """That it adds to a request."""


_NO_WORKERS = json.dumps({"error": "no workers available"}).encode()

RUNPOD_PROXY = Limits(name="RunPod's pod proxy", silence=100)
RUNPOD_QUEUE = Limits(name="RunPod's queue routes", silence=100)
CLOUDFLARE = Limits(name="Cloudflare", silence=120, headers=(("CF-Ray", "8f0e-AMS"),))
RUNPOD_LB = Limits(name="RunPod's load balancer", worker=120, total=330)
MODAL = Limits(name="Modal", result=150)
NODE_FETCH = Limits(name="Node's fetch", silence=300, says=None)
EDGES = (RUNPOD_PROXY, RUNPOD_QUEUE, CLOUDFLARE, RUNPOD_LB, MODAL, NODE_FETCH)


@dataclass
class Passage:
    """One request on its way, and what has come back of it so far."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    came: bytes = b""


@dataclass
class Edge:
    """One of them, in front of one gateway."""

    limits: Limits
    origin: int
    """The gateway's port."""
    clock: Clock
    is_healthy: Callable[[], bool] = lambda: True
    """What its health checks say, where it has some."""
    did: list[str] = field(default_factory=list)
    """What it did to callers whose time was over: the status that it said, or `cut`."""
    port: int = 0
    _results: dict[str, "asyncio.Task[Passage | None]"] = field(default_factory=dict)
    _tasks: set["asyncio.Task[None]"] = field(default_factory=set)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
                await self._answer(await read_request(reader), writer)
        finally:
            writer.close()
            self._tasks.discard(task)

    async def _answer(self, request: Received, writer: asyncio.StreamWriter) -> None:
        ends = self._after(self.limits.total)
        path = request.line.split(" ")[1]
        if path.startswith("/results/"):
            await self._give_result(path, self._results[path], writer)
        elif not await self._has_worker():
            await self._say(writer, 400, "application/json", _NO_WORKERS)
        elif self.limits.result is not None:
            path = f"/results/{len(self._results)}"
            self._results[path] = asyncio.ensure_future(self._begin(request, None))
            await self._give_result(path, self._results[path], writer)
        else:
            await self._carry(await self._begin(request, ends), writer, ends)

    async def _has_worker(self) -> bool:
        deadline = self._after(self.limits.worker)
        while not self.is_healthy():
            if deadline is None or self.clock.now > deadline:
                return False
            await asyncio.sleep(0.01)
        return True

    async def _begin(self, request: Received, ends: float | None) -> Passage | None:
        """Send it on, and wait for the first bytes. None: its time was over before."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.origin)
        passage = Passage(reader, writer)
        kept = [pair for pair in request.headers if pair[0].lower() != "connection"]
        lines = [f"{name}: {value}" for name, value in (*kept, *self.limits.headers, ("Connection", "close"))]
        writer.write("\r\n".join([request.line, *lines, "", ""]).encode() + request.body)
        came = await self.clock.in_time(reader.read(65536), _first(ends, self._after(self.limits.silence)))
        if came is None:
            writer.close()
            return None
        passage.came = came
        return passage

    async def _give_result(
        self, path: str, begun: "asyncio.Task[Passage | None]", writer: asyncio.StreamWriter
    ) -> None:
        passage = await self.clock.in_time(asyncio.shield(begun), self._after(self.limits.result))
        if passage is not None:
            del self._results[path]
            await self._carry(passage, writer, None)
        else:
            await self._say(writer, 303, "text/plain", b"", f"Location: {path}\r\n")

    async def _carry(self, passage: Passage | None, writer: asyncio.StreamWriter, ends: float | None) -> None:
        if passage is None:
            if self.limits.says is not None:
                await self._say(writer, *self.limits.says)
            else:
                self._cut(writer)
            return
        try:
            came: bytes | None = passage.came
            while came:
                writer.write(came)
                await writer.drain()
                came = await self.clock.in_time(
                    passage.reader.read(65536), _first(ends, self._after(self.limits.silence))
                )
            if came is None:
                self._cut(writer)
        finally:
            passage.writer.close()

    async def _say(self, writer: asyncio.StreamWriter, status: int, kind: str, body: bytes, more: str = "") -> None:
        self.did.append(str(status))
        head = f"HTTP/1.1 {status} Edge\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n{more}"
        writer.write(f"{head}Connection: close\r\n\r\n".encode() + body)
        await writer.drain()

    def _cut(self, writer: asyncio.StreamWriter) -> None:
        self.did.append("cut")
        writer.transport.abort()

    def _after(self, seconds: float | None) -> float | None:
        return None if seconds is None else self.clock.now + seconds

    async def close(self) -> None:
        tasks = [*self._tasks, *self._results.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _first(*deadlines: float | None) -> float | None:
    return min((deadline for deadline in deadlines if deadline is not None), default=None)


@contextlib.asynccontextmanager
async def standing_before(
    origin: int, limits: Limits, clock: Clock, is_healthy: Callable[[], bool] = lambda: True
) -> AsyncIterator[Edge]:
    """An edge in front of the gateway at this port, until the end of the block."""
    edge = Edge(limits, origin, clock, is_healthy)
    server = await asyncio.start_server(edge.serve, "127.0.0.1", 0)
    edge.port = server.sockets[0].getsockname()[1]
    try:
        yield edge
    finally:
        server.close()
        await edge.close()
