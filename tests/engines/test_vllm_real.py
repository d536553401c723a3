"""The gateway against a real vLLM, on a CPU (`make test-vllm` installs it): minutes, so not part of ./test.sh.

What is asserted here is what tests/support/recorded_vllm.py plays for everybody else (test_vllm.py); where vLLM
changes, this is where it is seen. Sleep frees nothing on a CPU, and its flag is refused there: it is taken off the
command line, and the rest of the way is the real one.
"""

import asyncio
import contextlib
import json
import os
import shlex
import signal
import time
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from gateway.providers.local import sleeping
from gateway.providers.local.commands import Installed
from tests.support.engines import alive, ask, soon
from tests.support.real_house import CHAT, SOON, Engine, RealHouse, real_house
from tests.support.vllm import ENVIRONMENT, find_vllm, is_an_error_and_no_end

pytestmark = pytest.mark.vllm

HELLO = [{"role": "user", "content": "Hello"}]
ASKED: dict[str, Any] = {"model": "demo", "messages": HELLO, "max_tokens": 20, "temperature": 0}
STORY = ASKED | {"max_tokens": 3000, "ignore_eos": True, "stream": True}
PATIENCE = 240.0
"""Seconds that a start may take on a busy machine: alone it takes 25."""
LOADED = ("--enforce-eager", "--enable-server-load-tracking")
VLLM = Engine("vllm", args=LOADED, doing="/load", slots=4, context=4096)


@contextlib.asynccontextmanager
async def vllm(
    folder: Path, *args: str, sleeps: bool = False, env: Mapping[str, str] | None = None, **sizes: Any
) -> AsyncIterator[RealHouse]:
    """A gateway with a real vLLM. The folder is for what this start needs beside it."""
    found = find_vllm()
    if found is None:
        pytest.fail("no vLLM: `make test-vllm` installs one, WAKEGATE_TEST_VLLM names the folder of one")
    program = found / "bin" / "vllm"
    spec: dict[str, Any] = {"max_num_seqs": 4, "max_model_len": 4096, "engine_env": ENVIRONMENT | dict(env or {})}
    spec["engine_args"] = (*LOADED, *args)
    if sleeps:
        program = without_its_flag(program, folder)
        spec["idle_action"] = "sleep"
        sizes |= {"idle_action": "sleep"}
    patient: dict[str, Any] = {"hold_max": PATIENCE, "first_byte": PATIENCE, "retry_first": 0.1, "grace": 2.0}
    installed = Installed(vllm=str(program), cuda=sleeps)
    async with real_house(VLLM, found / "model", spec=spec, installed=installed, **(patient | sizes)) as house:
        yield house


