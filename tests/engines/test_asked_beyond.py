"""What real engines are asked for beyond what their callers ask, and what callers hear of it: nothing.

COUNT_TOKENS asks for the count of a stream's tokens. Behind an edge that cuts silent answers a stream is asked for in
place of an answer; the house's engine is no pod behind RunPod's proxy, but is asked as one would be.
"""

import json
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import openai
import pytest
import pytest_asyncio

from gateway.proxy.reply import Reply
from tests.support.real_house import CHAT, COMPLETION, Engine, RealHouse, real_house

pytestmark = [pytest.mark.engine, pytest.mark.asyncio(loop_scope="module")]

HELLO = [{"role": "user", "content": "Hello"}]
ASKED: dict[str, Any] = {"model": "any", "max_tokens": 8, "temperature": 0, "seed": 1}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def asking(engine: Engine, demo_model: Path) -> AsyncIterator[RealHouse]:
    """A gateway that asks for more; `demo_house` is the one that does not."""
    async with real_house(engine, demo_model, tapped=True, count_tokens=True, gathers=True) as house:
        await house.ready()
        yield house


def last(house: RealHouse) -> Reply:
    reply = house.visits[-1].reply
    assert reply is not None
    return reply


# --- the count of a stream's tokens

STREAMS: dict[str, tuple[str, dict[str, Any]]] = {
    "chat": (CHAT, ASKED | {"stream": True, "messages": HELLO}),
    "text": (COMPLETION, ASKED | {"stream": True, "prompt": "Once"}),
}
KINDS = pytest.mark.parametrize("kind", list(STREAMS))
_CHANGES = re.compile(rb'("(?:id|created)": ?)(?:"[^"]*"|\d+)|("timings": ?)\{[^}]*\}')


async def streamed(house: RealHouse, kind: str, more: dict[str, Any] | None = None) -> bytes:
    """A stream's body as it came, but for what differs each time."""
    path, body = STREAMS[kind]
    async with house.calling(path, body | (more or {})) as caller:
        said = await caller.rest()
    assert said.startswith(b"HTTP/1.1 200 ") and said.endswith(b"0\r\n\r\n"), said
    chunks = said.partition(b"\r\n\r\n")[2].split(b"\r\n")[1::2]
    return _CHANGES.sub(rb"\1\2null", b"".join(chunks))


def usages(said: bytes) -> list[dict[str, Any]]:
    """What events say of usage; null, which some engines say in each, is nothing."""
    events = [json.loads(line[6:]) for line in said.splitlines() if line.startswith(b"data: {")]
    return [event["usage"] for event in events if event.get("usage")]


@KINDS
async def test_who_did_not_ask_for_the_count_sees_what_it_always_saw_and_the_gateway_knows_it(
    asking: RealHouse, demo_house: RealHouse, kind: str
) -> None:
    assert await streamed(asking, kind) == await streamed(demo_house, kind)
    assert b"include_usage" in asking.tap.posts[-1].body and b"include_usage" not in demo_house.tap.posts[-1].body
    usage = last(asking).usage
    assert usage is not None and usage.completion == 8 and usage.prompt > 0


@KINDS
async def test_so_it_is_for_who_said_that_it_does_not_want_it(
    asking: RealHouse, demo_house: RealHouse, kind: str
) -> None:
    no = {"stream_options": {"include_usage": False}}
    assert await streamed(asking, kind, no) == await streamed(demo_house, kind, no)
    usage = last(asking).usage
    assert usage is not None and usage.completion == 8


@KINDS
async def test_who_asked_for_the_count_sees_it(asking: RealHouse, demo_house: RealHouse, kind: str) -> None:
    said = await streamed(asking, kind, {"stream_options": {"include_usage": True}})
    assert said == await streamed(demo_house, kind, {"stream_options": {"include_usage": True}})
    usage = usages(said)[-1]
    known = last(asking).usage
    assert known is not None and (known.prompt, known.completion) == (usage["prompt_tokens"], 8)


# --- one answer, put together from a stream

CHANGING = {"id", "created", "timings", "system_fingerprint"}
"""A tool call has an id, too."""
FUNCTION = {
    "name": "say",
    "parameters": {"type": "object", "properties": {"loud": {"type": "boolean"}}, "required": ["loud"]},
}
TOOL = {
    "messages": HELLO,
    "max_tokens": 60,
    "tools": [{"type": "function", "function": FUNCTION}],
    "tool_choice": {"type": "function", "function": {"name": "say"}},
}


async def outcome(house: RealHouse, path: str, body: dict[str, Any]) -> tuple[int, Any]:
    """Status and JSON, without what differs from one answer to the next."""
    async with house.sdk() as client:
        try:
            said = await client.post(path.removeprefix("/v1"), body=body, cast_to=dict[str, Any])
        except openai.APIStatusError as refused:
            return refused.status_code, refused.body
    return 200, lasting(said)


def lasting(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: lasting(each) for name, each in value.items() if name not in CHANGING}
    return [lasting(each) for each in value] if isinstance(value, list) else value


@pytest.mark.parametrize(
    ("path", "more", "status"),
    [
        pytest.param(CHAT, {"messages": HELLO}, 200, id="chat"),
        pytest.param(CHAT, {"messages": HELLO, "stop": ["a"]}, 200, id="chat that stops"),
        pytest.param(CHAT, {"messages": HELLO, "logprobs": True, "top_logprobs": 2}, 200, id="chat with logprobs"),
        pytest.param(CHAT, TOOL, 200, id="chat with a tool"),
        pytest.param(COMPLETION, {"prompt": "Once"}, 200, id="text"),
        pytest.param(COMPLETION, {"prompt": "Once", "logprobs": 2}, 200, id="text with logprobs"),
        pytest.param(COMPLETION, {"prompt": [300] * 9000}, 400, id="a prompt that is too long"),
        pytest.param(CHAT, {"messages": HELLO, "temperature": "hot"}, 400, id="a wrong value"),
    ],
)
async def test_an_answer_that_is_put_together_is_the_engines_own(
    asking: RealHouse, demo_house: RealHouse, path: str, more: dict[str, Any], status: int
) -> None:
    """Its refusals, too, with the status and the words that they have without a stream."""
    whole = await outcome(demo_house, path, ASKED | more)
    assert whole[0] == status
    assert await outcome(asking, path, ASKED | more) == whole
    assert b'"stream":true' in asking.tap.posts[-1].body and b'"stream":true' not in demo_house.tap.posts[-1].body
    if status == 200:
        usage = last(asking).usage
        said = whole[1]["usage"]
        assert usage is not None and (usage.prompt, usage.completion) == (
            said["prompt_tokens"],
            said["completion_tokens"],
        )


async def test_several_answers_at_once_are_as_the_engine_has_them(
    asking: RealHouse, demo_house: RealHouse, engine: Engine
) -> None:
    """Two of them, or its refusal."""
    two = ASKED | {"messages": HELLO, "n": 2}
    whole = await outcome(demo_house, CHAT, two)
    assert await outcome(asking, CHAT, two) == whole
    assert whole[0] == (200 if engine.name == "llama-server" else 400)


async def test_the_sdk_reads_it_as_any_answer(asking: RealHouse) -> None:
    async with asking.sdk() as client:
        chat = await client.chat.completions.create(messages=HELLO, **ASKED)
        text = await client.completions.create(prompt="Once", **ASKED)
    assert chat.choices[0].message.content and chat.choices[0].finish_reason == "length"
    assert text.choices[0].text and text.object == "text_completion"
    assert chat.usage is not None and chat.usage.completion_tokens == 8
