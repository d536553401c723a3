"""What is read of a stream on its way, and that one that was cut is never taken for a whole one.

How bytes pass is in `test_connection.py`, `test_framing.py` and `test_back_pressure.py`; here is what the gateway knows
of them afterwards.
"""

import asyncio
import json
from types import SimpleNamespace
from typing import cast

import pytest

from gateway.proxy.connection import Connection
from gateway.proxy.dialects import ANTHROPIC, OPENAI, RESPONSES, Dialect
from gateway.proxy.reply import Reply
from gateway.proxy.stream import EventStream
from tests.support.house import (
    CHAT,
    KEY,
    STREAM_HEAD,
    STREAMED,
    House,
    Received,
    Script,
    chunked,
    event,
    house,
    stream,
)
from tests.support.large import DONE, MB, Drinker, Spring
from tests.support.loops import BOTH_LOOPS
from tests.support.wire import talk

Reader, Writer = asyncio.StreamReader, asyncio.StreamWriter


async def settled(h: House, number: int = 1) -> list[Reply]:
    """The replies of all visits, once so many are over."""
    await h.until(lambda: len(h.visits) == number)
    return [cast(Reply, visit.reply) for visit in h.visits]


# --- when, and how many


def paced(*steps: bytes | float) -> Script:
    """Events, and seconds between them."""

    async def script(request: Received, reader: Reader, writer: Writer) -> None:
        writer.write(STREAM_HEAD)
        for step in steps:
            if isinstance(step, bytes):
                writer.write(chunked(step))
            else:
                await asyncio.sleep(step)
        writer.write(b"0\r\n\r\n")

    return script


ROLE = b'data: {"choices":[{"index":0,"delta":{"role":"assistant","content":""},"finish_reason":null}]}\n\n'


@BOTH_LOOPS
async def test_the_first_byte_the_first_token_and_the_longest_gap_are_known() -> None:
    """The first event says who speaks, a later one the first word; the company that is kept meanwhile is neither."""
    script = paced(0.15, ROLE, 0.1, event("a"), event("b"), 0.2, event("c", "stop"), DONE)
    async with house(script=script, heartbeat=0.05) as h:
        heard = await talk(h.port, h.request(STREAMED))
        assert heard.data.endswith(b"0\r\n\r\n") and b": " in heard.only.body.split(b"data:")[0]
        (reply,) = await settled(h)
        began = h.visits[0].began
        assert reply.first_byte_at is not None and reply.first_token_at is not None
        assert 0.14 < reply.first_byte_at - began < 0.24
        assert 0.09 < reply.first_token_at - reply.first_byte_at < 0.19
        assert 0.19 < reply.longest_gap < 0.3
        assert reply.events == 5
        assert 0.14 < reply.timings["first_event"] < 0.25


async def test_an_answer_that_is_no_stream_has_a_first_byte_and_no_first_token() -> None:
    async with house() as h:
        await talk(h.port, h.request(CHAT))
        (reply,) = await settled(h)
        assert reply.first_byte_at is not None
        assert (reply.first_token_at, reply.longest_gap, reply.events) == (None, 0.0, 0)


@BOTH_LOOPS
async def test_the_time_in_which_a_caller_did_not_read_is_no_gap_of_the_engines() -> None:
    async with house(script=Spring("events", 16 * MB), write_timeout=10, gap=10) as h, Drinker(h.port) as caller:
        await caller.ask(h.request(STREAMED))
        await caller.head()
        await asyncio.sleep(0.5)
        await caller.drink()
        (reply,) = await settled(h)
        assert caller.is_whole and reply.longest_gap < 0.4


def named(kind: str, **more: object) -> bytes:
    return f"event: {kind}\ndata: {json.dumps({'type': kind} | more)}\n\n".encode()


def delta(**said: object) -> bytes:
    return b"data: " + json.dumps({"choices": [{"index": 0, "delta": said, "finish_reason": None}]}).encode() + b"\n\n"


