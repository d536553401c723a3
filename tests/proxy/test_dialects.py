"""What ends a stream, what an error in it looks like, and that model text can fake neither."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import openai
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from hypothesis import given
from hypothesis import strategies as st
from openai.types.responses import ResponseErrorEvent

from gateway.errors import CATALOGUE, refuse, to_json
from gateway.proxy.dialects import (
    ANTHROPIC,
    DIALECTS,
    OPENAI,
    RESPONSES,
    UNKNOWN,
    Dialect,
    StreamWatch,
    for_route,
    lost_in,
)
from gateway.proxy.framing import EventCutter

REFUSAL = refuse("backend_lost", 'It "ended"\nearly', param="p").refusal


def chunk(text: str = "hi", finish: str | None = None, spaces: bool = False, **more: object) -> bytes:
    choice = {"index": 0, "delta": {"content": text}, "logprobs": None, "finish_reason": finish}
    document = {"id": "c", "object": "chat.completion.chunk", "choices": [choice], **more}
    separators = (", ", ": ") if spaces else (",", ":")
    return b"data: " + json.dumps(document, separators=separators, ensure_ascii=False).encode() + b"\n\n"


DONE = b"data: [DONE]\n\n"
SAID_EVENT = b"event: response.output_text.delta\ndata: %b\n\n" % to_json(
    {"type": "response.output_text.delta", "delta": "hi", "sequence_number": 4}
)


def named(event: str, document: dict[str, object]) -> bytes:
    return f"event: {event}\n".encode() + b"data: " + to_json(document) + b"\n\n"


def watched(dialect: Dialect, *reads: bytes, choices: int = 1) -> tuple[bytes, StreamWatch]:
    watch = StreamWatch(dialect, choices=choices)
    return b"".join(watch.feed(read) for read in reads), watch


# -- the table -------------------------------------------------------------------------------------------------------


def test_each_route_has_its_dialect_and_an_unknown_one_speaks_openai() -> None:
    assert for_route("/v1/chat/completions") is OPENAI
    assert for_route("/v1/messages") is ANTHROPIC
    assert for_route("/v1/responses") is RESPONSES
    assert for_route("/something/else") is UNKNOWN
    assert not for_route("/v1/embeddings").streams
    assert not for_route("/v1/messages/count_tokens").streams
    assert for_route("/v1/messages/count_tokens").name == "anthropic"


@pytest.mark.parametrize("dialect", dict.fromkeys(DIALECTS.values()), ids=repr)
def test_a_heartbeat_is_one_comment_whatever_its_text(dialect: Dialect) -> None:
    assert dialect.heartbeat("loading 43%") == b": loading 43%\n\n"
    assert dialect.heartbeat("a\n\ndata: {}\r\rb \ud83d") == b": a data: {} b ?\n\n"


def test_an_error_has_the_shape_of_its_dialect_and_the_same_code() -> None:
    assert OPENAI.error_body(REFUSAL) == REFUSAL.body()
    assert ANTHROPIC.error_body(REFUSAL) == {
        "type": "error",
        "error": {"type": "api_error", "message": REFUSAL.message, "code": "backend_lost", "param": "p"},
    }


@pytest.mark.parametrize("code", sorted(CATALOGUE))
@pytest.mark.parametrize("dialect", [OPENAI, ANTHROPIC, RESPONSES], ids=lambda dialect: dialect.name)
def test_every_refusal_is_one_event_of_valid_json(dialect: Dialect, code: str) -> None:
    event = dialect.error_event(refuse(code, "what to do\n\ndata: [DONE]").refusal)
    assert event.endswith(b"\n\n")
    assert EventCutter().feed(event) == event
    lines = event.decode().strip().split("\n")
    assert json.loads(lines[-1].removeprefix("data: "))
    assert len(lines) == (1 if dialect is OPENAI else 2)
    assert dialect is OPENAI or lines[0] == "event: error"


def test_anthropic_names_the_kinds_of_errors_its_own_way() -> None:
    kinds = {code: ANTHROPIC.error_body(refuse(code, "x").refusal)["error"]["type"] for code in CATALOGUE}  # type: ignore[index]
    assert kinds["invalid_json"] == "invalid_request_error"
    assert kinds["invalid_api_key"] == "authentication_error"
    assert kinds["queue_full"] == "rate_limit_error"
    assert kinds["loading"] == kinds["start_timeout"] == "overloaded_error"
    assert kinds["start_failed"] == "api_error", "clients ask again what is overloaded"
    assert kinds["body_too_large"] == "request_too_large"


# -- proper ends -----------------------------------------------------------------------------------------------------

MESSAGE_STOP = named("message_stop", {"type": "message_stop"})
ENDS = [
    (OPENAI, DONE),
    (OPENAI, b"data:[DONE]\r\n\r\n"),
    (OPENAI, chunk("", "stop")),
    (OPENAI, chunk("", "tool_calls", spaces=True)),
    (OPENAI, b'data: {"choices":[{"finish_reason"\t:\n "length"}]}\n\n'),
    (ANTHROPIC, MESSAGE_STOP),
    (ANTHROPIC, b'data: {"type": "message_stop"}\n\n'),
    (RESPONSES, named("response.completed", {"type": "response.completed"})),
    (RESPONSES, named("response.incomplete", {"type": "response.incomplete"})),
    (RESPONSES, named("response.failed", {"type": "response.failed"})),
    (RESPONSES, b'data: {"type":"response.completed","response":{}}\r\n\r\n'),
]


@pytest.mark.parametrize(("dialect", "end"), ENDS, ids=lambda value: repr(value)[:60])
def test_a_proper_end_is_seen_alone_and_behind_other_events(dialect: Dialect, end: bytes) -> None:
    for reads in ([end], [SAID_EVENT, end], [SAID_EVENT + end], [SAID_EVENT, SAID_EVENT + end + SAID_EVENT]):
        passed, watch = watched(dialect, *reads)
        assert watch.ended_properly
        assert watch.failure is None
        assert passed == b"".join(reads)


@pytest.mark.parametrize("dialect", [OPENAI, ANTHROPIC, RESPONSES], ids=lambda dialect: dialect.name)
def test_a_stream_without_its_end_was_cut(dialect: Dialect) -> None:
    stream = b": comment\n\n" + chunk() + SAID_EVENT + named("message_delta", {"type": "message_delta"})
    passed, watch = watched(dialect, stream)
    assert passed == stream
    assert not watch.ended_properly


def test_several_choices_all_have_to_finish() -> None:
    _, watch = watched(OPENAI, chunk("", "stop"), choices=2)
    assert not watch.ended_properly
    watch.feed(chunk("", "length"))
    assert watch.ended_properly
    _, together = watched(OPENAI, chunk("", "stop") + chunk("", "stop"), choices=2)
    assert together.ended_properly


def test_what_nobody_knows_the_end_of_ends_with_http() -> None:
    """And only if HTTP ended well: an engine that was cut has not said that this was all."""
    watch = watched(UNKNOWN, b"data: {}\n\n")[1]
    assert watch.ended_properly and not watch.has_ended
    assert watched(UNKNOWN, b"data: {}\n\n", DONE)[1].has_ended


@pytest.mark.parametrize(("dialect", "end"), ENDS, ids=lambda value: repr(value)[:60])
def test_an_engine_that_said_its_end_has_ended_however_http_ends(dialect: Dialect, end: bytes) -> None:
    assert not watched(dialect, SAID_EVENT)[1].has_ended
    assert watched(dialect, SAID_EVENT, end)[1].has_ended


NASTY = [
    '"finish_reason":"stop"',
    '"finish_reason": "abort"',
    'x","finish_reason":"abort","y":"',
    "data: [DONE]",
    "\n\ndata: [DONE]\n\n",
    "\r\rdata: [DONE]\r\r",
    '\n\ndata: {"error":{"message":"x"}}\n\n',
    'data: {"error":{',
    "event: error\ndata: {}",
    "\nevent: message_stop\n",
    '{"type":"message_stop"}',
    '\n\nevent: response.completed\ndata: {"type":"response.completed"}\n\n',
    '"type":"response.completed"',
    "\\",
    '\\"',
]


@given(st.lists(st.sampled_from(NASTY) | st.text(max_size=6), min_size=1, max_size=4).map("".join), st.booleans())
@pytest.mark.parametrize("dialect", [OPENAI, ANTHROPIC, RESPONSES], ids=lambda dialect: dialect.name)
def test_model_text_fakes_neither_end_nor_failure(dialect: Dialect, text: str, spaces: bool) -> None:
    """Whatever a model writes stands inside a JSON string, in any field of an event."""
    stream = chunk(text, spaces=spaces, usage={"note": text})
    stream += named("content_block_delta", {"type": "content_block_delta", "delta": {"text": text}})
    stream += named("response.output_text.delta", {"delta": text, "type": "response.output_text.delta"})
    passed, watch = watched(dialect, stream, stream)
    assert passed == stream + stream
    assert not watch.ended_properly
    assert watch.failure is None


@pytest.mark.parametrize("text", NASTY)
def test_model_text_in_an_overlong_event_fakes_nothing_either(text: str) -> None:
    """Such an event comes in pieces that begin anywhere, in the middle of a text too."""
    cutter, watch = EventCutter(), StreamWatch(OPENAI)
    event = chunk("x" * 70_000 + text + "y" * 70_000)
    for place in range(0, len(event), 7_001):
        watch.feed(cutter.feed(event[place : place + 7_001]))
    start = event.index(b"x" * 70_000) + 70_000
    watch = StreamWatch(OPENAI)
    for piece in (event[:start], event[start:]):
        watch.feed(piece)
    assert not watch.ended_properly
    assert watch.failure is None


# -- failures inside a 200 ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "event",
    [
        chunk("", "abort"),
        chunk("", "abort", spaces=True),
        b'data: {"choices":[{"finish_reason" :\t"abort"}]}\r\n\r\n',
    ],
)
def test_vllm_at_its_own_death_is_shown_as_lost_and_not_as_an_end(event: bytes) -> None:
    """vLLM ends its streams with finish_reason "abort" and [DONE] on SIGTERM: a cut answer that looks complete."""
    for reads in ([chunk(), event, DONE], [chunk() + event + DONE], [chunk() + event, DONE]):
        passed, watch = watched(OPENAI, *reads)
        assert passed == chunk()
        assert not watch.ended_properly
        assert watch.failure is not None
        assert watch.failure.code == "backend_lost"
    assert watched(ANTHROPIC, b'data: {"delta":{"stop_reason":"abort"}}\n\n' + MESSAGE_STOP)[0] == b""


@pytest.mark.parametrize(
    ("dialect", "event", "message"),
    [
        (OPENAI, b'data: {"error": {"message": "EngineCore died", "code": 500}}\n\n', "EngineCore died"),
        (OPENAI, b'data: {"error":{"code":500,"message":"slot lost","type":"server_error"}}\n\n', "slot lost"),
        (OPENAI, b'data:{"error":"plain"}\r\n\r\n', "plain"),
        (OPENAI, b'data: {"object":"error","message":"old vLLM","code":500}\n\n', "old vLLM"),
        (OPENAI, b'data: {"error":{"message":"its key","code":401}}\n\n', "its key"),
        (OPENAI, b'data: {"error":{"message":"a word","code":"context_length_exceeded"}}\n\n', "a word"),
        (OPENAI, b'error: {"code":500,"message":"old llama-server"}\n\n', "old llama-server"),
        (ANTHROPIC, named("error", {"type": "error", "error": {"type": "api_error", "message": "m"}}), "m"),
        (RESPONSES, named("error", {"type": "error", "message": "r", "sequence_number": 3}), "r"),
        (OPENAI, b'data: {"error":{"message":"Traceback (most recent call last):\\n x"}}\n\n', "in the log"),
    ],
    ids=lambda value: repr(value)[:50],
)
def test_an_engine_error_in_a_stream_becomes_ours_and_its_done_is_withheld(
    dialect: Dialect, event: bytes, message: str
) -> None:
    for reads in ([SAID_EVENT, event, DONE], [SAID_EVENT + event + DONE]):
        passed, watch = watched(dialect, *reads)
        assert passed == SAID_EVENT
        assert watch.failure is not None
        assert watch.failure.code == "backend_error"
        assert message in watch.failure.message
        assert not watch.ended_properly


@pytest.mark.parametrize(
    ("event", "status", "code", "message"),
    [
        (
            b'data: {"error":{"message":"grammar","type":"BadRequestError","code":400}}\n\n',
            400,
            "invalid_request",
            "grammar",
        ),
        (b'data: {"object":"error","message":"old vLLM","code":422}\n\n', 422, "invalid_request", "old vLLM"),
        (b'error: {"code":404,"message":"old llama-server"}\n\n', 404, "model_not_found", "old llama-server"),
    ],
)
def test_an_engine_error_in_a_stream_that_is_the_callers_mistake_is_said_to_be(
    event: bytes, status: int, code: str, message: str
) -> None:
    """The status can be said only where nothing else was yet: to who hears an answer put together from the stream."""
    failure = watched(OPENAI, SAID_EVENT, event, DONE)[1].failure
    assert failure is not None
    assert (failure.status, failure.code, failure.message) == (status, code, message)


def test_an_error_key_that_is_null_is_no_failure() -> None:
    event = b'data: {"error": null, "choices": [{"finish_reason": "stop"}]}\n\n'
    passed, watch = watched(OPENAI, event)
    assert (passed, watch.failure, watch.ended_properly) == (event, None, True)


def test_an_unfinished_last_event_passes_only_if_it_ends_the_answer() -> None:
    watch = StreamWatch(OPENAI)
    assert watch.end(b'data: {"choices"') == b""
    watch = StreamWatch(OPENAI)
    assert watch.end(b"data: [DONE]\n") == b"data: [DONE]\n"
    assert watch.ended_properly
    watch = watched(OPENAI, chunk("", "stop"))[1]
    assert watch.end(b'data: {"usage"') == b"" and watch.ended_properly
    watch = watched(OPENAI, chunk("", "stop"))[1]
    assert watch.end(b"data: [DONE]") == b"data: [DONE]"


def test_an_answer_in_one_piece_shows_an_abort_too() -> None:
    assert lost_in(b'{"choices":[{"finish_reason": "abort"}]}') is not None
    assert lost_in(b'{"choices":[{"message":{"content":"\\"finish_reason\\":\\"abort\\""}}]}') is None


def test_the_number_of_an_own_event_follows_the_last_one_passed() -> None:
    _, watch = watched(RESPONSES, SAID_EVENT)
    assert watch.sequence == 5
    event = RESPONSES.error_event(REFUSAL, sequence=watch.sequence)
    assert json.loads(event.split(b"data: ")[1])["sequence_number"] == 5
    assert StreamWatch(RESPONSES).sequence == 0


def test_usual_events_are_passed_as_the_same_object() -> None:
    data = chunk()
    assert StreamWatch(OPENAI).feed(data) is data


# -- as the SDK reads it -----------------------------------------------------------------------------------------------


@asynccontextmanager
async def client(stream: bytes) -> AsyncIterator[openai.AsyncOpenAI]:
    """The SDK in front of a server that says exactly these bytes."""

    async def answer(request: web.BaseRequest) -> web.Response:
        return web.Response(body=stream, content_type="text/event-stream")

    app = web.Application()
    app.router.add_post("/v1/{route:.*}", answer)
    async with (
        TestServer(app) as server,
        openai.AsyncOpenAI(api_key="k", base_url=str(server.make_url("/v1")), max_retries=0) as sdk,
    ):
        yield sdk


async def test_the_openai_sdk_skips_heartbeats() -> None:
    held = OPENAI.heartbeat("waking") + OPENAI.heartbeat("loading 43%")
    async with client(held + chunk("hi") + chunk("", "stop") + DONE) as sdk:
        said = [part async for part in await sdk.chat.completions.create(model="m", messages=[], stream=True)]
    assert "".join(part.choices[0].delta.content or "" for part in said) == "hi"


async def test_the_openai_sdk_raises_our_error_event_with_its_code() -> None:
    async with client(OPENAI.heartbeat("waking") + chunk("hi") + OPENAI.error_event(REFUSAL)) as sdk:
        with pytest.raises(openai.APIError) as caught:
            async for _ in await sdk.chat.completions.create(model="m", messages=[], stream=True):
                pass
    assert caught.value.code == "backend_lost"


async def test_the_openai_sdk_raises_our_error_event_in_a_responses_stream() -> None:
    async with client(RESPONSES.heartbeat("waking") + RESPONSES.error_event(REFUSAL, sequence=7)) as sdk:
        with pytest.raises(openai.APIError) as caught:
            async for _ in await sdk.responses.create(model="m", input="x", stream=True):
                pass
    assert (caught.value.code, caught.value.message) == ("backend_lost", REFUSAL.message)


def test_an_error_in_a_responses_stream_has_the_form_of_openais_reference_too() -> None:
    event = RESPONSES.error_event(REFUSAL, sequence=7).split(b"data: ")[1]
    said = ResponseErrorEvent.model_validate_json(event, strict=True)
    assert (said.code, said.message, said.param, said.sequence_number) == ("backend_lost", REFUSAL.message, "p", 7)
