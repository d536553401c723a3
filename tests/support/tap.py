"""A tap on the line between gateway and engine: passes every byte on, and writes down each request as it comes by.

What the gateway believes it sent, and what an engine says it answered, are both second-hand; a POST that is sent twice
shows here. Each end hears of the other's leaving as it would without the tap.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from gateway.providers.base import Endpoint, Instance, Intent, Journal, News, Profile, Provider, ProviderError
from gateway.proxy.http1 import AnswerParser
from tests.support.house import Received, chunked, read_request


@dataclass
class Tap:
    """Listens in front of one engine; `seen` are the requests that came by, in order."""

    target: Endpoint
    seen: list[Received] = field(default_factory=list)
    endpoint: Endpoint = field(init=False)
    """Where to connect instead."""
    at_once: int = 0
    most_at_once: int = 0
    """The most requests that were at the engine together; a connection that is only kept is none."""
    _server: asyncio.Server | None = None
    _lines: set["asyncio.Task[None]"] = field(default_factory=set)

    async def listen(self, socket: Path | None = None) -> "Tap":
        """On a unix socket, or on a loopback port where none is given."""
        if socket is None:
            self._server = await asyncio.start_server(self._carry, "127.0.0.1", 0)
            port = self._server.sockets[0].getsockname()[1]
            self.endpoint = replace(self.target, url=f"http://127.0.0.1:{port}", socket=None)
        else:
            self._server = await asyncio.start_unix_server(self._carry, socket)
            self.endpoint = replace(self.target, socket=str(socket))
        return self

    @property
    def posts(self) -> list[Received]:
        return [request for request in self.seen if request.line.startswith("POST ")]

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()
        for line in list(self._lines):
            line.cancel()
        await asyncio.gather(*self._lines, return_exceptions=True)

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._lines.add(task)
        try:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                await self._both_ways(reader, writer)
        finally:
            writer.close()
            self._lines.discard(task)

    async def _both_ways(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Until one end leaves; then the other is left too."""
        answers, engine = await self._dial()
        awaited: list[AnswerParser] = []
        ways = {
            asyncio.ensure_future(self._requests(reader, engine, awaited)),
            asyncio.ensure_future(self._answers(answers, writer, awaited)),
        }
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
            self.at_once -= len(awaited)
            engine.close()

    async def _dial(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if self.target.socket is not None:
            return await asyncio.open_unix_connection(self.target.socket)
        host, _, port = self.target.url.removeprefix("http://").rpartition(":")
        return await asyncio.open_connection(host, int(port))

    async def _requests(
        self, reader: asyncio.StreamReader, engine: asyncio.StreamWriter, awaited: list[AnswerParser]
    ) -> None:
        while True:
            request = await read_request(reader)
            self.seen.append(request)
            awaited.append(AnswerParser(request.line.partition(" ")[0]))
            self.at_once += 1
            self.most_at_once = max(self.most_at_once, self.at_once)
            sized = request.header("Content-Length") or not request.body
            engine.write(request.raw_head + (request.body if sized else chunked(request.body) + chunked(b"")))
            await engine.drain()

    async def _answers(
        self, answers: asyncio.StreamReader, writer: asyncio.StreamWriter, awaited: list[AnswerParser]
    ) -> None:
        while data := await answers.read(1 << 16):
            if awaited:
                awaited[0].feed(data)
                if awaited[0].done:
                    del awaited[0]
                    self.at_once -= 1
            writer.write(data)
            await writer.drain()


class TappedProvider:
    """A provider whose instances are reached through a tap. Everything else is the inner provider's."""

    def __init__(self, inner: Provider, folder: Path) -> None:
        self.inner = inner
        self.name = inner.name
        self.taps: list[Tap] = []
        self._folder = folder
        self._real: dict[str, Instance] = {}

    @property
    def profile(self) -> Profile:
        return self.inner.profile

    @property
    def posts(self) -> list[Received]:
        """Every POST that reached any instance."""
        return [request for tap in self.taps for request in tap.posts]

    @property
    def most_at_once(self) -> int:
        return max(tap.most_at_once for tap in self.taps)

    async def start(self, intent: Intent, journal: Journal) -> Instance:
        instance = await self.inner.start(intent, journal)
        tap = await Tap(instance.endpoint).listen(self._folder / f"tap-{intent.run}.sock")
        self.taps.append(tap)
        self._real[instance.id] = instance
        return replace(instance, endpoint=tap.endpoint)

    def watch(self, instance: Instance) -> AsyncIterator[News]:
        return self.inner.watch(self._real[instance.id])

    async def rest(self, instance: Instance) -> None:
        raise ProviderError("A tapped engine cannot sleep.", lasting=True)

    async def wake(self, instance: Instance) -> None:
        raise ProviderError("A tapped engine cannot sleep.", lasting=True)

    async def stop(self, instance: Instance, *, within: float) -> None:
        await self.inner.stop(self._real[instance.id], within=within)

    async def list(self) -> list[Instance]:
        return await self.inner.list()

    async def price(self) -> int | None:
        return await self.inner.price()

    async def close(self) -> None:
        await self.inner.close()
        for tap in self.taps:
            await tap.close()
