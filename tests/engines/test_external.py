"""PROVIDER=external in front of a real engine that somebody else runs on a port: the same data path, nothing to start.

The engine is the package's own server (llama_cpp.server) where llama-cpp-python is asked for: the one that people run.
"""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import aiohttp
import openai
import pytest

from gateway.policy.lifecycle.states import State
from gateway.providers.external.provider import ExternalProvider, Pace, endpoint_of
from tests.support.house import KEY, Front, Sizes, standing
from tests.support.llama import llama_server_on_a_port, reference_server
from tests.support.real_house import COMPLETION, USUAL, Caller, Engine, find_llama_server

pytestmark = pytest.mark.engine

HELLO = [{"role": "user", "content": "Hello"}]


@pytest.fixture(scope="module")
def url(engine: Engine, demo_model: Path) -> Iterator[str]:
    """Where the engine answers, without a path."""
    with contextlib.ExitStack() as stack:
        if engine.name == "llama-server":
            binary = find_llama_server()
            assert binary is not None
            words = ("--threads", "1", "--embeddings", "--parallel", "1", "--ctx-size", "2048", "--alias", "demo")
            yield stack.enter_context(llama_server_on_a_port(binary, demo_model, *words))
        else:
            words = ("--n_ctx", "2048", "--n_threads", "1", "--embedding", "true", "--model_alias", "demo")
            yield stack.enter_context(reference_server(demo_model, *words))


@contextlib.asynccontextmanager
async def in_front_of(url: str) -> AsyncIterator[tuple[Front, openai.AsyncOpenAI]]:
    """One at a time, as an operator must set it in front of the package's server."""
    async with aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as session:
        pace = Pace(first=0.05, longest=0.2, steady=0.1, within=5)
        provider = ExternalProvider(endpoint_of(url), session=session, concurrency=1, pace=pace)
        async with standing(provider, Sizes(**dict(USUAL) | {"slots": 1})) as front:
            base = f"http://127.0.0.1:{front.port}/v1"
            async with openai.AsyncOpenAI(base_url=base, api_key=KEY, max_retries=0, timeout=30) as client:
                yield front, client


@pytest.mark.parametrize("suffix", ["", "/", "/v1", "/v1/"])
async def test_the_url_may_end_as_people_write_it(url: str, suffix: str) -> None:
    async with in_front_of(url + suffix) as (front, client):
        answer = await client.chat.completions.create(model="any", messages=HELLO, max_tokens=4)
        assert answer.choices[0].message.content
        assert front.conductor.models == ("demo",)


async def test_everything_goes_the_same_way(url: str) -> None:
    async with in_front_of(url) as (front, client):
        stream = await client.chat.completions.create(model="any", messages=HELLO, max_tokens=8, stream=True)
        chunks = [chunk async for chunk in stream]
        assert chunks[-1].choices[0].finish_reason == "length"
        text = await client.completions.create(model="any", prompt="Once", max_tokens=4)
        assert text.choices[0].text
        vectors = await client.embeddings.create(model="any", input=["one", "two"])
        assert [len(item.embedding) for item in vectors.data] == [64, 64]
        with pytest.raises(openai.APIStatusError) as refused:
            await client.completions.create(model="any", prompt="Once", max_tokens="many")  # type: ignore[arg-type]
        said = refused.value.response.text
        assert ".py" not in said and "Traceback" not in said
        assert front.state is State.READY


async def test_one_after_the_other_nobody_is_cut(url: str) -> None:
    """The package's server would cut the first stream for the second request; in our line that cannot happen. Looking
    at its health meanwhile cuts nothing either."""
    story = {"model": "demo", "prompt": "Once", "max_tokens": 300, "stream": True}
    async with in_front_of(url) as (front, _):
        front.conductor.wake()
        await front.until(lambda: front.state is State.READY)
        callers = [Caller(front, COMPLETION, json.dumps(story).encode()) for _ in range(3)]
        async with contextlib.AsyncExitStack() as stack:
            for caller in callers:
                await stack.enter_async_context(caller)
            said = await asyncio.gather(*(caller.rest() for caller in callers))
    for one in said:
        assert b"data: [DONE]" in one and one.endswith(b"0\r\n\r\n") and b'"length"' in one


async def test_a_hundred_streams_back_to_back_are_answered(url: str) -> None:
    async with in_front_of(url) as (_, client):
        for _ in range(100):
            stream = await client.completions.create(model="any", prompt="Once", max_tokens=2, stream=True)
            assert [chunk.choices[0].finish_reason async for chunk in stream if chunk.choices][-1] == "length"
