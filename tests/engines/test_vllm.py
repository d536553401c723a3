"""vLLM by recorded behaviour (2026-11-20, see tests/support/recorded_vllm.py): its own ways to die are told as errors.

Through ENGINE=vllm, so that the command line is the real one too. vLLM itself is not installed here.
"""

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from gateway.providers.local import guard
from gateway.providers.local.commands import Installed
from tests.support.engines import alive, ask, soon
from tests.support.real_house import CHAT, SOON, Engine, RealHouse, real_house
from tests.support.vllm import is_an_error_and_no_end, recorded

HELLO = [{"role": "user", "content": "Hello"}]
STORY: dict[str, Any] = {"model": "demo", "messages": HELLO, "max_tokens": 500, "stream": True}
VLLM = Engine("vllm", args=("--recorded-dying", "0.4"), doing="/load", slots=4, context=2048)


@contextlib.asynccontextmanager
async def vllm(folder: Path, spec: dict[str, Any] | None = None, **sizes: Any) -> AsyncIterator[RealHouse]:
    installed = Installed(vllm=str(recorded(folder)), cuda=True)
    spec = {"max_num_seqs": 4} | (spec or {})
    async with real_house(VLLM, folder, spec=spec, installed=installed, retry_first=0.05, **sizes) as house:
        yield house


def parts(house: RealHouse) -> dict[str, int]:
    """Process ids by what they are: serve (the API server), core, worker."""
    found = {}
    for pid in house.pids():
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        found[words[4].decode()] = pid
    return found


async def streaming(house: RealHouse) -> Any:
    stack = contextlib.AsyncExitStack()
    caller = await stack.enter_async_context(house.calling(CHAT, STORY))
    await caller.until(b"word ")
    return stack, caller


async def test_nobody_is_refused_while_nothing_listens(tmp_path: Path) -> None:
    """It refuses connections until it is ready, and then answers all who waited, several at once."""
    async with vllm(tmp_path) as house, house.sdk() as client:
        asked = [client.chat.completions.create(model="any", messages=HELLO, max_tokens=5) for _ in range(6)]
        answers = await asyncio.gather(*asked)
        assert {answer.choices[0].finish_reason for answer in answers} == {"length"}
        assert len(house.spawned) == 1
        assert set(parts(house)) == {"serve", "core", "worker"}


async def test_sigterm_in_mid_stream_is_an_error_not_an_end(tmp_path: Path) -> None:
    """From an operator or a platform, past the gateway: "abort" and [DONE] would be taken for a whole answer."""
    async with vllm(tmp_path) as house:
        await house.ready()
        stack, caller = await streaming(house)
        async with stack:
            os.kill(parts(house)["serve"], signal.SIGTERM)
            said = await caller.rest(within=5)
        is_an_error_and_no_end(said)
        assert b'"code":"backend_lost"' in said


async def test_sigterm_in_a_whole_answer_is_502(tmp_path: Path) -> None:
    async with vllm(tmp_path) as house:
        await house.ready()
        async with house.calling(CHAT, STORY | {"stream": False}) as caller:
            await house.until(lambda: house.held == 1)
            await asyncio.sleep(0.1)
            os.kill(parts(house)["serve"], signal.SIGTERM)
            said = await caller.rest(within=5)
        assert said.startswith(b"HTTP/1.1 502 ") and b'"code":"backend_lost"' in said


async def test_a_dead_engine_core_is_an_error_and_a_restart(tmp_path: Path) -> None:
    async with vllm(tmp_path) as house, house.sdk() as client:
        await house.ready()
        stack, caller = await streaming(house)
        async with stack:
            os.kill(parts(house)["core"], signal.SIGKILL)
            said = await caller.rest(within=5)
        is_an_error_and_no_end(said)
        await house.until(lambda: house.state.value != "ready", within=5)
        answer = await client.chat.completions.create(model="any", messages=HELLO, max_tokens=3)
        assert answer.choices[0].finish_reason == "length"
        assert len(house.spawned) == 2


async def test_a_killed_api_server_leaves_none_of_its_parts(tmp_path: Path) -> None:
    """EngineCore and Worker outlive it, and would keep the GPU: the guard ends them before anything starts again."""
    async with vllm(tmp_path) as house, house.sdk() as client:
        await house.ready()
        before = parts(house)
        stack, caller = await streaming(house)
        async with stack:
            os.kill(before["serve"], signal.SIGKILL)
            is_an_error_and_no_end(await caller.rest(within=5))
        await soon(lambda: not any(map(alive, before.values())), "its parts are alive")
        answer = await client.chat.completions.create(model="any", messages=HELLO, max_tokens=3)
        assert answer.choices[0].finish_reason == "length"
        assert set(parts(house)) == {"serve", "core", "worker"}


