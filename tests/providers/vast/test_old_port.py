"""Each start of an instance has another public port, and the old one is somebody else's: no key is ever sent there.

Over real sockets: the vendor's emulator behind a port, one server for each public port of the instance, and the first
of them goes on listening, as a stranger's would.
"""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import aiohttp
from aiohttp import web

from gateway.providers.base import Endpoint, Intent, Ready
from gateway.providers.probe import Sight, look
from gateway.providers.renting.rented import Tempo
from gateway.providers.renting.transport import HttpTransport
from gateway.providers.vast.api import root_of
from gateway.providers.vast.provider import VastProvider
from tests.emulators.vast import Served, VastCloud
from tests.support.engines import ListJournal, Watcher

QUICK = Tempo(booting=0.02, ready=0.1, confirm=0.02, again=1.0, lag=0.3, look=0.02, steady=0.05)


@dataclass
class Listener:
    """One server of this machine, and what it was sent."""

    port: int = 0
    heard: list[tuple[str, str | None]] = field(default_factory=list)
    """(path, Authorization) of each request."""
    connections: int = 0


@asynccontextmanager
async def listening() -> AsyncIterator[Listener]:
    listener = Listener()

    async def answer(request: web.Request) -> web.Response:
        listener.heard.append((request.path, request.headers.get("Authorization")))
        return web.json_response({"data": [{"id": "qwen"}]})

    app = web.Application()
    app.router.add_route("*", "/{anything:.*}", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        listener.port = runner.addresses[0][1]
        yield listener
    finally:
        await runner.cleanup()


async def test_nothing_with_a_key_is_sent_to_the_port_of_an_earlier_start() -> None:
    async with listening() as old, listening() as new, aiohttp.ClientSession() as session:
        cloud = VastCloud(
            now=time.time(),
            host="127.0.0.1",
            boot=[(0.0, None), (0.1, "loading"), (0.3, "running")],
            next_ports=[old.port, new.port],
            stop_takes=0.05,
        )

        async def seen(endpoint: Endpoint, path: str, within: float) -> Sight:
            return await look(session, endpoint, path, within=within)

        async with Served(cloud, time.time) as url:
            transport = HttpTransport(root_of(url), headers={"Authorization": f"Bearer {cloud.key}"})
            provider = VastProvider(
                str(cloud.id),
                transport=transport,
                look=seen,
                now=time.time,
                key="upstream-key",
                plain_http=True,
                public_only=False,
                tempo=QUICK,
                between=0.0,
                close=transport.close,
            )
            journal = ListJournal()
            try:
                first = await provider.start(Intent("main", 1), journal)
                ready = await Watcher(provider, first).first(Ready)
                assert ready.endpoint == Endpoint(f"http://127.0.0.1:{old.port}", key="upstream-key")
                assert {key for _, key in old.heard} == {"Bearer upstream-key"}
                await provider.stop(first, within=10)
                before = len(old.heard)

                second = await provider.start(Intent("main", 2), journal)
                watcher = Watcher(provider, second)
                ready = await watcher.first(Ready)
                assert ready.endpoint == Endpoint(f"http://127.0.0.1:{new.port}", key="upstream-key")
                await provider.stop(second, within=10)
                await watcher.gone()
            finally:
                await provider.close()

    assert len(old.heard) == before
    assert {path for path, _ in new.heard} >= {"/health", "/v1/models"}
    assert cloud.started == 2