def without_its_flag(program: Path, folder: Path) -> Path:
    """`vllm serve` less `--enable-sleep-mode`: on a CPU the routes are there all the same."""
    script = folder / "vllm"
    lines = ["#!/bin/sh", 'for word; do shift; [ "$word" = --enable-sleep-mode ] || set -- "$@" "$word"; done']
    script.write_text("\n".join([*lines, f'exec {shlex.quote(str(program))} "$@"', ""]))
    script.chmod(0o755)
    return script


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def ready(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[RealHouse]:
    """One for the tests that leave it as it was."""
    async with vllm(tmp_path_factory.mktemp("vllm")) as house:
        await house.ready(within=PATIENCE)
        yield house


def processes(house: RealHouse) -> dict[str, int]:
    """By what vLLM calls them: VLLM::EngineCore, VLLM::Worker, and its API server."""
    found = {}
    for pid in house.pids():
        with contextlib.suppress(OSError):
            title = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace")
            for name in ("EngineCore", "Worker"):
                if name in title:
                    found[name] = pid
            if "\0serve\0" in title:
                found["serve"] = pid
    return found


async def answered(house: RealHouse) -> str:
    """What it says to a request that is held for as long as a start takes."""
    async with house.calling(CHAT, ASKED) as caller:
        said = await caller.rest(within=PATIENCE)
    head, _, body = said.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 "), said
    answer = json.loads(body)
    assert answer["choices"][0]["finish_reason"] == "length"
    return str(answer["choices"][0]["message"]["content"])


# --- One that is ready


@pytest.mark.asyncio(loop_scope="module")
async def test_it_answers_whole_and_in_a_stream_the_same(ready: RealHouse) -> None:
    async with ready.calling(CHAT, ASKED | {"stream": True}) as caller:
        said = await caller.rest(within=60)
    assert said.count(b"data: [DONE]") == 1
    events = [json.loads(line[6:]) for line in said.split(b"\n") if line.startswith(b"data: {")]
    told = "".join(event["choices"][0]["delta"].get("content") or "" for event in events if event["choices"])
    assert told == await answered(ready)


@pytest.mark.asyncio(loop_scope="module")
async def test_several_are_answered_at_once(ready: RealHouse) -> None:
    async with ready.sdk() as client:
        asked = [client.chat.completions.create(**ASKED) for _ in range(4)]
        answers = await asyncio.gather(*asked)
    assert len({answer.choices[0].message.content for answer in answers}) == 1
    assert ready.conductor.snapshot().starts == 1


@pytest.mark.asyncio(loop_scope="module")
async def test_its_own_refusals_reach_the_caller(ready: RealHouse) -> None:
    async with ready.calling(CHAT, ASKED | {"max_tokens": 100_000}) as caller:
        said = await caller.rest(within=60)
    assert said.startswith(b"HTTP/1.1 400 ") and b"max_tokens" in said


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.asyncio(loop_scope="module")
async def test_a_caller_who_leaves_is_no_load_within_a_second(ready: RealHouse, stream: bool) -> None:
    instance = ready.conductor.snapshot().instance
    assert instance is not None
    async with ready.calling(CHAT, STORY | {"stream": stream}) as caller:
        await ready.until(lambda: ready.held == 1)
        async with asyncio.timeout(20):
            while (await ask(instance.endpoint, "/load")) != {"server_load": 1}:
                await asyncio.sleep(0.02)
        caller.leave()
        began = time.monotonic()
        while ready.held or (await ask(instance.endpoint, "/load")) != {"server_load": 0}:
            assert time.monotonic() - began < 10 * SOON  # a second alone; this machine may be busy
            await asyncio.sleep(0.02)


@pytest.mark.asyncio(loop_scope="module")
async def test_its_own_routes_are_not_reachable(ready: RealHouse) -> None:
    for route in ("/tokenize", "/invocations", "/metrics/", "/sleep", "/collective_rpc", "/load"):
        async with ready.calling(route, {}) as caller:
            assert (await caller.rest()).startswith(b"HTTP/1.1 404 "), route


# --- From nothing to the end


async def test_who_comes_first_is_held_and_answered_and_a_drain_lets_them_finish(tmp_path: Path) -> None:
    async with vllm(tmp_path, heartbeat=1.0) as house:
        async with house.calling(CHAT, STORY | {"max_tokens": 200}) as caller:
            said = await caller.until(b"data: ", within=PATIENCE)
            assert said.startswith(b"HTTP/1.1 200 ") and b"\n: " in said
            parts = processes(house)
            assert set(parts) == {"serve", "EngineCore", "Worker"}
            draining = asyncio.ensure_future(house.conductor.drain())
            said = await caller.rest(within=60)
        assert said.count(b"data: [DONE]") == 1 and b'"finish_reason":"length"' in said
        await draining
        assert not any(map(alive, parts.values()))


async def test_a_killed_api_server_leaves_none_of_its_parts_and_the_next_is_answered(tmp_path: Path) -> None:
    async with vllm(tmp_path) as house:
        await house.ready(within=PATIENCE)
        parts = processes(house)
        async with house.calling(CHAT, STORY) as caller:
            await caller.until(b"data: {", within=60)
            os.kill(parts["serve"], signal.SIGKILL)
            is_an_error_and_no_end(await caller.rest(within=30))
        await soon(lambda: not any(map(alive, parts.values())), "its parts are alive", within=30)
        assert await answered(house)
        assert len(house.spawned) == 2


async def test_a_killed_engine_core_is_an_error_and_a_restart(tmp_path: Path) -> None:
    async with vllm(tmp_path) as house:
        await house.ready(within=PATIENCE)
        parts = processes(house)
        async with house.calling(CHAT, STORY) as caller:
            await caller.until(b"data: {", within=60)
            os.kill(parts["EngineCore"], signal.SIGKILL)
            is_an_error_and_no_end(await caller.rest(within=30))
        await house.until(lambda: house.state.value != "ready", within=30)
        assert await answered(house)
        assert not any(map(alive, parts.values()))


async def test_a_sigterm_past_the_gateway_is_an_error_and_no_end(tmp_path: Path) -> None:
    async with vllm(tmp_path) as house:
        await house.ready(within=PATIENCE)
        parts = processes(house)
        async with house.calling(CHAT, STORY) as caller:
            await caller.until(b"data: {", within=60)
            os.kill(parts["serve"], signal.SIGTERM)
            is_an_error_and_no_end(await caller.rest(within=30))
        await soon(lambda: not any(map(alive, parts.values())), "its parts are alive", within=60)


async def test_a_cache_that_cannot_hold_one_request_is_told_with_the_setting_that_helps(tmp_path: Path) -> None:
    async with vllm(tmp_path, "--max-model-len=2000000", env={"VLLM_ALLOW_LONG_MAX_MODEL_LEN": "1"}) as house:
        async with house.calling(CHAT, ASKED) as caller:
            said = await caller.rest(within=PATIENCE)
        assert said.startswith((b"HTTP/1.1 503 ", b"HTTP/1.1 500 ")), said
        assert b"MAX_MODEL_LEN" in said
        assert len(house.spawned) == 1  # another try would fail the same way


# --- Asleep


@pytest.mark.parametrize("depth", [1, 2])
async def test_it_sleeps_and_wakes_and_says_the_same(
    tmp_path: Path, depth: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    if depth == 2:
        monkeypatch.setattr(sleeping, "SPARE", 1 << 60)
    async with vllm(tmp_path, sleeps=True, idle_timeout=1.0) as house:
        first = await answered(house)
        await house.until(lambda: house.state.value == "asleep", within=60)
        parts = processes(house)
        instance = house.conductor.snapshot().instance
        assert instance is not None
        assert await ask(instance.endpoint, "/is_sleeping") == {"is_sleeping": True}
        assert await ask(instance.endpoint, "/v1/models") is not None  # it looks as if it served
        assert await answered(house) == first
        await house.until(lambda: house.state.value == "asleep", within=60)
        assert f"level={depth}" in house.log.read_text()
        await house.conductor.drain()
        assert len(house.spawned) == 1
        assert not any(map(alive, parts.values()))


async def test_a_request_to_a_sleeping_one_hangs_which_is_why_the_gateway_knows(tmp_path: Path) -> None:
    """Put to sleep by somebody else, past the gateway: it notices, and starts a new one for whoever comes."""
    async with vllm(tmp_path, sleeps=True, idle_timeout=600.0) as house:
        await house.ready(within=PATIENCE)
        instance = house.conductor.snapshot().instance
        assert instance is not None
        session = sleeping.private_session(instance.endpoint.socket)
        async with session.post(f"{instance.endpoint.url}/sleep?level=1") as answer:
            assert answer.status == 200
        await sleeping.settle(session)
        await house.until(lambda: house.state.value == "asleep", within=30)
        assert await answered(house)
        assert len(house.spawned) == 2