def call(**function: str) -> bytes:
    return delta(tool_calls=[{"index": 0, "function": function}])


@pytest.mark.parametrize(
    ("dialect", "silent", "token"),
    [
        pytest.param(OPENAI, [delta(role="assistant", content="")], delta(content="a"), id="chat"),
        pytest.param(OPENAI, [delta(role="assistant", content=None)], delta(content='"'), id="chat, a quote"),
        pytest.param(OPENAI, [b": ping\n\n", ROLE], delta(reasoning_content="a"), id="thinking"),
        pytest.param(OPENAI, [ROLE], delta(reasoning="a"), id="thinking, vLLM"),
        pytest.param(OPENAI, [ROLE], delta(refusal="a"), id="a refusal"),
        pytest.param(OPENAI, [ROLE, call(name="f", arguments="")], call(arguments="{"), id="a tool"),
        pytest.param(
            OPENAI, [b'data: {"choices":[{"text":""}]}\n\n'], b'data: {"choices":[{"text":"a"}]}\n\n', id="text"
        ),
        pytest.param(
            RESPONSES,
            [named("response.created", response={"output": [], "text": {"format": {"type": "text"}}})],
            named("response.output_text.delta", delta="a"),
            id="responses",
        ),
        pytest.param(
            ANTHROPIC,
            [
                named("message_start", message={"content": [], "usage": {"input_tokens": 3}}),
                named("content_block_start", content_block={"type": "text", "text": ""}),
                named("ping"),
            ],
            named("content_block_delta", delta={"type": "text_delta", "text": "a"}),
            id="messages",
        ),
        pytest.param(
            ANTHROPIC,
            [named("content_block_start", content_block={"type": "tool_use", "name": "f", "input": {}})],
            named("content_block_delta", delta={"type": "input_json_delta", "partial_json": "{"}),
            id="messages, a tool",
        ),
        pytest.param(
            ANTHROPIC,
            [named("content_block_start", content_block={"type": "thinking", "thinking": ""})],
            named("content_block_delta", delta={"type": "thinking_delta", "thinking": "a"}),
            id="messages, thinking",
        ),
    ],
)
async def test_the_first_token_is_the_first_event_that_says_something(
    dialect: Dialect, silent: list[bytes], token: bytes
) -> None:
    heard: list[bytes] = []
    reply = SimpleNamespace(
        dialect=dialect, first_token_at=None, events=0, pass_now=lambda data, framed=None: heard.append(data) is None
    )
    stream = EventStream(cast(Connection, None), cast(Reply, reply), choices=1)
    for each in silent:
        stream.take(each, None)
    assert reply.first_token_at is None
    stream.take(token, None)
    assert reply.first_token_at is not None and b"".join(heard) == b"".join(silent) + token


USAGE = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}
COUNTED = b'data: {"choices":[],"usage":%b}\n\n' % json.dumps(USAGE).encode()


@pytest.mark.parametrize("last_chunk", [True, False], ids=["whole", "cut"])
async def test_what_a_stream_says_it_cost_is_known_also_when_it_is_cut(last_chunk: bool) -> None:
    script = stream(event("a"), event("", "stop"), COUNTED, done=last_chunk, last_chunk=last_chunk)
    async with house(script=script) as h:
        assert COUNTED in (await talk(h.port, h.request(STREAMED))).data
        (reply,) = await settled(h)
        assert reply.usage is not None and (reply.usage.prompt, reply.usage.completion) == (7, 3)


# --- whole, or cut


def ends(*parts: bytes, politely: bool) -> Script:
    """These bytes behind a stream's head, and then the end of the connection."""

    async def script(request: Received, reader: Reader, writer: Writer) -> None:
        writer.write(STREAM_HEAD + b"".join(parts))
        await writer.drain()
        if not politely:
            await asyncio.sleep(0.02)  # a reset takes away what was not yet read
            writer.transport.abort()

    return script


