"""Several callers at one engine: one start for all of them, and none is cut by the next."""

import asyncio
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from gateway.providers.base import Loading
from tests.support.engines import with_cookie
from tests.support.real_house import COMPLETION, Engine, OnDisk, real_house

pytestmark = pytest.mark.engine

HELLO = [{"role": "user", "content": "Hello"}]
STORY = {"model": "demo", "prompt": [302], "max_tokens": 300, "stream": True}


async def test_twenty_callers_before_it_is_ready_are_one_start(engine: Engine, demo_model: Path) -> None:
    """Whole and streamed ones; each is answered, and only one engine process ever was."""
    seen: set[int] = set()
    found = asyncio.Event()

    async def find_slowly(_tell: Callable[[Loading], None]) -> OnDisk:
        await found.wait()
        return OnDisk(demo_model)

    async with real_house(engine, demo_model, resolve=find_slowly, grace=0.05, heartbeat=0.1) as house:
        async with house.sdk() as client:

            async def ask(number: int) -> str:
                asked = {"model": "any", "messages": HELLO, "max_tokens": 3}
                if number % 2:
                    answer = await client.chat.completions.create(**asked)
                    return answer.choices[0].finish_reason
                stream = await client.chat.completions.create(**asked, stream=True)
                return [chunk.choices[0].finish_reason async for chunk in stream if chunk.choices][-1]

            callers = [asyncio.ensure_future(ask(number)) for number in range(20)]
            await house.until(lambda: house.conductor.snapshot().waiting == 20)
            found.set()
            while not all(caller.done() for caller in callers):
                seen |= set(with_cookie(house.boot))
                await asyncio.sleep(0.02)
            assert [caller.result() for caller in callers] == ["length"] * 20
        assert house.conductor.snapshot().starts == 1
        assert len(house.spawned) == 1
        assert len(seen) == 1


async def test_the_next_request_does_not_cut_a_running_stream(engine: Engine, demo_model: Path) -> None:
    """The package's own server does (interrupt_requests): there the first caller's answer just ends."""
    async with real_house(engine, demo_model, tapped=True) as house:
        await house.ready()
        async with house.calling(COMPLETION, STORY) as first:
            await first.until(b"data: ")
            async with house.calling(COMPLETION, STORY | {"max_tokens": 100}) as second:
                later, earlier = await asyncio.gather(second.rest(), first.rest())
        assert pieces(earlier) >= 300 and earlier.endswith(b"0\r\n\r\n")
        assert pieces(later) >= 100 and later.endswith(b"0\r\n\r\n")
        assert len(house.tap.posts) == 2
        assert house.tap.most_at_once == min(2, engine.slots)


async def test_nor_when_the_operator_lets_more_in_than_the_engine_takes(engine: Engine, demo_model: Path) -> None:
    """MAX_CONCURRENT_REQUESTS above the engine's own number: the line is then the engine's, and still nobody is cut."""
    spec = {"max_num_seqs": 1, "ctx_size": 2048}
    async with real_house(engine, demo_model, spec=spec, tapped=True, slots=3, adopt_slots=False) as house:
        await house.ready()
        async with house.sdk() as client:
            answers = await asyncio.gather(
                *(client.completions.create(model="any", prompt=[302 + at], max_tokens=150) for at in range(3))
            )
        assert [answer.usage.completion_tokens for answer in answers] == [150, 150, 150]
        assert house.tap.most_at_once == 3


async def test_callers_hear_each_piece_when_it_is_made(engine: Engine, slow_model: Path) -> None:
    """Nothing is gathered on the way: pieces come as the engine makes them, not together at the end."""
    clock = asyncio.get_running_loop().time
    async with real_house(engine, slow_model) as house, house.sdk() as client:
        await house.ready()
        asked = clock()
        stream = await client.chat.completions.create(model="any", messages=HELLO, max_tokens=60, stream=True)
        heard = [clock() async for chunk in stream if chunk.choices and chunk.choices[0].delta.content]
    ended = clock()
    assert len(heard) == 60
    assert heard[0] - asked < (ended - asked) / 3
    assert heard[30] < asked + (ended - asked) * 0.9


def pieces(reply: bytes) -> int:
    """Events of a raw answer that carry text."""
    events = [line[6:] for line in reply.split(b"\n") if line.startswith(b"data: {")]
    return sum(bool(choice.get("text")) for event in events for choice in json.loads(event)["choices"])
