"""Connections to an engine: nothing is lost between two requests, and no POST is ever sent twice.

llama-server closes after every streamed answer although it promised to keep the connection; with a client that pools,
about half of the streamed requests fail here (ENGINES.md, "keep-alive trap"), and one that tries again may run twice.
"""

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import pytest
import pytest_asyncio

from gateway.providers.base import Endpoint
from gateway.providers.external.provider import ExternalProvider, Pace
from gateway.proxy.pool import REST
from tests.support.house import KEY, Front, Sizes, standing
from tests.support.llama import llama_server_on_a_port
from tests.support.real_house import CHAT, ENGINES, USUAL, RealHouse, find_llama_server, real_house

pytestmark = [pytest.mark.engine, pytest.mark.asyncio(loop_scope="module")]

REQUESTS = 400
BODY = {"model": "demo", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 2, "stream": True}


async def one(client: aiohttp.ClientSession, *, stream: bool = True) -> str:
    """What a caller would call it: "whole", or what it got instead."""
    async with client.post(CHAT, json=BODY | {"stream": stream}) as answer:
        text = await answer.text()
        whole = answer.status == 200 and text.endswith("data: [DONE]\n\n" if stream else "}")
        return "whole" if whole and '"finish_reason":"length"' in text else f"{answer.status} {text}"


async def all_of_them(front: Front, callers: int, *, stream: bool) -> list[str]:
    """REQUESTS back to back, by so many callers at once."""
    todo = iter(range(REQUESTS))

    async def keep_asking(client: aiohttp.ClientSession) -> list[str]:
        return [await one(client, stream=stream) for _ in todo]

    base = f"http://127.0.0.1:{front.port}"
    async with aiohttp.ClientSession(base, headers={"Authorization": f"Bearer {KEY}"}) as client:
        told = await asyncio.gather(*(keep_asking(client) for _ in range(callers)))
    return [answer for each in told for answer in each]


@pytest.mark.parametrize("callers", [1, 4, 16])
async def test_every_streamed_request_back_to_back_is_answered_and_sent_once(
    demo_house: RealHouse, callers: int
) -> None:
    before = len(demo_house.tap.posts)
    answers = await all_of_them(demo_house, callers, stream=True)
    assert [answer for answer in answers if answer != "whole"] == []
    assert len(answers) == REQUESTS
    sent = [request.header("X-Request-Id")[0] for request in demo_house.tap.posts[before:]]
    assert len(sent) == len(set(sent)) == REQUESTS
    await demo_house.freed()


async def test_whole_answers_back_to_back_too(demo_house: RealHouse) -> None:
    """The other kind of answer, mixed with streams: what one leaves of a connection must not harm the next."""
    before = len(demo_house.tap.posts)
    base = f"http://127.0.0.1:{demo_house.port}"
    async with aiohttp.ClientSession(base, headers={"Authorization": f"Bearer {KEY}"}) as client:
        for number in range(60):
            async with client.post(CHAT, json=BODY | {"stream": number % 2 == 0}) as answer:
                assert answer.status == 200, await answer.text()
                await answer.read()
    assert len(demo_house.tap.posts) - before == 60


async def test_the_engine_gets_as_many_at_once_as_it_said(demo_house: RealHouse) -> None:
    """MAX_CONCURRENT_REQUESTS that nobody set is what the engine says of itself, and others wait in our line."""
    async with demo_house.sdk() as client:
        ask = client.chat.completions.create
        await asyncio.gather(
            *(ask(model="any", messages=[{"role": "user", "content": "Hi"}], max_tokens=60) for _ in range(16))
        )
    assert demo_house.tap.most_at_once == demo_house.engine.slots


# -- llama-server alone, with nothing of ours between ---------------------------------------------------


@dataclass
class Straight:
    """A gateway with a llama-server of which nothing is known but what it says itself."""

    front: Front
    endpoint: Endpoint

    async def tokens(self) -> int:
        """That it has written since it was started: two for each request that it ran."""
        if self.endpoint.socket is not None:
            reader, writer = await asyncio.open_unix_connection(self.endpoint.socket)
        else:
            reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        try:
            key = f"Authorization: Bearer {self.endpoint.key}\r\n" if self.endpoint.key else ""
            writer.write(f"GET /metrics HTTP/1.1\r\nHost: x\r\n{key}Connection: close\r\n\r\n".encode())
            page = (await reader.read()).decode()
        finally:
            writer.close()
        found = re.search(r"^llamacpp:tokens_predicted_total (\d+)", page, re.MULTILINE)
        assert found is not None, page
        return int(found[1])

    @property
    def _port(self) -> int:
        return int(self.endpoint.url.rpartition(":")[2])

    def connections(self) -> int:
        """Over TCP: that are open, or were closed within the last minute (TIME_WAIT), by whichever side."""
        rows = [row.split()[1:3] for row in Path("/proc/net/tcp").read_text().splitlines()[1:]]
        engine = f"{self._port:04X}"
        pairs = {frozenset(address.rpartition(":")[2] for address in row) for row in rows}
        return sum(engine in pair and "0000" not in pair for pair in pairs)


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=["tcp", "unix"])
async def straight(request: pytest.FixtureRequest, demo_model: Path) -> AsyncIterator[Straight]:
    binary = find_llama_server()
    if binary is None:
        pytest.fail("no llama-server: `make test-llama-server` builds one, WAKEGATE_TEST_LLAMA_SERVER names one")
    if request.param == "unix":
        async with real_house(ENGINES["llama-server"], demo_model) as house:
            await house.ready()
            instance = house.conductor.snapshot().instance
            assert instance is not None
            yield Straight(house, instance.endpoint)
        return
    with llama_server_on_a_port(binary, demo_model, "--threads", "1", "--metrics", "--ctx-size", "8192") as url:
        async with contextlib.AsyncExitStack() as stack:
            session = await stack.enter_async_context(aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()))
            provider = ExternalProvider(
                Endpoint(url), session=session, concurrency=4, pace=Pace(first=0.05, longest=0.2)
            )
            yield Straight(await stack.enter_async_context(standing(provider, Sizes(**USUAL))), Endpoint(url))


@pytest.mark.llama_server
@pytest.mark.parametrize("kind", ["streamed", "whole"])
@pytest.mark.parametrize("callers", [1, 4, 16, 64])
async def test_400_of_400_are_answered_by_llama_server_and_each_is_sent_once(
    straight: Straight, kind: str, callers: int
) -> None:
    """By its own account. A connection that carried an answer with a length is used again, a hundred times at most."""
    before, known = await straight.tokens(), straight.connections() if straight.endpoint.socket is None else 0
    assert await one_of(straight) == "whole"
    await asyncio.sleep(REST + 0.01)  # until its promise is believed
    answers = await all_of_them(straight.front, callers, stream=kind == "streamed")
    assert [answer for answer in answers if answer != "whole"] == []
    assert len(answers) == REQUESTS
    assert await straight.tokens() - before == 2 * (1 + REQUESTS)
    if straight.endpoint.socket is None and kind == "whole":
        assert straight.connections() - known < REQUESTS // 10


async def one_of(straight: Straight) -> str:
    base = f"http://127.0.0.1:{straight.front.port}"
    async with aiohttp.ClientSession(base, headers={"Authorization": f"Bearer {KEY}"}) as client:
        return await one(client, stream=False)