def half(whole: bytes) -> bytes:
    return whole[: len(whole) // 2]


FIRST, LAST = event("a"), event("", "stop")
PLACES = pytest.mark.parametrize(
    ("parts", "is_whole", "passed"),
    [
        pytest.param([], False, b"", id="before the first"),
        pytest.param([chunked(FIRST)], False, FIRST, id="between chunks"),
        pytest.param([chunked(FIRST), half(chunked(FIRST))], False, FIRST, id="inside a chunk"),
        pytest.param([chunked(FIRST), chunked(FIRST)[:-2]], False, FIRST * 2, id="behind an event, inside a chunk"),
        pytest.param([chunked(FIRST), chunked(half(LAST))], False, FIRST, id="inside an event"),
        pytest.param([chunked(FIRST), half(chunked(LAST))], False, FIRST, id="inside the last event"),
        pytest.param([chunked(FIRST), chunked(LAST)], True, FIRST + LAST, id="behind finish_reason"),
        pytest.param(
            [chunked(FIRST), chunked(LAST), half(chunked(COUNTED))], True, FIRST + LAST, id="inside what it cost"
        ),
        pytest.param([chunked(FIRST), chunked(LAST), chunked(DONE)], True, FIRST + LAST + DONE, id="behind [DONE]"),
        pytest.param(
            [chunked(FIRST), chunked(LAST), chunked(DONE), b"0\r\n"], True, FIRST + LAST + DONE, id="inside its end"
        ),
    ],
)


async def assert_whole_or_lost(script: Script, is_whole: bool, passed: bytes) -> None:
    async with house(script=script, gap=5, first_byte=5) as h:
        heard = await talk(h.port, h.request(STREAMED))
        assert heard.closed and heard.statuses == [200]
        body, error, _ = heard.only.body.partition(b'data: {"error"')
        assert body == passed
        assert bool(error) is not is_whole and (b"backend_lost" in heard.data) is not is_whole
        assert heard.data.endswith(b"0\r\n\r\n") is is_whole
        assert (h.visits[0].outcome, h.visits[0].code) == (("answered", "") if is_whole else ("failed", "backend_lost"))


@pytest.mark.parametrize("body", [CHAT, STREAMED], ids=["put together", "stream"])
async def test_an_engine_that_said_its_end_and_leaves_its_answer_open_has_said_all(body: dict[str, object]) -> None:
    """It is waited for a few seconds, no longer than for any silence, and no error and no comment follows its end."""

    async def stays(request: Received, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(STREAM_HEAD + chunked(FIRST) + chunked(LAST) + chunked(DONE))
        await asyncio.sleep(60)

    async with house(script=stays, gap=0.2, heartbeat=0.05, first_byte=5, gathers=body is CHAT) as h:
        only = (await talk(h.port, h.request(body))).only
        if body is CHAT:
            assert only.json["choices"][0]["message"]["content"] == "a"
        else:
            assert only.body == FIRST + LAST + DONE
        assert h.visits[0].outcome == "answered"
        await h.until(lambda: h.engine.left == 1, within=1)


@BOTH_LOOPS
@PLACES
async def test_an_engine_that_dies_in_a_stream_has_said_all_or_is_lost(
    parts: list[bytes], is_whole: bool, passed: bytes
) -> None:
    """It has when each choice has its finish_reason, or [DONE] was said: what then ends the connection cuts nothing
    off. Otherwise the last event is an error, and the last chunk is missing, so that nobody takes it for success."""
    await assert_whole_or_lost(ends(*parts, politely=False), is_whole, passed)


@PLACES
async def test_so_it_is_with_one_that_closes_its_connection(parts: list[bytes], is_whole: bool, passed: bytes) -> None:
    await assert_whole_or_lost(ends(*parts, politely=True), is_whole, passed)


@PLACES
async def test_so_it_is_with_an_answer_that_is_put_together_from_a_stream(
    parts: list[bytes], is_whole: bool, passed: bytes
) -> None:
    """Its caller hears a whole answer, or an error with a status."""
    async with house(script=ends(*parts, politely=True), gathers=True) as h:
        only = (await talk(h.port, h.request(CHAT))).only
        if is_whole:
            assert only.status == 200 and only.json["choices"][0]["message"]["content"] == "a"
        else:
            assert only.status == 502 and only.json["error"]["code"] == "backend_lost"


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        ({"message": "no such grammar", "code": 400}, 400, "invalid_request"),
        ({"message": "out of memory", "code": 500}, 502, "backend_error"),
    ],
)
async def test_an_error_in_the_stream_of_an_answer_that_is_put_together_has_its_status(
    error: dict[str, object], status: int, code: str
) -> None:
    """Engines that stream say 200 first, and what is wrong later: vLLM an invalid grammar, for one."""
    said = b"data: " + json.dumps({"error": error}).encode() + b"\n\n"
    async with house(script=stream(event("a"), said), gathers=True) as h:
        only = (await talk(h.port, h.request(CHAT))).only
        assert only.status == status and only.json["error"]["code"] == code
        assert only.json["error"]["message"] == error["message"]
        h.engine.script = stream(event("a"), said)
        heard = await talk(h.port, h.request(STREAMED))
        assert heard.statuses == [200] and f'"code":"{code}"'.encode() in heard.data and b"[DONE]" not in heard.data


