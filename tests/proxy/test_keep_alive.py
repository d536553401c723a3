"""No request is lost between two others, and none is sent twice, whatever an engine does with its promise to keep.

Through the whole gateway, on both loops. The engine is a process of its own (tests/support/httplib_engine.py), because
one on the same loop would never close while the gateway looks elsewhere; `tests/engines/test_keep_alive.py` is the same
with llama.cpp's own server.
"""

import asyncio
import contextlib
import itertools
import json
import random
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from gateway.providers.base import Endpoint
from gateway.proxy.pool import REST
from tests.support import httplib_engine
from tests.support.house import CHAT, Front, Sizes, StubProvider, read_request, standing
from tests.support.loops import BOTH_LOOPS

pytestmark = BOTH_LOOPS
BOTH_SOCKETS = pytest.mark.parametrize("over", ["tcp", "unix"])
BOTH_KINDS = pytest.mark.parametrize("kind", ["streamed", "whole"])
_texts = itertools.count()


@contextlib.contextmanager
def engine(over: str, *words: str) -> Iterator[Endpoint]:
    """A running engine; nothing of it is left."""
    with tempfile.TemporaryDirectory(prefix="wg-") as folder:  # short: a socket's path has 107 bytes
        address = "tcp" if over == "tcp" else str(Path(folder) / "e.sock")
        command = [sys.executable, "-I", "-S", httplib_engine.__file__, address, *words]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            try:
                assert process.stdout is not None
                said = process.stdout.readline().strip()
                if over == "tcp":
                    yield Endpoint(f"http://127.0.0.1:{said}")
                else:
                    yield Endpoint("http://localhost", socket=address)
            finally:
                process.kill()


@pytest.fixture(scope="module", params=["tcp", "unix"])
def llama_like(request: pytest.FixtureRequest) -> Iterator[Endpoint]:
    """It closes after streams."""
    with engine(request.param) as endpoint:
        yield endpoint


async def seen(endpoint: Endpoint) -> tuple[int, Counter[str]]:
    """(connections, POSTs by text) that the engine saw since it was last asked, this one not counted."""
    said = await said_by(endpoint)
    return said["connections"] - 1, Counter(said["posts"])


async def said_by(endpoint: Endpoint) -> dict[str, Any]:
    """All that the engine says of what it saw."""
    if endpoint.socket is not None:
        reader, writer = await asyncio.open_unix_connection(endpoint.socket)
    else:
        reader, writer = await asyncio.open_connection("127.0.0.1", int(endpoint.url.rpartition(":")[2]))
    try:
        writer.write(b"GET /seen HTTP/1.1\r\n\r\n")
        said: dict[str, Any] = json.loads((await reader.read()).partition(b"\r\n\r\n")[2])
    finally:
        writer.close()
    return said


@contextlib.asynccontextmanager
async def gateway(endpoint: Endpoint) -> AsyncIterator[Front]:
    sizes = Sizes(slots=64, queue=1000, first_byte=20, answer_time=20, gap=20)
    async with standing(StubProvider(endpoint), sizes) as front:
        yield front


@dataclass
class Callers:
    """Callers who ask one thing after the other, each on a connection of its own that the gateway keeps."""

    front: Front
    stream: bool
    asked: int = 0
    lost: list[str] = field(default_factory=list)

    async def ask(self, callers: int, requests: int, *, pause: Callable[[], float] = lambda: 0.0) -> None:
        """So many callers at once, and so many requests of all of them together."""
        todo = iter(range(requests))
        await asyncio.gather(*(self._one_after_the_other(todo, pause) for _ in range(callers)))

    async def _one_after_the_other(self, todo: Iterator[int], pause: Callable[[], float]) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.front.port)
        try:
            for _ in todo:
                self.asked += 1
                text = f"t{next(_texts)}"
                body: dict[str, Any] = {"model": "served", "messages": [{"role": "user", "content": text}]}
                writer.write(self.front.request(body | ({"stream": True} if self.stream else {}), close=False))
                status, answer = await _answer(reader)
                if status != 200 or f'"content": "{text}"' not in answer:
                    self.lost.append(f"{status} {answer}")
                    return
                if seconds := pause():
                    await asyncio.sleep(seconds)
        finally:
            writer.close()

    def assert_each_was_answered_and_sent_once(self, posts: Counter[str]) -> None:
        assert self.lost == []
        assert len(posts) == self.asked and set(posts.values()) == {1}


async def _answer(reader: asyncio.StreamReader) -> tuple[int, str]:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
    _, has_length, rest = head.partition("content-length: ")
    if has_length:
        body = await reader.readexactly(int(rest.partition("\r\n")[0]))
    else:
        try:
            body = await reader.readuntil(b"0\r\n\r\n")
        except asyncio.IncompleteReadError as cut:
            return 0, cut.partial.decode()
        if not body.endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n"):
            return 0, body.decode()
    return int(head.split()[1]), body.decode()


async def earn_trust(callers: Callers) -> None:
    """The first connection has lived for a moment."""
    await callers.ask(1, 1)
    await asyncio.sleep(REST + 0.01)
    await callers.ask(1, 1)


