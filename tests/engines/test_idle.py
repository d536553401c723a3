"""Idleness gives the memory back: the process is gone, and the next request brings a new one."""

import asyncio
from pathlib import Path

import pytest

from tests.support.engines import soon
from tests.support.real_house import Engine, real_house

pytestmark = pytest.mark.engine

HELLO = [{"role": "user", "content": "Hello"}]


async def test_an_idle_engine_is_ended_and_the_next_request_wakes_it(engine: Engine, demo_model: Path) -> None:
    async with real_house(engine, demo_model, idle_timeout=0.4) as house, house.sdk() as client:
        ask = client.chat.completions.create
        assert house.pids() == []
        first = await ask(model="any", messages=HELLO, max_tokens=3, temperature=0, seed=1)
        (pid,) = house.pids()
        await soon(lambda: house.state.value == "stopped", "the stop")
        assert house.pids() == []
        models = await client.models.list()  # a sleeping engine still has its model, and looking wakes nobody
        assert [model.id for model in models.data] == ["demo"]
        await asyncio.sleep(0.2)
        assert house.state.value == "stopped"

        again = await ask(model="any", messages=HELLO, max_tokens=3, temperature=0, seed=1)
        assert again.choices[0].message.content == first.choices[0].message.content
        assert house.pids() != [pid]
        assert house.conductor.snapshot().starts == 2


async def test_an_answer_longer_than_the_idle_time_is_not_idleness(engine: Engine, slow_model: Path) -> None:
    async with real_house(engine, slow_model, idle_timeout=0.3) as house:
        await house.ready()
        async with house.calling("/v1/completions", {"model": "demo", "prompt": [302], "max_tokens": 120}) as caller:
            await house.busy()
            said = await caller.rest()
        assert said.startswith(b"HTTP/1.1 200 ")
        assert house.conductor.snapshot().starts == 1
        await house.until(lambda: house.state.value == "stopped", within=10)