async def test_a_caller_who_leaves_is_no_load_within_a_second(tmp_path: Path) -> None:
    async with vllm(tmp_path) as house:
        await house.ready()
        instance = house.conductor.snapshot().instance
        assert instance is not None
        for stream in (True, False):
            async with house.calling(CHAT, STORY | {"stream": stream}) as caller:
                await house.until(lambda: house.held == 1)
                await asyncio.sleep(0.1)
                assert await ask(instance.endpoint, "/load") == {"server_load": 1, "served": 2 - stream}
                caller.leave()
                async with asyncio.timeout(SOON):
                    while house.held or (await ask(instance.endpoint, "/load"))["server_load"]:  # type: ignore[index]
                        await asyncio.sleep(0.02)


async def test_a_stop_ends_all_three_processes(tmp_path: Path) -> None:
    async with vllm(tmp_path, idle_timeout=0.2) as house, house.sdk() as client:
        await client.chat.completions.create(model="any", messages=HELLO, max_tokens=3)
        before = parts(house)
        await soon(lambda: house.state.value == "stopped", "the stop")
        assert len(before) == 3
        assert not any(map(alive, before.values()))
        assert not [pid for pid in guard.processes() if guard.carries(pid, guard.COOKIE, house.boot)]


# --- Asleep instead of stopped. What the provider does with it: tests/providers/local/test_sleeping.py


@contextlib.asynccontextmanager
async def sleepy(folder: Path, *args: str, action: str = "sleep", **sizes: Any) -> AsyncIterator[RealHouse]:
    """It insists on sleep, whatever memory this machine has left. At once where nobody is there."""
    spec = {"idle_action": action, "engine_args": (*VLLM.args, *args)}
    async with vllm(folder, spec, idle_action="sleep", idle_timeout=0.1, **sizes) as house:
        yield house


def told(house: RealHouse) -> list[str]:
    """The orders about its sleep that the engine had."""
    lines = house.log.read_text().splitlines()
    return [line.removeprefix("told ").partition(" ")[0] for line in lines if line.startswith("told ")]


async def test_an_idle_engine_sleeps_and_the_next_request_wakes_it_and_a_drain_ends_it(tmp_path: Path) -> None:
    async with sleepy(tmp_path) as house, house.sdk() as client:
        for _ in range(2):
            answer = await client.chat.completions.create(model="any", messages=HELLO, max_tokens=3)
            assert answer.choices[0].message.content == "word word word "
            await house.until(lambda: house.state.value == "asleep")
        async with house.calling(CHAT, STORY | {"max_tokens": 3}) as caller:
            said = await caller.rest()
        assert said.startswith(b"HTTP/1.1 200 ") and said.count(b"word ") == 3 and b"data: [DONE]" in said
        await house.until(lambda: house.state.value == "asleep")
        await soon(lambda: [order.partition("?")[0] for order in told(house)].count("/sleep") == 3, "its sleeps")
        before = parts(house)
        await house.conductor.drain()
        assert len(house.spawned) == 1 and not any(map(alive, before.values()))


async def test_who_comes_while_it_falls_asleep_waits_and_wakes_it(tmp_path: Path) -> None:
    """Many come at any moment of many sleeps: none hangs, none is refused, and nothing is started anew."""
    async with sleepy(tmp_path) as house, house.sdk() as client:
        for step in range(6):
            answer = await client.chat.completions.create(model="any", messages=HELLO, max_tokens=1)
            assert answer.choices[0].message.content == "word "
            await asyncio.sleep(0.085 + 0.005 * step)
        assert len(house.spawned) == 1


async def test_a_wake_that_fails_is_a_new_start(tmp_path: Path) -> None:
    async with sleepy(tmp_path, "--recorded-wake", "fails") as house, house.sdk() as client:
        await house.ready()
        before = parts(house)
        await house.until(lambda: house.state.value == "asleep")
        answer = await client.chat.completions.create(model="any", messages=HELLO, max_tokens=1)
        assert answer.choices[0].message.content == "word "
        assert len(house.spawned) == 2
        assert not any(map(alive, before.values()))


async def test_a_crash_in_its_sleep_costs_nobody_an_answer(tmp_path: Path) -> None:
    async with sleepy(tmp_path) as house, house.sdk() as client:
        await house.ready()
        await house.until(lambda: house.state.value == "asleep")
        os.kill(parts(house)["serve"], signal.SIGKILL)
        await house.until(lambda: house.state.value == "stopped")
        answer = await client.chat.completions.create(model="any", messages=HELLO, max_tokens=1)
        assert answer.choices[0].message.content == "word "
        assert len(house.spawned) == 2


async def test_no_caller_reaches_the_routes_that_it_is_put_to_sleep_by(tmp_path: Path) -> None:
    async with sleepy(tmp_path) as house:
        await house.ready()
        await house.until(lambda: house.state.value == "asleep")
        await soon(lambda: told(house) != [], "its sleep")
        before = told(house)
        for route in (
            "/sleep",
            "/sleep?level=2",
            "/wake_up",
            "/is_sleeping",
            "/collective_rpc",
            "/v1/../sleep",
            "//sleep",
        ):
            async with house.calling(route, {"method": "reload_weights"}) as caller:
                said = await caller.rest()
            assert said.startswith(b"HTTP/1.1 404 "), (route, said)
        assert told(house) == before and house.state.value == "asleep"
