"""aiohttp's defaults that are wrong for a proxy between strangers and GPUs, each with what the gateway has instead.

Read from the gateway as production builds it (`gateway.app.Gateway`), not from constants. The bracketed numbers are the
findings of the fault matrix that named them. Some defaults are no settings but behaviour; those tests are raw sockets
again, and `test_wire.py` and `tests/proxy/test_upstream.py` have the rest.
"""

import os
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web

from gateway import config
from gateway.app import Gateway, runner_of
from gateway.assembly import Boot
from gateway.config import File
from gateway.proxy import http1
from gateway.surroundings import Surroundings, settle
from gateway.web.wire import HEAD_TIMEOUT, IDLE_TIMEOUT, CallerConnection, Server
from tests.support.wire import talk


def no_file(path: Path) -> File:
    raise FileNotFoundError(path)


@pytest.fixture
async def gateway(tmp_path: Path) -> AsyncIterator[Gateway]:
    """Everything that production builds, before it listens."""
    environ = {
        "PROVIDER": "external",
        "UPSTREAM_URL": "http://127.0.0.1:9",
        "AUTH_ENABLED": "false",
        "DATA_DIR": str(tmp_path),
    }
    settings = settle(config.load(environ, read=no_file), Surroundings())
    built = Gateway(settings, Surroundings(), Boot("nonce", tmp_path, None))
    yield built
    await built.close()


@pytest.fixture
async def connection(gateway: Gateway) -> CallerConnection:
    made = gateway.server()
    assert isinstance(made, CallerConnection)
    return made


# --- which parser [1]


def test_without_the_compiled_parser_it_does_not_start() -> None:
    """[1] The one in Python lets through chunk sizes and lengths that the compiled one refuses."""
    done = subprocess.run(
        [sys.executable, "-m", "gateway"],
        env=os.environ | {"AIOHTTP_NO_EXTENSIONS": "1", "MODEL": "", "PORT": "0"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 2
    assert "AIOHTTP_NO_EXTENSIONS" in done.stderr and "compiled parser" in done.stderr
    assert "Traceback" not in done.stderr and len(done.stderr.splitlines()) == 1


def test_the_parser_that_runs_here_is_the_compiled_one() -> None:
    """[1]"""
    from gateway.process import check_parser

    check_parser()
    assert tuple(int(part) for part in aiohttp.__version__.split(".")[:3]) >= (3, 14, 5)


# --- the server [2]


async def test_an_idle_connection_ends_after_75_seconds_and_not_after_an_hour(connection: CallerConnection) -> None:
    """[2] keepalive_timeout: 3630 s."""
    assert connection.keepalive_timeout == IDLE_TIMEOUT == 75


async def test_a_head_has_a_time_of_its_own(gateway: Gateway) -> None:
    """[2] There is none: the idle time is the only bound on a head that dribbles."""
    assert gateway.server._head_timeout == HEAD_TIMEOUT == 10


async def test_a_body_has_a_clock(gateway: Gateway) -> None:
    """[2] There is none, on a slow body or on one that stopped."""
    limits = gateway._bodies._limits
    assert (limits.gap, limits.grace, limits.rate) == (10, 30, 64 * 1024)


async def test_a_caller_who_leaves_cancels_what_was_done_for_it(gateway: Gateway) -> None:
    """[2] handler_cancellation: False. A request in line would start a GPU for nobody."""
    assert gateway.server.handler_cancellation is True


async def test_the_end_does_not_wait_for_a_minute(gateway: Gateway) -> None:
    """[2] shutdown_timeout: 60 s, longer than most platforms wait. The drain has waited already."""
    assert runner_of(gateway.server)._shutdown_timeout == 1


async def test_what_is_left_of_a_refused_body_is_read_for_two_seconds(connection: CallerConnection) -> None:
    """lingering_time: 10 s."""
    assert connection._lingering_time == 2


async def test_no_line_is_written_for_each_access(connection: CallerConnection) -> None:
    assert connection.access_log is None


async def test_a_compressed_body_is_not_inflated() -> None:
    """[2] auto_decompress: True. A gzip bomb is inflated while it is read, and a forwarded body loses its coding."""
    seen = b""

    async def read(request: web.BaseRequest) -> web.Response:
        nonlocal seen
        seen = await request.read()
        return web.Response()

    server = Server(read, max_connections=10)
    runner = web.ServerRunner(server, handle_signals=False, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        head = b"POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Encoding: gzip\r\nContent-Length: 4\r\n\r\n"
        assert (await talk(runner.addresses[0][1], head + b"\x1f\x8b\x08\x00")).statuses == [200]
    finally:
        await server.close()
        await runner.cleanup()
    assert seen == b"\x1f\x8b\x08\x00"


# --- heads


async def test_heads_are_limited_both_ways(connection: CallerConnection) -> None:
    """A line of 8 KiB, 128 headers: aiohttp's own limits for callers, and ours for engines."""
    limits = (connection.max_line_size, connection.max_field_size, connection.max_headers)
    assert limits == (8190, 8190, 128)
    assert limits == (http1.LINE_MAX, http1.LINE_MAX, http1.HEADERS_MAX)


async def test_the_house_of_the_tests_is_built_with_the_same_flags(gateway: Gateway) -> None:
    """What the other tests stand on: the same server, only quicker."""
    from tests.support.house import house

    async with house() as h:
        ours, theirs = h.server._kwargs, gateway.server._kwargs
        differ = {name for name in theirs if ours.get(name) != theirs[name]}
        assert set(ours) == set(theirs) and differ == {"keepalive_timeout", "lingering_time"}
        assert h.server.handler_cancellation
