"""What a broken connection to an engine proves, and what it does not: a POST that may have run is never sent again."""

import asyncio
import socket
import struct
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from gateway.errors import Refused
from gateway.providers.base import Endpoint
from gateway.proxy.reply import Reply
from gateway.proxy.upstream import Call, Limits, Unreached, Upstream
from tests.support.house import read_request

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
