"""A caller who leaves gives the engine back within a second, in every phase, and what comes next is right.

With a model whose 5,000-token prefill takes many seconds: without cancelling, each of these tests would fail by far.
"""

import asyncio
import contextlib
import json
import time
from typing import Any

import pytest

from tests.support.llama import Answer, Child

pytestmark = pytest.mark.engine

CHAT, COMPLETION = "/v1/chat/completions", "/v1/completions"
LONG = [300 + at % 280 for at in range(5000)]
SHORT = {"prompt": [301], "max_tokens": 1, "temperature": 0}
PROMPT = (COMPLETION, {"prompt": LONG, "max_tokens": 5})
ANSWER = (COMPLETION, {"prompt": [302, 303], "max_tokens": 4000})
SOON = 1.0
"""Seconds from the caller's leaving to the next caller's answer."""


class Caller:
    """One request over a socket of its own, that can be dropped at any time as a dead client would."""

    def __init__(self, child: Child, route: str, body: Answer) -> None:
        self._child, self._route, self._body = child, route, json.dumps(body).encode()

    async def __aenter__(self) -> "Caller":
        self._reader, self._writer = await asyncio.open_unix_connection(str(self._child.socket))
        head = f"POST {self._route} HTTP/1.1\r\nHost: engine\r\nContent-Length: {len(self._body)}\r\n\r\n"
        self._writer.write(head.encode() + self._body)
        await self._writer.drain()
        return self

    async def __aexit__(self, *_: object) -> None:
        self.leave()

    async def until_first_event(self) -> None:
        await asyncio.wait_for(self._reader.readuntil(b"data: "), 30)

    def leave(self) -> None:
        with contextlib.suppress(RuntimeError):
            self._writer.transport.abort()


async def next_answer_within(child: Child, seconds: float) -> None:
    began = time.monotonic()
    status, _ = await child.post(COMPLETION, SHORT)
    took = time.monotonic() - began
    assert status == 200
    assert took < seconds, f"the engine was held for {took:.1f} s"


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("what", [PROMPT, ANSWER], ids=["prefill", "answer"])
async def test_leaving_frees_the_engine(slow_child: Child, what: tuple[str, Answer], stream: bool) -> None:
    route, body = what
    async with Caller(slow_child, route, {**body, "stream": stream}) as caller:
        await slow_child.until(busy=True)
        if what is ANSWER and stream:
            await caller.until_first_event()
        await asyncio.sleep(0.3)  # into the work
        assert (await slow_child.get("/health"))[1]["busy"]
        caller.leave()
        await next_answer_within(slow_child, SOON)


async def test_leaving_the_line_frees_the_place(slow_child: Child) -> None:
    """And does not touch the one that runs, nor the ones behind."""
    async with Caller(slow_child, *ANSWER) as running, Caller(slow_child, *PROMPT) as waiting:
        await slow_child.until(busy=True, waiting=1)
        waiting.leave()
        await slow_child.until(busy=True, waiting=0)
        running.leave()
        await next_answer_within(slow_child, SOON)


async def test_many_who_leave_at_once_leave_nothing(slow_child: Child) -> None:
    async with contextlib.AsyncExitStack() as callers:
        for number in range(12):
            await callers.enter_async_context(Caller(slow_child, *(PROMPT if number % 2 else ANSWER)))
        await slow_child.until(busy=True, waiting=11)
    await next_answer_within(slow_child, SOON)
    await slow_child.until(busy=False, waiting=0)


async def test_an_answer_after_a_stopped_prefill_is_the_one_of_a_fresh_engine(slow_child: Child) -> None:
    """The prompt begins like the stopped one, so that what was kept of it is used; once in that very part."""
    asked: dict[str, Any] = {"prompt": LONG[:700], "max_tokens": 12, "temperature": 0}
    await slow_child.post(COMPLETION, {**SHORT, "prompt": [580]})  # nothing kept that begins like it
    _, fresh = await slow_child.post(COMPLETION, asked)
    await slow_child.post(COMPLETION, {**SHORT, "prompt": [580]})
    for wait in (0.2, 0.9):
        async with Caller(slow_child, *PROMPT) as caller:
            await slow_child.until(busy=True)
            await asyncio.sleep(wait)
            caller.leave()
        await slow_child.until(busy=False)
        _, after = await slow_child.post(COMPLETION, asked)
        assert after["choices"][0]["text"] == fresh["choices"][0]["text"]
        assert after["usage"] == fresh["usage"]


async def test_the_next_request_does_not_cut_a_running_stream(slow_child: Child) -> None:
    running = asyncio.create_task(slow_child.stream(COMPLETION, {"prompt": [302], "max_tokens": 60, "temperature": 0}))
    await slow_child.until(busy=True)
    status, _ = await slow_child.post(COMPLETION, SHORT)
    chunks = await running
    assert status == 200
    assert len(chunks) >= 60
    assert chunks[-1]["choices"][0]["finish_reason"] == "length"


async def test_leaving_while_embedding_frees_the_engine(slow_child: Child) -> None:
    body = {"input": [LONG[at : at + 400] for at in range(0, 4000, 100)]}
    async with Caller(slow_child, "/v1/embeddings", body) as caller:
        await slow_child.until(busy=True)
        await asyncio.sleep(0.3)
        caller.leave()
        await next_answer_within(slow_child, SOON)