async def test_an_answer_that_is_put_together_is_timed_and_counted() -> None:
    script = stream(event("a"), event("b"), event("", "stop"), COUNTED)
    async with house(script=script, gathers=True) as h:
        await talk(h.port, h.request(CHAT))
        assert h.engine.received[0].json["stream_options"] == {"include_usage": True}
        (reply,) = await settled(h)
        assert reply.first_byte_at is not None and reply.first_token_at is None
        assert reply.usage is not None and reply.usage.completion == 3 and reply.events == 5


def asked(path: str, body: bytes, kind: str) -> bytes:
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\nConnection: close\r\n"
    return f"{head}Content-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


@pytest.mark.parametrize(
    ("path", "more", "last", "is_whole"),
    [
        ("/v1/chat/completions", {"n": 2}, [event("", "stop")], False),
        ("/v1/chat/completions", {"n": 2}, [event("", "stop"), event("", "length")], True),
        ("/v1/messages", {}, [named("message_delta", delta={"stop_reason": "end_turn"})], False),
        ("/v1/messages", {}, [named("message_stop")], True),
        ("/v1/responses", {}, [named("response.output_text.done")], False),
        ("/v1/responses", {}, [named("response.completed", response={})], True),
    ],
)
async def test_each_dialect_has_its_own_end(
    path: str, more: dict[str, object], last: list[bytes], is_whole: bool
) -> None:
    body = json.dumps(STREAMED | {"input": "a", "max_tokens": 5} | more).encode()
    async with house(script=ends(chunked(b"".join(last)), politely=True)) as h:
        heard = await talk(h.port, asked(path, body, "application/json"))
        assert heard.data.endswith(b"0\r\n\r\n") is is_whole
        assert (b"error" in heard.only.body) is not is_whole


async def test_where_nobody_knows_what_ends_a_stream_only_http_does() -> None:
    upload = asked("/v1/audio/transcriptions", b"--x--", "multipart/form-data; boundary=x")
    piece = b'data: {"text": "a"}\n\n'
    async with house(script=ends(chunked(piece), politely=True)) as h:
        heard = await talk(h.port, upload)
        assert b"backend_lost" in heard.data and not heard.data.endswith(b"0\r\n\r\n")
        h.engine.script = ends(chunked(piece), b"0\r\n\r\n", politely=True)
        assert (await talk(h.port, upload)).data.endswith(b"0\r\n\r\n")
