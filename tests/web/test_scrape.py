"""Prometheus' questions: on PORT, on a port of its own, and to the engine itself."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator

import pytest
from aiohttp import web

from gateway.policy.lifecycle.states import State
from gateway.policy.throttle import LIMIT
from gateway.proxy.upstream import Limits, Upstream, Upstreams
from gateway.records.metrics import CONTENT_TYPE
from gateway.web.auth import Key, Keys
from gateway.web.gate import Gate
from gateway.web.scrape import Scrape, SideDoor
from gateway.web.wire import Server
from tests.support.house import CHAT, KEY, House, Received, answer, house, raw
from tests.support.wire import get_page

ADMIN_KEY = "sk-admin-0123456789"
QUICK = Limits(connect=5, first_byte=5, answer=5, gap=5, heartbeat=5)
OWN = b"# TYPE vllm:num_requests_running gauge\nvllm:num_requests_running 1.0\n"


async def test_the_engines_own_metrics_are_passed_on_as_they_are() -> None:
    async with house(script=answer(OWN, content_type="text/plain; version=0.0.4")) as h:
        await h.raw(h.request(CHAT))
        seen = len(h.engine.received)
        status, head, body = await get_page(h.port, "/metrics?engine=1")
        assert (status, body) == (200, OWN) and "text/plain; version=0.0.4" in head
        asked = h.engine.received[seen]
        assert asked.line == "GET /metrics HTTP/1.1"


async def test_an_engine_that_sleeps_is_not_woken_by_a_scrape() -> None:
    async with house() as h:
        status, _, body = await get_page(h.port, "/metrics?engine=1")
        assert status == 503 and "does not wake" in json.loads(body)["error"]["message"]
        assert (h.provider.starts, h.state) == (0, State.STOPPED)
        assert (await get_page(h.port, "/metrics"))[0] == 200


@pytest.mark.parametrize(
    ("script", "code"),
    [
        (answer({"error": "no"}, status="404 Not Found"), "route_not_supported"),
        (answer(b"x" * (5 << 20)), "backend_protocol_error"),
        (raw(b"garbage"), "backend_protocol_error"),
    ],
)
async def test_an_engine_without_metrics_is_said_so(script: object, code: str) -> None:
    async with house() as h:
        await h.raw(h.request(CHAT))
        h.engine.script = script  # type: ignore[assignment]
        _, _, body = await get_page(h.port, "/metrics?engine=1")
        assert json.loads(body)["error"]["code"] == code


async def test_however_many_ask_the_engine_is_asked_once_at_a_time() -> None:
    """The page may be open to the world: it must not be a way to keep an engine busy, or to fill our memory."""
    asked, may_answer = asyncio.Event(), asyncio.Event()

    async def script(request: Received, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.set()
        await may_answer.wait()
        await answer(OWN)(request, reader, writer)

    async with house() as h:
        await h.raw(h.request(CHAT))
        seen = len(h.engine.received)
        h.engine.script = script
        upstreams = Upstreams(lambda endpoint: Upstream(endpoint, limits=QUICK))
        scrape = Scrape(h.conductor, upstreams, h.metrics)
        leaver, *others = [asyncio.create_task(scrape.page("engine=1")) for _ in range(6)]
        await asked.wait()
        leaver.cancel()
        may_answer.set()
        assert [page.body for page in await asyncio.gather(*others)] == [OWN] * 5
        assert leaver.cancelled() and len(h.engine.received) == seen + 1
        assert (await scrape.page("engine=1")).body == OWN
        assert len(h.engine.received) == seen + 2, "an answer is not kept for later"
        upstreams.close()


async def test_a_scrape_is_no_activity() -> None:
    async with house(script=answer(OWN)) as h:
        await h.raw(h.request(CHAT))
        used = h.conductor.snapshot().last_activity
        for _ in range(3):
            await get_page(h.port, "/metrics")
            await get_page(h.port, "/metrics?engine=1")
        assert h.conductor.snapshot().last_activity == used and h.state is State.READY


# --- a port of its own


@contextlib.asynccontextmanager
async def side(h: House, *, open_to_all: bool = True) -> AsyncIterator[int]:
    upstreams = Upstreams(lambda endpoint: Upstream(endpoint, limits=None))  # type: ignore[arg-type]
    gate = Gate(
        keys=Keys([Key.of("test", KEY)]),
        admin=Keys([Key.of("admin", ADMIN_KEY)]),
        metrics_open=open_to_all,
        on_refused=h.metrics.auth_failed,
    )
    scrape = Scrape(h.conductor, upstreams, h.metrics)
    server = Server(SideDoor(scrape, gate, h.metrics.rejected), max_connections=10)
    runner = web.ServerRunner(server, handle_signals=False, shutdown_timeout=0.2)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield runner.addresses[0][1]
    finally:
        await server.close()
        await runner.cleanup()


async def test_a_port_of_its_own_has_metrics_and_nothing_else() -> None:
    async with house() as h, side(h) as port:
        status, head, body = await get_page(port, "/metrics")
        assert status == 200 and CONTENT_TYPE in head and b"wakegate_" in body
        for header in ("X-Content-Type-Options: nosniff", "default-src 'none'", "X-Request-Id: "):
            assert header in head
        for path in ("/", "/health", "/v1/models", "/metrics/", "//metrics"):
            status, refused, body = await get_page(port, path)
            assert (status, json.loads(body)["error"]["code"]) == (404, "route_not_found")
            assert "X-Request-Id: " in refused


async def test_with_keys_on_a_port_of_its_own_asks_for_one() -> None:
    async with house() as h, side(h, open_to_all=False) as port:
        assert (await get_page(port, "/metrics"))[0] == 401
        for key in (KEY, ADMIN_KEY):
            assert (await get_page(port, "/metrics", f"Authorization: Bearer {key}\r\n"))[0] == 200


async def test_a_closed_page_is_no_way_round_the_limit_on_wrong_keys() -> None:
    """Its answer tells a right key from a wrong one, so guesses are counted there, too."""
    async with house() as h, side(h, open_to_all=False) as port:
        guesses = [await get_page(port, "/metrics", f"X-API-Key: guess-{n}\r\n") for n in range(LIMIT + 1)]
        assert [status for status, _, _ in guesses] == [401] * LIMIT + [429]
        assert "Retry-After: 60" in guesses[-1][1]
        status, _, body = await get_page(port, "/metrics", f"X-API-Key: {KEY}\r\n")
        assert status == 200, "a right one passes whatever others did"
        assert f'wakegate_auth_failures_total{{reason="wrong"}} {LIMIT}'.encode() in body
        assert b'wakegate_auth_failures_total{reason="throttled"} 1' in body


async def test_with_keys_off_a_closed_page_is_the_admins() -> None:
    async with house(gate=lambda: Gate(keys=Keys([]), admin=Keys([Key.of("a", ADMIN_KEY)]), metrics_open=False)) as h:
        status, _, body = await get_page(h.port, "/metrics")
        assert status == 401 and "METRICS_AUTH_ENABLED" in json.loads(body)["error"]["message"]
        assert (await get_page(h.port, "/metrics", f"X-API-Key: {ADMIN_KEY}\r\n"))[0] == 200
