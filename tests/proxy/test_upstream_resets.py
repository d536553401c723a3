"""What a broken connection to an engine proves, and what it does not: a POST that may have run is never sent again."""

import asyncio
import socket
import struct
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from gateway.errors import Refused
from gateway.providers.base import Endpoint
from gateway.proxy.reply import Reply
from gateway.proxy.upstream import Call, Limits, Unreached, Upstream
from tests.support.house import read_request
from tests.support.loops import BOTH_LOOPS

BODY = b'{"model":"x"}'


async def piped(endpoint: Endpoint, body: Any = (BODY,)) -> None:
    """One POST through an Upstream of its own, for a caller who only waits."""
    upstream = Upstream(endpoint, Limits(connect=1, first_byte=2, answer=2, gap=1, heartbeat=1))
    waiting = cast(Reply, SimpleNamespace(streams=False, timings={}))
    try:
        await upstream.pipe(Call("POST", "/v1/completions", [], body, len(BODY)), waiting)
    finally:
        upstream.close()


def unheard(path: Path) -> Endpoint:
    """An engine that was killed while its door was open still: connections come in, and nobody reads them."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen()
    asyncio.get_running_loop().call_later(0.1, listener.close)
    return Endpoint("http://localhost", socket=str(path))


async def test_what_a_local_engine_never_read_may_be_sent_again(tmp_path: Path) -> None:
    """On a unix socket a reset says that bytes were left unread, or that nobody accepted."""
    with pytest.raises(Unreached):
        await piped(unheard(tmp_path / "e.sock"))


async def test_nor_is_there_anybody_at_a_socket_that_was_left(tmp_path: Path) -> None:
    path = tmp_path / "e.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
    with pytest.raises(Unreached):
        await piped(Endpoint("http://localhost", socket=str(path)))


async def test_what_it_has_read_may_have_run(tmp_path: Path) -> None:
    async def read_and_die(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.close()

    server = await asyncio.start_unix_server(read_and_die, tmp_path / "e.sock")
    try:
        with pytest.raises(Refused) as lost:
            await piped(Endpoint("http://localhost", socket=str(tmp_path / "e.sock")))
    finally:
        server.close()
    assert lost.value.refusal.code == "backend_lost"


async def test_a_body_that_is_not_held_cannot_be_sent_again(tmp_path: Path) -> None:
    """Multipart streams through: what went out of it is gone."""

    async def passing() -> Any:
        yield BODY

    with pytest.raises(Refused) as lost:
        await piped(unheard(tmp_path / "e.sock"), passing())
    assert lost.value.refusal.code == "backend_lost"


async def test_a_reset_over_tcp_proves_nothing() -> None:
    """It comes from whatever stands between as well, after the engine has long begun."""

    async def reset(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        raw = writer.get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()

    server = await asyncio.start_server(reset, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    try:
        with pytest.raises(Refused) as lost:
            await piped(Endpoint(f"http://127.0.0.1:{port}"))
    finally:
        server.close()
    assert lost.value.refusal.code == "backend_lost"


class Caller:
    """Waits, and keeps the answer."""

    streams = False
    is_open = True
    is_over = False

    def __init__(self) -> None:
        self.timings: dict[str, float] = {}
        self.status = 0

    async def answer(self, status: int, body: bytes, *_: Any, **__: Any) -> None:
        self.status = status


@BOTH_LOOPS
@pytest.mark.parametrize("over", ["tcp", "unix"])
async def test_a_refusal_that_came_before_the_reset_is_heard(over: str, tmp_path: Path) -> None:
    """An engine that wants no such body says so, and closes with most of it unread: a reset, which a write of ours may
    meet before the answer was read. Here always: nothing of the loop runs between its answer and our writes."""
    listener = socket.socket(socket.AF_UNIX if over == "unix" else socket.AF_INET)
    listener.bind(str(tmp_path / "e.sock") if over == "unix" else ("127.0.0.1", 0))
    listener.listen()
    at_port = f"http://127.0.0.1:{listener.getsockname()[1]}" if over == "tcp" else "http://localhost"
    endpoint = Endpoint(at_port, socket=str(tmp_path / "e.sock") if over == "unix" else None)

    async def body() -> AsyncIterator[bytes]:
        yield BODY
        await asyncio.sleep(0)
        engine, _ = listener.accept()
        with engine:
            engine.recv(16)
            engine.sendall(b"HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\n\r\n{}")
        for _ in range(99):
            yield BODY

    upstream, caller = Upstream(endpoint, Limits(connect=1, first_byte=2, answer=2, gap=1, heartbeat=1)), Caller()
    with listener:
        await upstream.pipe(Call("POST", "/v1/completions", [], body(), 100 * len(BODY)), cast(Reply, caller))
    upstream.close()
    assert caller.status == 413