@BOTH_KINDS
@pytest.mark.parametrize("at_once", [1, 4, 16, 64])
async def test_every_request_to_an_engine_like_llama_server_is_answered_and_sent_once(
    llama_like: Endpoint, kind: str, at_once: int
) -> None:
    """It closes after each stream although it promised to keep the connection. Those that carried an answer with a
    length are used again: a new one only after a hundred, as the engine says."""
    await seen(llama_like)
    async with gateway(llama_like) as front:
        callers = Callers(front, stream=kind == "streamed")
        if kind == "whole":
            await earn_trust(callers)
        await callers.ask(at_once, 100)
    connections, posts = await seen(llama_like)
    callers.assert_each_was_answered_and_sent_once(posts)
    assert connections <= (callers.asked if kind == "streamed" else at_once + callers.asked // httplib_engine.MAX + 1)


async def test_streams_and_whole_answers_do_not_harm_each_other(llama_like: Endpoint) -> None:
    await seen(llama_like)
    async with gateway(llama_like) as front:
        streaming, whole = Callers(front, stream=True), Callers(front, stream=False)
        await earn_trust(whole)
        await asyncio.gather(streaming.ask(8, 60), whole.ask(8, 60))
    _, posts = await seen(llama_like)
    assert streaming.lost == whole.lost == []
    assert len(posts) == streaming.asked + whole.asked and set(posts.values()) == {1}


async def test_640_of_640_short_streams_are_answered_and_each_is_sent_once(llama_like: Endpoint) -> None:
    await seen(llama_like)
    async with gateway(llama_like) as front:
        callers = Callers(front, stream=True)
        await callers.ask(32, 640)
    _, posts = await seen(llama_like)
    assert callers.asked == 640
    callers.assert_each_was_answered_and_sent_once(posts)


@BOTH_SOCKETS
@pytest.mark.parametrize("after", ["0", "0.001", "0.05"])
async def test_an_engine_that_closes_after_every_answer_loses_nothing(over: str, after: str) -> None:
    """It takes no look at what came meanwhile. No connection is used twice, because none earned any trust."""
    with engine(over, "all", after) as endpoint:
        async with gateway(endpoint) as front:
            for at_once, requests in ((1, 20), (16, 80)):
                for _ in range(10):
                    callers = Callers(front, stream=False)
                    await callers.ask(at_once, requests)
                    said = await said_by(endpoint)
                    if said["latest"] < REST / 2 + float(after):
                        break  # else the machine made it late: it kept a connection for longer than one has to rest
                else:
                    pytest.fail("this machine is too busy for an engine that closes in time")
                callers.assert_each_was_answered_and_sent_once(Counter(said["posts"]))
                assert said["connections"] - 1 == requests


@BOTH_SOCKETS
async def test_an_engine_that_closes_idle_connections_when_the_next_request_comes_loses_nothing(over: str) -> None:
    """It promised five seconds and gives a fraction of one: about as long as each caller waits between two requests."""
    idle = 0.2
    jitter = random.Random(4)
    with engine(over, "stream", "0", str(idle)) as endpoint:
        async with gateway(endpoint) as front:
            callers = Callers(front, stream=False)
            await earn_trust(callers)
            await callers.ask(8, 24, pause=lambda: idle + jitter.uniform(-0.02, 0.02))
            _, posts = await seen(endpoint)
            callers.assert_each_was_answered_and_sent_once(posts)


# -- what one caller leaves on a connection that the next one gets ------------------------------------

SECRET = b'{"secret": "of the first caller"}'
JSON = b"Content-Type: application/json\r\nContent-Length: %d\r\n" % len(SECRET)


@pytest.mark.parametrize(
    ("first", "asked"),
    [
        (b"HTTP/1.1 200 OK\r\n" + JSON + b"Content-Encoding: br\r\n\r\n", CHAT),
        (b"HTTP/1.1 400 X\r\n" + JSON + b"Content-Encoding: br\r\n\r\n", CHAT),
        (b"HTTP/1.1 200 OK\r\n" + JSON + b"\r\n", CHAT | {"stream": True}),
    ],
    ids=["coded", "coded error", "no stream"],
)
async def test_no_caller_gets_what_another_was_not_shown(first: bytes, asked: dict[str, object]) -> None:
    """An answer that was refused here came whole, and its connection is kept."""
    answers, connections = [first + SECRET, b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"], 0

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        with contextlib.suppress(asyncio.IncompleteReadError):
            while True:
                await read_request(reader)
                if asked is not CHAT and len(answers) == 2:
                    await asyncio.sleep(0.1)  # until its caller has heard a heartbeat
                writer.write(answers.pop(0))
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    try:
        endpoint = Endpoint(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
        async with standing(StubProvider(endpoint), Sizes(heartbeat=0.02)) as front:
            assert b"secret" not in await front.raw(front.request(asked))
            await asyncio.sleep(REST + 0.01)
            assert (await front.raw(front.request(CHAT))).endswith(b"\r\n\r\n{}")
        assert connections == 1
    finally:
        server.close()
