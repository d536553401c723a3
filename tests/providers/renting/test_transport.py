"""The way to a vendor over real sockets: what is sent, what is not followed, and after what it may have happened."""

import socket
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from aiohttp import web

from gateway.providers.renting.transport import HttpTransport
from gateway.providers.renting.vendor import ANSWER_MAX, Unanswered

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Vendor:
    def __init__(self) -> None:
        self.answer: Handler | None = None
        self.seen: list[tuple[str, str, dict[str, str], bytes]] = []
        self.url = ""

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.seen.append((request.method, request.raw_path, dict(request.headers), await request.read()))
        assert self.answer is not None
        return await self.answer(request)


@pytest.fixture
async def vendor() -> AsyncIterator[Vendor]:
    made = Vendor()
    app = web.Application()
    app.router.add_route("*", "/{rest:.*}", made.handle)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    made.url = f"http://127.0.0.1:{runner.addresses[0][1]}/v2"
    yield made
    await runner.cleanup()


@pytest.fixture
async def way(vendor: Vendor) -> AsyncIterator[HttpTransport]:
    made = HttpTransport(vendor.url, headers={"Authorization": "Bearer rp-secret"})
    yield made
    await made.close()


async def test_the_key_goes_in_a_header_and_nowhere_else(vendor: Vendor, way: HttpTransport) -> None:
    async def answer(request: web.Request) -> web.StreamResponse:
        return web.json_response({"id": "x"}, status=201, headers={"RateLimit": '"minute";r=1;t=2'})

    vendor.answer = answer
    got = await way("POST", "/pods?a=b%2Fc", b'{"name":"x"}', 5)
    assert (got.status, got.content(), got.headers["ratelimit"]) == (201, {"id": "x"}, '"minute";r=1;t=2')
    ((method, path, headers, body),) = vendor.seen
    assert (method, path, body) == ("POST", "/v2/pods?a=b%2Fc", b'{"name":"x"}')
    assert headers["Authorization"] == "Bearer rp-secret"
    assert "secret" not in repr(way) + path


async def test_a_redirect_is_an_answer_and_is_not_followed(vendor: Vendor, way: HttpTransport) -> None:
    async def answer(request: web.Request) -> web.StreamResponse:
        return web.Response(status=302, headers={"Location": "http://127.0.0.1:1/"})

    vendor.answer = answer
    assert (await way("GET", "/pods", None, 5)).status == 302
    assert len(vendor.seen) == 1


async def test_an_answer_that_is_too_long_is_none(vendor: Vendor, way: HttpTransport) -> None:
    async def answer(request: web.Request) -> web.StreamResponse:
        return web.Response(body=b"[" + b"1," * ANSWER_MAX)

    vendor.answer = answer
    got = await way("GET", "/pods", None, 5)
    assert (got.status, got.body) == (200, b"")


async def test_a_vendor_that_says_nothing_may_have_done_it(vendor: Vendor, way: HttpTransport) -> None:
    async def answer(request: web.Request) -> web.StreamResponse:
        assert request.transport is not None
        request.transport.close()
        return web.Response()

    vendor.answer = answer
    with pytest.raises(Unanswered) as lost:
        await way("POST", "/pods", b"{}", 5)
    assert lost.value.may_have_happened


async def test_a_vendor_that_takes_too_long_may_have_done_it(way: HttpTransport) -> None:
    """A port that accepts and never says anything."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        mute = HttpTransport(f"http://127.0.0.1:{silent.getsockname()[1]}", headers={})
        with pytest.raises(Unanswered) as lost:
            await mute("POST", "/pods", b"{}", 0.2)
        await mute.close()
    assert lost.value.may_have_happened


async def test_where_nobody_listens_nothing_was_done() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    way = HttpTransport(f"http://127.0.0.1:{port}", headers={})
    with pytest.raises(Unanswered) as lost:
        await way("POST", "/pods", b"{}", 5)
    await way.close()
    assert not lost.value.may_have_happened


async def test_closing_twice_is_closing_and_it_may_be_used_again(vendor: Vendor, way: HttpTransport) -> None:
    async def answer(request: web.Request) -> web.StreamResponse:
        return web.json_response({})

    vendor.answer = answer
    await way("GET", "/", None, 5)
    await way.close()
    await way.close()
    assert (await way("GET", "/", None, 5)).status == 200
