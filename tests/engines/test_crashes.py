"""An engine dies: who was in flight hears an error, who waited is served by the next one, nobody hears raw words."""

import asyncio
import contextlib
import os
import re
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import openai
import pytest

from tests.support.house import Front
from tests.support.real_house import COMPLETION, Caller, Engine, RealHouse, real_house

pytestmark = pytest.mark.engine

STORY = {"model": "demo", "prompt": [302], "max_tokens": 1500, "stream": True}
SHORT = {"model": "demo", "prompt": "Once", "max_tokens": 2}
ALONE = {"max_num_seqs": 1, "ctx_size": 2048}
KILLED = "The engine was killed by signal 9 while it served"


def kill(house: RealHouse) -> None:
    for pid in house.pids():
        os.kill(pid, signal.SIGKILL)


@contextlib.asynccontextmanager
async def begun(house: RealHouse) -> AsyncIterator[Caller]:
    """A caller who hears its stream already."""
    async with house.calling(COMPLETION, STORY) as caller:
        await caller.until(b"data: {")
        yield caller


def is_cut_with_an_error(said: bytes, code: str) -> None:
    """An error event as the last one, no `[DONE]`, and no proper end of the chunked body."""
    assert said.startswith(b"HTTP/1.1 200 ")
    *_, last = [line for line in said.split(b"\n") if line.startswith(b"data: ")]
    assert last.startswith(b'data: {"error":') and f'"code":"{code}"'.encode() in last, last
    assert b"[DONE]" not in said
    assert b"\r\n0\r\n\r\n" not in said


async def test_killed_in_mid_stream_it_is_restarted_for_those_who_wait(engine: Engine, slow_model: Path) -> None:
    async with real_house(engine, slow_model, spec=ALONE) as house, house.sdk() as sdk:
        await house.ready()
        async with begun(house) as caller:
            asked = [sdk.completions.create(model="any", prompt="Once", max_tokens=2) for _ in range(2)]
            waiting = asyncio.gather(*asked)
            await house.until(lambda: house.conductor.snapshot().waiting == 2)
            (old,) = house.pids()
            kill(house)
            is_cut_with_an_error(await caller.rest(within=5), "backend_lost")
        answers = await waiting
        assert [answer.usage.completion_tokens for answer in answers] == [2, 2]
        assert house.pids() != [old]
        assert house.conductor.snapshot().starts == 2


@pytest.mark.parametrize("gathers", [False, True], ids=["as asked", "put together"])
async def test_killed_in_a_whole_answer_its_caller_gets_502(engine: Engine, slow_model: Path, gathers: bool) -> None:
    """It may have run: it is not sent again, and the SDK is not told to try again either."""
    async with real_house(engine, slow_model, gathers=gathers) as house:
        await house.ready()
        async with house.calling(COMPLETION, STORY | {"stream": False}) as caller:
            await house.busy()
            kill(house)
            said = await caller.rest(within=5)
        assert said.startswith(b"HTTP/1.1 502 ") and b'"code":"backend_lost"' in said
        assert b"x-should-retry: true" not in said


async def test_three_quick_crashes_are_failed_with_a_sentence_of_ours(engine: Engine, slow_model: Path) -> None:
    async with real_house(engine, slow_model, spec=ALONE, retry_first=0.05) as house, house.sdk() as sdk:
        said = b""
        for crash in range(3):
            async with begun(house) as caller, asyncio.TaskGroup() as others:
                if crash == 2:
                    waiter = others.create_task(house.raw(house.request(SHORT, path=COMPLETION)))
                    await house.until(lambda: house.conductor.snapshot().waiting == 1)
                kill(house)
                said += await caller.rest(within=5)
            # Who comes while the dying process still has its socket may have been heard by it: that is 502, not this.
            await house.until(lambda: house.state.value != "ready")
        said += waiter.result()
        await house.until(lambda: house.state.value == "failed")
        with pytest.raises(openai.InternalServerError) as refused:
            await sdk.completions.create(model="any", prompt="Once", max_tokens=2)
        assert (refused.value.status_code, refused.value.code) == (503, "start_failed")
        assert KILLED in refused.value.message
        assert int(refused.value.response.headers["Retry-After"]) <= 60
        assert house.conductor.snapshot().starts == len(house.spawned) == 3
        assert_nothing_raw(said + refused.value.response.content, house)


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
async def test_an_engine_that_refuses_its_settings_keeps_its_words_for_the_log(
    engine: Engine, demo_model: Path, stream: bool
) -> None:
    """The caller hears a closed sentence; what the engine said stands in its log and in the detail for the operator."""
    wrong = {"llama-cpp-python": "no_such_parameter=7", "llama-server": "--no-such-parameter"}[engine.name]
    sizes = {"retry_first": 0.02, "grace": 0.01, "heartbeat": 0.05}
    async with real_house(engine, demo_model, spec={"engine_args": (wrong,)}, **sizes) as house:
        said = await house.raw(house.request(STORY | {"stream": stream}, path=COMPLETION))
        assert b'"code":"start_failed"' in said
        assert b"no_such" not in said and b"no-such" not in said
        snapshot = house.conductor.snapshot()
        assert snapshot.state.value == "failed"
        assert re.fullmatch(r"[A-Z][^\n]+\.", snapshot.reason)
        assert "such" in snapshot.detail
        assert_nothing_raw(said, house)


def assert_nothing_raw(said: bytes, house: Front) -> None:
    """No line of the engine's, no path, no traceback."""
    assert isinstance(house, RealHouse)
    text = said.decode("utf-8", "replace")
    assert "Traceback" not in text and str(house.log.parent) not in text and ".gguf" not in text
    for line in house.log.read_text("utf-8", "replace").splitlines():
        assert len(line) < 20 or line not in text
