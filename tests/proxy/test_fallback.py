"""Somebody else answers while the GPU wakes: through the real door, with an engine and a paid API of the test's own."""

import asyncio
import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from openai import AsyncOpenAI

from gateway.policy.fallback import Objection
from gateway.policy.keys import Key, digest_of
from gateway.policy.lifecycle.states import State
from gateway.policy.purse import Prices
from gateway.policy.spending import Spending
from gateway.providers.base import Gone, Ready
from gateway.proxy.fallback import SILENT, limits_for, named_in
from gateway.proxy.outgoing import Outgoing
from gateway.proxy.purse import KeptPurse, Purse, Reserved
from gateway.proxy.upstream import Limits
from gateway.records.spent import Spent, SpentFolder
from gateway.web.auth import Keys
from gateway.web.gate import Gate
from gateway.web.quota import Quotas
from tests.support.house import CHAT, KEY, STREAM_HEAD, STREAMED, Received, Script, answer, chunked, event, raw, stream
from tests.support.paid_api import LIMITS, MODEL, USAGE, TwoHouses, error, two_houses
from tests.web.test_door import body_of, error_of, head_of, status_of

DOLLAR = 1_000_000
CHAT_PATH = "/v1/chat/completions"
HOME = {"id": "c", "object": "chat.completion", "model": "served", "choices": []}


def client(h: TwoHouses) -> AsyncOpenAI:
    return AsyncOpenAI(base_url=f"http://127.0.0.1:{h.port}/v1", api_key=KEY, max_retries=0, timeout=15)


async def ask(h: TwoHouses, body: dict[str, object] = CHAT, headers: str = "", path: str = CHAT_PATH) -> bytes:
    return await h.raw(h.request(body, headers=headers, path=path))


async def asked_and_held(
    h: TwoHouses, body: dict[str, object] = CHAT, headers: str = "", path: str = CHAT_PATH
) -> bytes:
    """The answer of one who is held, once the engine is ready: nothing else would give one."""
    reply = asyncio.create_task(ask(h, body, headers, path))
    await h.until(lambda: h.conductor.snapshot().waiting == 1)
    assert not reply.done()
    h.provider.tell(Ready(("served",)))
    return await reply


def is_from_afar(reply: bytes) -> bool:
    return "X-Wakegate-Served-By: fallback" in head_of(reply)


# -- the first caller of the morning waits for nobody --------------------------------------------


async def test_the_first_caller_is_answered_elsewhere_at_once_and_the_gpu_wakes() -> None:
    async with two_houses() as h:
        reply = await ask(h)
        assert status_of(reply) == 200 and is_from_afar(reply)
        said = json.loads(body_of(reply))
        assert said["model"] == "served" and said["choices"][0]["message"]["content"] == "Hello from afar"
        assert h.state is State.STARTING and h.provider.starts == 1


async def test_from_ready_on_callers_go_home() -> None:
    async with two_houses(script=answer(HOME)) as h:
        assert is_from_afar(await ask(h))
        h.provider.tell(Ready(("served",)))
        await h.until(lambda: h.state is State.READY)
        reply = await ask(h)
        assert json.loads(body_of(reply)) == HOME and not is_from_afar(reply)
        assert len(h.paid.received) == 1 and len(h.engine.received) == 1


async def test_a_wake_that_nobody_waits_for_goes_on_and_then_obeys_the_idle_limit() -> None:
    async with two_houses(idle_timeout=0.2) as h:
        assert is_from_afar(await ask(h))
        h.provider.tell(Ready(("served",)))
        await h.until(lambda: h.state is State.READY)
        await h.until(lambda: h.state is State.STOPPED)
        assert h.provider.stops == 1


async def test_the_openai_sdk_sees_its_own_model_in_the_answer_and_in_every_chunk() -> None:
    async with two_houses() as h, client(h) as openai:
        whole = await openai.chat.completions.create(model="ours", messages=[{"role": "user", "content": "Hi"}])
        assert (whole.model, whole.choices[0].message.content) == ("ours", "Hello from afar")
        assert whole.usage is not None and whole.usage.total_tokens == 14
        chunks = [
            chunk
            async for chunk in await openai.chat.completions.create(
                model="ours", messages=[{"role": "user", "content": "Hi"}], stream=True
            )
        ]
        assert {chunk.model for chunk in chunks} == {"ours"}
        assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "Hello from afar"
        assert all(chunk.usage is None for chunk in chunks)
        assert all(received.json["model"] == MODEL for received in h.paid.received)


async def test_who_asks_for_the_count_of_tokens_sees_it() -> None:
    async with two_houses() as h, client(h) as openai:
        stream = await openai.chat.completions.create(
            model="ours",
            messages=[{"role": "user", "content": "Hi"}],
            stream=True,
            stream_options={"include_usage": True},
        )
        *_, last = [chunk async for chunk in stream]
        assert last.usage is not None and last.usage.total_tokens == 14 and last.model == "ours"


async def test_a_request_that_names_no_model_hears_the_usual_name() -> None:
    async with two_houses() as h:
        reply = await ask(h, {"messages": CHAT["messages"]})
        assert json.loads(body_of(reply))["model"] == "served"


# -- what leaves ----------------------------------------------------------------------------------


async def test_who_asks_and_what_only_engines_know_does_not_leave() -> None:
    async with two_houses() as h:
        body = CHAT | {"user": "dora", "metadata": {"a": "b"}, "top_k": 3, "temperature": 0.5, "cache_prompt": True}
        headers = "X-Request-Id: mine\r\ntraceparent: 00-1-2-03\r\nX-Session-ID: s\r\nCookie: a=b\r\nOpenAI-Beta: x\r\n"
        assert is_from_afar(await ask(h, body, headers))
        (received,) = h.paid.received
        assert received.json == {"model": MODEL, "messages": CHAT["messages"], "temperature": 0.5}
        names = {name.lower() for name, _ in received.headers}
        assert names == {
            *("host", "accept", "accept-encoding", "authorization", "content-type", "content-length", "user-agent")
        }
        assert KEY not in received.raw_head.decode()


async def test_of_the_answers_headers_none_passes_that_is_about_the_operators_account() -> None:
    async with two_houses() as h:
        head = head_of(await ask(h)).lower()
        assert "x-ratelimit" not in head and "org-secret" not in head and "theirs" not in head


@pytest.mark.parametrize("value", ["never", "NEVER", "no", "allow", ""])
async def test_a_header_may_only_forbid(value: str) -> None:
    async with two_houses(script=answer(HOME)) as h:
        reply = await asked_and_held(h, headers=f"X-Wakegate-Fallback: {value}\r\n")
        assert json.loads(body_of(reply)) == HOME
        assert h.paid.received == [] and h.objections == ["forbidden"]
        assert h.engine.received[0].header("X-Wakegate-Fallback") == []


async def test_a_key_that_may_not_is_held() -> None:
    key = Key("private", digest_of(KEY.encode()), fallback=False)
    async with two_houses(script=answer(HOME), gate=lambda: Gate(keys=Keys([key]), admin=Keys([]))) as h:
        assert json.loads(body_of(await asked_and_held(h))) == HOME
        assert h.paid.received == [] and h.objections == ["key"]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/embeddings", {"model": "served", "input": "a"}),
        ("/v1/rerank", {"model": "served", "query": "a", "documents": ["b"]}),
        ("/v1/responses", {"model": "served", "input": "a"}),
        ("/v1/messages", CHAT | {"max_tokens": 5}),
    ],
)
async def test_what_would_not_mean_the_same_elsewhere_is_held(path: str, body: dict[str, object]) -> None:
    async with two_houses(script=answer(HOME)) as h:
        assert json.loads(body_of(await asked_and_held(h, body, path=path))) == HOME
        assert h.paid.received == [] and h.objections == ["route"]


async def test_completions_go_there_too() -> None:
    async with two_houses() as h:
        assert is_from_afar(await ask(h, {"model": "served", "prompt": "Once"}, path="/v1/completions"))
        assert h.paid.received[0].line.startswith("POST /api/v1/completions ")


# -- the fallback fails, and the caller does not lose ----------------------------------------------


async def closes(request: Received, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.transport.abort()


async def says_nothing(request: Received, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await asyncio.sleep(60)


FAILURES: dict[str, Script] = {
    "401": error("401 Unauthorized"),
    "402": error("402 Payment Required"),
    "404": error("404 Not Found"),
    "429": error("429 Too Many Requests"),
    "400": error("400 Bad Request"),
    "500": error("500 Internal Server Error"),
    "503 in HTML": answer(b"<html>", status="503 Unavailable", content_type="text/html"),
    "a page with a 200": answer(b"<html>", content_type="text/html"),
    "an error with a 200": answer({"error": {"message": "no"}}),
    "a redirect": answer(b"", status="302 Found", headers="Location: http://169.254.169.254/\r\n"),
    "no HTTP": raw(b"SSH-2.0\r\n"),
    "it closes": closes,
    "it says nothing": says_nothing,
    "it compresses": answer(b"x", headers="Content-Encoding: gzip\r\n"),
    "half an answer": raw(b'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 99\r\n\r\n{"ch'),
}


STREAMS: dict[str, Script] = {
    "an error first": raw(STREAM_HEAD + chunked(b': hold on\n\ndata: {"error": {"code": 503, "message": "busy"}}\n\n')),
    "comments, then its end": raw(STREAM_HEAD + chunked(b": hold on\n\n") + b"0\r\n\r\n"),
    "comments, then nothing": lambda request, reader, writer: comments_only(request, reader, writer),
    "its head, then it closes": raw(STREAM_HEAD),
}


async def comments_only(request: Received, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(STREAM_HEAD + chunked(b": hold on\n\n"))
    await asyncio.sleep(60)


@pytest.mark.parametrize("failure", STREAMS.values(), ids=STREAMS)
async def test_a_stream_that_has_said_nothing_can_still_be_held(failure: Script) -> None:
    quick = Limits(connect=1.0, first_byte=0.2, answer=0.2, gap=1.0, heartbeat=0.05)
    async with two_houses(script=answer(HOME), limits=quick, grace=5.0) as h:
        h.paid.fails = failure
        reply = await asked_and_held(h, STREAMED)
        assert json.loads(body_of(reply)) == HOME and not is_from_afar(reply)
        assert [each.outcome for each in h.answered] in (["declined"], ["broke"])


@pytest.mark.parametrize("body", [CHAT, STREAMED], ids=["whole", "stream"])
@pytest.mark.parametrize("failure", FAILURES.values(), ids=FAILURES)
async def test_when_it_fails_the_caller_is_held_and_hears_nothing_of_it(failure: Script, body: dict[str, Any]) -> None:
    quick = Limits(connect=1.0, first_byte=0.2, answer=0.2, gap=1.0, heartbeat=0.05)
    async with two_houses(script=answer(HOME), limits=quick, grace=5.0) as h:
        h.paid.fails = failure
        reply = await asked_and_held(h, body)
        assert json.loads(body_of(reply)) == HOME and not is_from_afar(reply)
        assert len(h.paid.received) == 1 and len(h.answered) == 1
        assert h.answered[0].outcome in ("declined", "broke", "unreached")
        assert h.visits[0].served_by == "" and h.visits[0].ended_by == "engine"


async def test_one_that_cannot_be_reached_holds_nobody_up() -> None:
    async with two_houses(script=answer(HOME), port=9) as h:
        assert json.loads(body_of(await asked_and_held(h))) == HOME
        assert [each.outcome for each in h.answered] == ["unreached"]
        assert "FALLBACK_URL" in h.said[0]


async def test_a_wrong_key_is_told_once_with_its_setting_and_not_asked_for_each_request() -> None:
    async with two_houses(script=answer(HOME), key="sk-wrong", slots=8) as h:
        replies = [asyncio.create_task(ask(h)) for _ in range(5)]
        await h.until(lambda: h.conductor.snapshot().waiting == 5)
        assert len(h.paid.received) <= 5
        before = len(h.paid.received)
        more = [asyncio.create_task(ask(h)) for _ in range(3)]
        await h.until(lambda: h.conductor.snapshot().waiting == 8)
        assert len(h.paid.received) == before and h.objections[-3:] == ["paused"] * 3
        assert [line for line in h.said if "FALLBACK_API_KEY" in line] == h.said and len(h.said) == 1
        assert "FALLBACK_API_KEY" in h.fallback.state
        h.provider.tell(Ready(("served",)))
        assert {status_of(reply) for reply in await asyncio.gather(*replies, *more)} == {200}


async def test_a_request_that_it_cannot_serve_says_nothing_of_the_next() -> None:
    async with two_houses() as h:
        h.paid.fails = error("400 Bad Request")
        held = asyncio.create_task(ask(h))
        await h.until(lambda: h.conductor.snapshot().waiting == 1)
        h.paid.fails = None
        assert is_from_afar(await ask(h))
        assert h.said == []
        held.cancel()


@pytest.mark.parametrize(
    ("status", "setting"),
    [
        ("401 Unauthorized", "FALLBACK_API_KEY"),
        ("402 Payment Required", "its account has no money"),
        ("404 Not Found", "FALLBACK_MODEL"),
        ("302 Found", "FALLBACK_URL"),
        ("503 Busy", "status 503"),
    ],
)
async def test_the_log_says_what_helps_and_never_what_the_vendor_quotes(status: str, setting: str) -> None:
    async with two_houses() as h:
        h.paid.fails = error(status)
        held = asyncio.create_task(ask(h))
        await h.until(lambda: h.said)
        (line,) = h.said
        assert setting in line and line.endswith(" It says type vendor.") and "vendor says" not in line
        held.cancel()


async def test_the_log_does_not_speak_of_the_middle_of_an_answer_that_never_began() -> None:
    async with two_houses() as h:
        h.paid.fails = raw(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 0\r\n\r\n")
        held = asyncio.create_task(ask(h))
        await h.until(lambda: h.said)
        (line,) = h.said
        assert line.endswith("held meanwhile: it sent an error, or nothing, where its answer should be.")
        held.cancel()


def test_a_fallback_that_hangs_is_left_before_the_edge_in_front_gives_its_caller_up() -> None:
    """Without a stream nothing can be said meanwhile: RunPod's proxy cuts after 100 s, Node's fetch after 300."""
    patient = Limits(connect=10, first_byte=900, answer=3600, gap=600, heartbeat=15)
    assert (limits_for(patient).answer, limits_for(patient, behind_edge=True).answer) == (280, 85)
    assert limits_for(patient).first_byte == 30
    assert limits_for(replace(patient, answer=20), behind_edge=True).answer == 20
    assert limits_for(patient, hold_max=60).answer == 60 and limits_for(patient, hold_max=0).answer == 280


@pytest.mark.parametrize(
    ("error", "named"),
    [
        ({"message": "You said: Hello", "type": "invalid_request_error", "code": "content-filter.v2"}, "both"),
        ({"message": "You said: Hello", "type": "You said: Hello", "code": 401}, "code 401"),
        ({"message": "You said: Hello", "type": ["hello"], "code": None}, ""),
        ({"type": "a" * 65, "code": "hello\n"}, ""),
        ("Hello", ""),
        (["Hello"], ""),
    ],
)
def test_of_a_vendors_error_the_log_has_its_name_and_nothing_of_what_it_says(error: object, named: str) -> None:
    """README promises that no prompt is logged, and vendors quote them: filters, and proxies in their debug mode."""
    both = "type invalid_request_error, code content-filter.v2"
    assert named_in(json.dumps({"error": error}).encode()) == (both if named == "both" else named)


def test_what_is_no_error_has_no_name() -> None:
    assert named_in(b"<html>") == named_in(b"[]") == named_in(b"") == ""


async def test_a_stream_that_breaks_with_a_quoted_prompt_puts_nothing_of_it_into_the_log() -> None:
    async with two_houses() as h:
        quoted = {"error": {"message": "You said: Hello", "code": 422}}
        first = h.paid._chunk([{"index": 0, "delta": {"content": "Hel"}}])
        h.paid.fails = raw(STREAM_HEAD + chunked(first) + chunked(b"data: " + json.dumps(quoted).encode() + b"\n\n"))
        await ask(h, STREAMED)
        await h.until(lambda: h.said)
        assert "You said" not in h.said[0] + h.fallback.state


# -- how long it is waited for --------------------------------------------------------------------


async def test_one_that_says_nothing_is_waited_for_no_longer_than_its_caller_can_wait() -> None:
    """`x-stainless-read-timeout`, less the five seconds in which it must hear something. Who is impatient says nothing
    of the fallback."""
    async with two_houses(script=answer(HOME)) as h:
        h.paid.gate.clear()
        reply = asyncio.create_task(ask(h, headers="x-stainless-read-timeout: 6\r\n"))
        await h.until(lambda: h.paid.received)
        h.provider.tell(Ready(("served",)))
        said = await reply
        assert json.loads(body_of(said)) == HOME and not is_from_afar(said)
        assert [each.outcome for each in h.answered] == ["left"]
        await h.until(lambda: h.paid.left == 1)
        assert h.said == [] and h.fallback.state == "ok"


async def test_the_time_that_it_took_is_not_waited_again() -> None:
    async with two_houses(hold_max=0.5) as h:
        h.paid.gate.clear()
        reply = await ask(h)
        assert error_of(reply)["code"] == "loading" and "X-Wakegate-Served-By" not in head_of(reply)
        assert h.conductor.snapshot().waiting == 0


async def test_one_that_had_its_whole_time_and_said_nothing_is_at_fault_whoever_gave_up_first() -> None:
    async with two_houses(hold_max=0.5, limits=replace(LIMITS, answer=0.5)) as h:
        h.paid.gate.clear()
        await ask(h)
        assert [each.outcome for each in h.answered] == ["broke"]
        assert h.fallback.state == "left alone for now: it did not answer in time"


async def test_a_stream_is_kept_company_within_its_callers_own_time_out_until_the_other_begins() -> None:
    """It cannot be told any more who answers: its head is out."""
    async with two_houses(grace=60.0, heartbeat=60.0, limits=replace(LIMITS, heartbeat=60.0)) as h:
        begins = asyncio.Event()

        async def late(request: Received, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await begins.wait()
            await h.paid._stream(request, reader, writer)

        h.paid.fails = late
        reader, writer = await asyncio.open_connection("127.0.0.1", h.port)
        writer.write(h.request(STREAMED, headers="x-stainless-read-timeout: 1\r\n"))
        async with asyncio.timeout(10):
            company = await reader.readuntil(b": waiting for an answer\n\n")
            await reader.readuntil(b": waiting for an answer\n\n")
            begins.set()
            rest = await reader.read()
        writer.close()
        assert status_of(company) == 200 and not is_from_afar(company)
        assert b"Hello" in rest and b"[DONE]" in rest and rest.endswith(b"0\r\n\r\n")
        assert h.visits[0].served_by == "fallback" and h.answered[0].outcome == "answered"


async def test_who_was_kept_company_and_not_answered_is_held_like_any_stream() -> None:
    async with two_houses(script=stream(event("home", "stop")), grace=0.0) as h:
        h.paid.fails = error("500 Oh")
        reply = await asked_and_held(h, STREAMED)
        assert b"home" in reply and b"[DONE]" in reply and status_of(reply) == 200


@pytest.mark.parametrize("body", [CHAT, STREAMED], ids=["whole", "stream"])
async def test_whoever_still_waits_for_a_first_word_goes_home_once_the_engine_is_ready(body: dict[str, Any]) -> None:
    async with two_houses(script=answer(HOME)) as h:
        h.paid.fails = says_nothing
        reply = asyncio.create_task(ask(h, body))
        await h.until(lambda: h.paid.received)
        (errand,) = h.fallback._under_way
        errand.recalled_from -= SILENT  # which are over
        h.fallback.beat()
        assert not errand.is_recalled
        h.provider.tell(Ready(("served",)))
        await h.until(lambda: h.state is State.READY)
        h.fallback.beat()
        h.fallback.beat()
        assert json.loads(body_of(await reply)) == HOME
        assert [each.outcome for each in h.answered] == ["left"] and h.fallback.state == "ok"


async def test_an_answer_that_has_begun_is_not_called_home_nor_one_that_may_begin_any_moment() -> None:
    async with two_houses(script=answer(HOME)) as h:
        h.paid.gate.clear()
        begun = asyncio.create_task(ask(h, STREAMED))
        await h.until(lambda: any(errand.has_begun for errand in h.fallback._under_way))
        whole = asyncio.create_task(ask(h))
        await h.until(lambda: len(h.paid.received) == 2)
        for errand in h.fallback._under_way:
            if errand.has_begun:
                errand.recalled_from = 0.0
        h.provider.tell(Ready(("served",)))
        await h.until(lambda: h.state is State.READY)
        h.fallback.beat()
        h.paid.gate.set()
        assert is_from_afar(await begun) and is_from_afar(await whole)


# -- what is no answer ----------------------------------------------------------------------------

CHOICE = {"index": 0, "message": {"role": "assistant", "content": "Hi"}, "finish_reason": "stop"}
LIES: dict[str, tuple[dict[str, Any], Script]] = {
    "choices that are none": (CHAT, answer({"choices": "none"})),
    "no choice": (CHAT, answer({"choices": []})),
    "an empty choice": (CHAT, answer({"choices": [CHOICE, {}]})),
    "choices in a list": (CHAT, answer([{"choices": [CHOICE]}])),
    "the word alone": (CHAT, answer(b'no "choices" here')),
    "a stream where none was asked for": (CHAT, stream(event("Hi", "stop"))),
    "none where a stream was asked for": (STREAMED, answer({"choices": [CHOICE]})),
    "a stream that begins with its end": (STREAMED, raw(STREAM_HEAD + chunked(b"data: [DONE]\n\n") + b"0\r\n\r\n")),
    "a stream of lies": (STREAMED, raw(STREAM_HEAD + chunked(b'data: {"choices": "none"}\n\n') + b"0\r\n\r\n")),
}


@pytest.mark.parametrize(("body", "lie"), LIES.values(), ids=LIES)
async def test_one_that_lies_is_not_believed(body: dict[str, Any], lie: Script) -> None:
    async with two_houses(script=answer(HOME)) as h:
        h.paid.fails = lie
        reply = await asked_and_held(h, body)
        assert json.loads(body_of(reply)) == HOME and not is_from_afar(reply)
        assert [each.outcome for each in h.answered] == ["declined"] and h.visits[0].served_by == ""
        assert len(h.said) == 1 and "what comes is no answer of an API: FALLBACK_URL" in h.said[0]


async def test_an_error_with_a_200_is_the_error_that_it_says() -> None:
    """OpenRouter says those of the vendors behind it so."""
    async with two_houses(script=answer(HOME)) as h:
        h.paid.fails = answer({"error": {"message": "You said: Hello", "code": 429}, "choices": [CHOICE]})
        await asked_and_held(h)
        assert "it answers with status 429. It says code 429." in h.said[0]


async def test_an_api_without_completions_is_well_all_the_same() -> None:
    async with two_houses() as h:
        h.paid.fails = error("404 Not Found")
        held = asyncio.create_task(ask(h, {"model": "served", "prompt": "Once"}, path="/v1/completions"))
        await h.until(lambda: h.conductor.snapshot().waiting == 1)
        h.paid.fails = None
        assert is_from_afar(await ask(h))
        assert "/v1/completions" in h.fallback.state
        held.cancel()


async def test_when_it_answers_again_that_is_said_too() -> None:
    async with two_houses() as h:
        h.paid.fails = error("503 Busy", retry="x")
        held = asyncio.create_task(ask(h))
        await h.until(lambda: h.said)
        h.paid.fails = None
        h.fallback._circuits[CHAT_PATH].left()
        h.fallback._circuits[CHAT_PATH]._again_at = 0.0  # its pause is over
        assert is_from_afar(await ask(h))
        assert h.said[1:] == ["the fallback answers again"] and h.fallback.state == "ok"
        held.cancel()


async def test_bodies_on_their_way_there_take_no_more_memory_than_may_wait_in_line() -> None:
    async with two_houses(most_bytes=3000) as h:
        h.paid.gate.clear()
        big = CHAT | {"messages": [{"role": "user", "content": "x" * 2000}]}
        first = asyncio.create_task(ask(h, big))
        await h.until(lambda: h.paid.received)
        second = asyncio.create_task(ask(h, big))
        await h.until(lambda: h.objections == ["crowded"])
        h.paid.gate.set()
        assert is_from_afar(await first) and is_from_afar(await ask(h, big))
        second.cancel()


async def test_a_stream_that_has_begun_keeps_no_body() -> None:
    async with two_houses(most_bytes=3000) as h:
        h.paid.gate.clear()
        big = STREAMED | {"messages": [{"role": "user", "content": "x" * 2000}]}
        first = asyncio.create_task(ask(h, big))
        await h.until(lambda: h.paid.received)
        await h.until(lambda: h.fallback._bytes == 0)
        second = asyncio.create_task(ask(h, big))
        await h.until(lambda: len(h.paid.received) == 2)
        h.paid.gate.set()
        assert is_from_afar(await first) and is_from_afar(await second)


async def test_a_limit_of_tokens_is_named_as_the_fallback_wants_it() -> None:
    """OpenAI's newer models refuse `max_tokens`, most others know nothing else."""
    async with two_houses() as h:

        async def picky(request: Received, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            if "max_tokens" in request.json:
                wrong = {"param": "max_tokens", "code": "unsupported_parameter"}
                await error("400 Bad Request", **wrong)(request, reader, writer)
            else:
                await h.paid._whole(request, reader, writer)

        h.paid.fails = picky
        for _ in range(2):
            assert is_from_afar(await ask(h, CHAT | {"max_tokens": 5}))
        assert [r.json.get("max_completion_tokens") for r in h.paid.received] == [None, 5, 5]


async def test_a_stream_that_breaks_in_the_middle_ends_with_an_error_event() -> None:
    async with two_houses() as h:

        async def breaks(request: Received, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(STREAM_HEAD + chunked(h.paid._chunk([{"index": 0, "delta": {"content": "Hel"}}])))
            await writer.drain()
            writer.close()

        h.paid.fails = breaks
        reply = await ask(h, STREAMED)
        assert is_from_afar(reply) and b"Hel" in reply and b"[DONE]" not in reply
        assert b'"code":"backend_lost"' in reply and b"The fallback ended" in reply
        assert not reply.endswith(b"0\r\n\r\n")
        assert [each.outcome for each in h.answered] == ["broke"]
        assert h.visits[0].ended_by == "fallback"


async def test_a_caller_who_leaves_ends_the_request_there() -> None:
    async with two_houses() as h:
        h.paid.gate.clear()
        reader, writer = await asyncio.open_connection("127.0.0.1", h.port)
        writer.write(h.request(STREAMED))
        await reader.readuntil(b"Hello")
        writer.close()
        await h.until(lambda: h.paid.left == 1)
        await h.until(lambda: h.answered)
        assert h.answered[0].outcome == "left"


async def test_a_drain_waits_for_what_is_under_way_there_and_then_says_why_it_ends() -> None:
    async with two_houses() as h:
        h.paid.gate.clear()
        replies = [asyncio.create_task(ask(h, body)) for body in (CHAT, STREAMED)]
        await h.until(lambda: len(h.paid.received) == 2)
        draining = asyncio.create_task(h.fallback.drain(5.0))
        h.paid.gate.set()
        await draining
        assert all(is_from_afar(reply) for reply in await asyncio.gather(*replies))
        h.paid.gate.clear()
        last = asyncio.create_task(ask(h, STREAMED))
        await h.until(lambda: len(h.paid.received) == 3)
        await h.until(lambda: h.fallback._under_way)
        await h.fallback.drain(0.05)
        assert b'"code":"draining"' in await last


async def test_a_drain_waits_for_who_is_asked_in_another_word_too() -> None:
    """Between its two tries nothing is under way, for a moment."""
    async with two_houses() as h:
        decline = asyncio.Event()

        async def picky(request: Received, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            if "max_tokens" in request.json:
                await decline.wait()
                await error("400 No", param="max_tokens", code="unsupported_parameter")(request, reader, writer)
            else:
                await h.paid._whole(request, reader, writer)

        h.paid.fails = picky
        h.paid.gate.clear()
        reply = asyncio.create_task(ask(h, CHAT | {"max_tokens": 5}))
        await h.until(lambda: h.paid.received)
        draining = asyncio.create_task(h.fallback.drain(10.0))
        await asyncio.sleep(0)
        decline.set()
        await h.until(lambda: len(h.paid.received) == 2)
        assert not draining.done()
        h.paid.gate.set()
        assert is_from_afar(await reply)
        await draining


class SlowPurse(Purse):
    """On a disk that does not answer."""

    async def reserve(self, out: Outgoing) -> Reserved | Objection:
        await asyncio.Event().wait()
        raise AssertionError


async def test_a_drain_tells_those_too_who_wait_for_the_disk() -> None:
    async with two_houses(purse=SlowPurse) as h:
        reply = asyncio.create_task(ask(h))
        await h.until(lambda: h.fallback._under_way)
        await h.fallback.drain(0.0)
        assert b'"code":"draining"' in await reply
        assert h.fallback._bytes == 0 and h.visits[0].outcome == "refused"


# -- when else ------------------------------------------------------------------------------------


async def fails_to_start(h: TwoHouses) -> None:
    """Until nobody is let in any more."""
    h.conductor.wake()
    for number in range(1, 10):
        await h.until(lambda n=number: h.provider.starts >= n or h.state is State.FAILED)
        if h.state is State.FAILED:
            return
        h.provider.tell(Gone("It does not start.", lasting=True))
    raise AssertionError(h.state)


@pytest.mark.parametrize("when", [("start_failed",), ("waking", "start_failed")])
async def test_where_the_start_fails_others_answer_if_the_operator_says_so(when: tuple[str, ...]) -> None:
    async with two_houses(when=when) as h:
        await fails_to_start(h)
        reply = await ask(h)
        assert is_from_afar(reply) and h.answered[0].why == "start_failed"


async def test_where_the_start_fails_and_nothing_is_said_of_it_it_is_refused() -> None:
    async with two_houses() as h:
        await fails_to_start(h)
        assert error_of(await ask(h))["code"] == "start_failed"
        assert h.paid.received == []


async def test_who_was_held_when_the_start_failed_is_answered_elsewhere() -> None:
    async with two_houses(when=("start_failed",)) as h:
        reply = asyncio.create_task(ask(h, STREAMED))
        await h.until(lambda: h.conductor.snapshot().waiting == 1)
        h.provider.tell(Gone("It does not start.", lasting=True))
        assert b"Hello" in await reply
        assert h.answered[0].why == "start_failed"


@pytest.mark.parametrize("first", [b"", STREAM_HEAD], ids=["nothing", "a head alone"])
async def test_a_stream_that_was_held_is_kept_company_while_somebody_else_is_asked(first: bytes) -> None:
    async with two_houses(when=("start_failed",), grace=0.0, heartbeat=60.0) as h:

        async def slow(request: Received, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(first)
            await asyncio.Event().wait()

        h.paid.fails = slow
        reader, writer = await asyncio.open_connection("127.0.0.1", h.port)
        writer.write(h.request(STREAMED))
        async with asyncio.timeout(10):
            await reader.readuntil(b": ")
            h.provider.tell(Gone("It does not start.", lasting=True))
            for _ in range(2):
                await reader.readuntil(b": waiting for an answer\n\n")
        writer.close()


async def test_a_chat_page_that_was_shown_the_loading_goes_on_with_the_others_answer() -> None:
    async with two_houses(when=("start_failed",), shows_loading=True, grace=0.0) as h:
        reply = asyncio.create_task(ask(h, STREAMED))
        await h.until(lambda: h.conductor.snapshot().waiting == 1)
        await asyncio.sleep(0.05)  # it is shown something
        h.provider.tell(Gone("It does not start.", lasting=True))
        events = [line[6:] for line in body_of(await reply).splitlines() if line.startswith(b"data: ")]
        chunks = [json.loads(each) for each in events if each != b"[DONE]"]
        assert events[-1] == b"[DONE]" and {chunk["model"] for chunk in chunks} == {"served"}
        assert len({chunk["id"] for chunk in chunks}) == 1
        assert "".join(c["choices"][0]["delta"].get("content") or "" for c in chunks) == "Hello from afar"


async def test_when_the_line_is_full_others_answer_if_the_operator_says_so() -> None:
    async with two_houses(when=("queue_full",), slots=1, adopt_slots=False, queue=0) as h:
        hang = asyncio.Event()

        async def slow(request: Received, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await hang.wait()
            await answer(HOME)(request, reader, writer)

        h.engine.script = slow
        h.conductor.wake()
        await h.until(lambda: h.provider.starts == 1)
        h.provider.tell(Ready(("served",)))
        await h.until(lambda: h.state is State.READY)
        first = asyncio.create_task(ask(h))
        await h.until(lambda: h.engine.received)
        reply = await ask(h)
        assert is_from_afar(reply) and h.answered[0].why == "queue_full"
        hang.set()
        assert json.loads(body_of(await first)) == HOME


async def test_without_it_a_waking_caller_is_held() -> None:
    async with two_houses(when=("queue_full",), script=answer(HOME)) as h:
        assert json.loads(body_of(await asked_and_held(h))) == HOME
        assert h.paid.received == [] and h.objections == []


# -- WAKE_AFTER -----------------------------------------------------------------------------------


async def test_a_stray_request_does_not_pay_twice() -> None:
    async with two_houses(wake_after=(3, 600)) as h:
        for _ in range(2):
            assert is_from_afar(await ask(h))
        assert h.provider.starts == 0 and h.state is State.STOPPED
        assert is_from_afar(await ask(h))
        assert h.provider.starts == 1


async def test_a_request_that_must_stay_wakes_it_all_the_same() -> None:
    async with two_houses(wake_after=(3, 600), script=answer(HOME)) as h:
        reply = await asked_and_held(h, headers="X-Wakegate-Fallback: never\r\n")
        assert json.loads(body_of(reply)) == HOME and h.provider.starts == 1


async def test_when_the_fallback_fails_the_gpu_is_woken_for_whoever_came() -> None:
    async with two_houses(wake_after=(3, 600), script=answer(HOME)) as h:
        h.paid.fails = error("500 Oh")
        assert json.loads(body_of(await asked_and_held(h))) == HOME


# -- money ----------------------------------------------------------------------------------------


async def test_who_is_answered_elsewhere_has_no_share_of_what_the_gpu_costs() -> None:
    clock = asyncio.get_running_loop().time
    bills = Spending(3600 * DOLLAR, now=clock(), wall=0.0)  # a dollar a second
    key = Key("ann", digest_of(KEY.encode()))
    gate = partial(Gate, keys=Keys([key]), admin=Keys([]), quotas=Quotas(bills))

    def spent() -> int:
        return bills.spent("ann", clock(), 0.0)

    async with two_houses(gate=gate, script=answer(HOME)) as h:
        h.paid.gate.clear()
        reply = asyncio.create_task(ask(h))
        await h.until(lambda: h.paid.received)
        before = spent()
        await asyncio.sleep(0.02)
        assert spent() == before
        h.paid.gate.set()
        assert is_from_afar(await reply) and spent() == before
        h.paid.fails = error("500 Oh")
        held = asyncio.create_task(ask(h))
        await h.until(lambda: h.conductor.snapshot().waiting == 1)
        await h.until(lambda: spent() > before)  # it waits for the GPU, and pays for that
        h.provider.tell(Ready(("served",)))
        await held


async def test_nor_has_who_found_the_line_full() -> None:
    """A dollar a second is all theirs whom the engine works for."""
    clock = asyncio.get_running_loop().time
    bills = Spending(3600 * DOLLAR, now=clock(), wall=0.0)
    bobs = "sk-another-0123456789"
    gate = partial(Gate, keys=Keys([Key.of("ann", KEY), Key.of("bob", bobs)]), admin=Keys([]), quotas=Quotas(bills))

    async def forever(request: Received, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asyncio.Event().wait()

    async with two_houses(when=("queue_full",), gate=gate, slots=1, adopt_slots=False, queue=0, script=forever) as h:
        h.conductor.wake()
        h.provider.tell(Ready(("served",)))
        await h.until(lambda: h.state is State.READY)
        bob = asyncio.create_task(h.raw(h.request(CHAT).replace(KEY.encode(), bobs.encode())))
        await h.until(lambda: h.engine.received)
        h.paid.gate.clear()
        reply = asyncio.create_task(ask(h))
        await h.until(lambda: h.paid.received)
        before = bills.spent("ann", clock(), 0.0)
        await asyncio.sleep(0.02)
        h.paid.gate.set()
        assert is_from_afar(await reply)
        assert bills.spent("ann", clock(), 0.0) == before and bills.spent("bob", clock(), 0.0) > before
        bob.cancel()


def purse(tmp_path: Path, limit: int | None = None, *, worker: str = "w1", wall: float = 1795262400.0) -> KeptPurse:
    """Ten dollars for a million tokens, in and out."""
    folder = SpentFolder(tmp_path / "data" / "state" / "fallback", worker, strict=limit is not None)
    return KeptPurse(
        Prices(10 * DOLLAR, 10 * DOLLAR), limit, lambda tell: Spent(folder, write_every=0.0, on_news=tell), lambda: wall
    )


@pytest.fixture
def data(tmp_path: Path) -> Path:
    (tmp_path / "data").mkdir()
    return tmp_path


@pytest.mark.parametrize("body", [CHAT, STREAMED], ids=["whole", "stream"])
async def test_what_it_cost_is_counted_by_its_own_usage(data: Path, body: dict[str, object]) -> None:
    async with two_houses(purse=partial(purse, data)) as h:
        assert is_from_afar(await ask(h, body))
        assert h.fallback.purse.spent == 140 == h.answered[0].cost
        assert h.answered[0].usage is not None and h.answered[0].usage.total == USAGE["total_tokens"]


async def test_an_answer_that_does_not_say_its_usage_costs_all_that_was_reserved(data: Path) -> None:
    async with two_houses(purse=partial(purse, data, DOLLAR)) as h:
        h.paid.says_usage = False
        assert is_from_afar(await ask(h, CHAT | {"max_tokens": 1000}))
        assert 10_000 < (h.fallback.purse.spent or 0) < 20_000


async def test_a_count_that_came_with_the_beginning_of_an_answer_is_not_its_price(data: Path) -> None:
    """Some count in each event; whoever leaves after the first is billed for more than that says."""
    async with two_houses(purse=partial(purse, data, DOLLAR)) as h:

        async def counts(request: Received, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            said = [{"index": 0, "delta": {"content": "Hello"}, "finish_reason": None}]
            writer.write(STREAM_HEAD + chunked(h.paid._chunk(said, usage=USAGE)))
            await asyncio.Event().wait()

        h.paid.fails = counts
        reader, writer = await asyncio.open_connection("127.0.0.1", h.port)
        writer.write(h.request(STREAMED | {"max_tokens": 1000}))
        await reader.readuntil(b"Hello")
        writer.close()
        await h.until(lambda: h.answered)
        assert h.answered[0].outcome == "left" and 10_000 < (h.fallback.purse.spent or 0) < 20_000


async def test_what_was_declined_costs_nothing(data: Path) -> None:
    async with two_houses(purse=partial(purse, data, DOLLAR), script=answer(HOME)) as h:
        h.paid.fails = error("429 Too Many")
        await asked_and_held(h)
        assert h.fallback.purse.spent == 0


async def test_what_was_no_answer_may_be_billed_all_the_same(data: Path) -> None:
    async with two_houses(purse=partial(purse, data, DOLLAR), script=answer(HOME)) as h:
        h.paid.fails = answer({"choices": "none"})
        await asked_and_held(h, CHAT | {"max_tokens": 1000})
        assert 10_000 < (h.fallback.purse.spent or 0) < 20_000


async def test_a_hundred_who_come_at_once_never_spend_more_than_the_limit(data: Path) -> None:
    """Each may cost some 45,000 micro-dollars, and costs 140; there is room for two at a time."""
    async with two_houses(purse=partial(purse, data, 100_000), slots=200, queue=200) as h:
        h.paid.gate.clear()
        replies = [asyncio.create_task(ask(h)) for _ in range(100)]
        await h.until(lambda: h.conductor.snapshot().waiting == 98 and len(h.paid.received) == 2)
        assert h.objections == ["spend"] * 98
        h.paid.gate.set()
        await h.until(lambda: sum(reply.done() for reply in replies) == 2)
        assert h.fallback.purse.spent == 280
        assert is_from_afar(await ask(h))
        for reply in replies:
            reply.cancel()


async def test_what_was_spent_outlives_a_restart_and_a_kill(data: Path) -> None:
    async with two_houses(purse=partial(purse, data, 100_000)) as h:
        h.paid.says_usage = False
        assert is_from_afar(await ask(h))
        spent = h.fallback.purse.spent or 0
        (file,) = (data / "data/state/fallback").iterdir()
        (kept,) = json.loads(file.read_text())["micro_dollars"].values()
        assert 40_000 < spent <= kept <= 100_000  # what a kill would leave
    async with two_houses(purse=partial(purse, data, 100_000)) as h:
        assert is_from_afar(await ask(h))
        assert h.fallback.purse.spent == spent + 140
    async with two_houses(purse=partial(purse, data, spent + 200, worker="w2"), script=answer(HOME)) as h:
        await asked_and_held(h)
        assert h.objections == ["spend"]


async def test_a_new_month_has_new_money(data: Path) -> None:
    async with two_houses(purse=partial(purse, data, 50_000)) as h:
        h.paid.says_usage = False
        assert is_from_afar(await ask(h))
    async with two_houses(purse=partial(purse, data, 50_000, wall=1795262400.0 + 31 * 86_400)) as h:
        assert is_from_afar(await ask(h))
        assert h.fallback.purse.spent == 140


@pytest.mark.parametrize("trouble", ["a file that is none", "a folder that is a file"])
async def test_a_volume_that_cannot_be_read_or_written_sends_nobody_away(data: Path, trouble: str) -> None:
    folder = data / "data" / "state" / "fallback"
    if trouble == "a file that is none":
        folder.mkdir(parents=True)
        (folder / "2026-11_w1.json").write_text("{")
    else:
        folder.parent.mkdir(parents=True)
        folder.write_text("")
    async with two_houses(purse=partial(purse, data, DOLLAR), script=answer(HOME)) as h:
        assert json.loads(body_of(await asked_and_held(h))) == HOME
        assert h.paid.received == [] and h.objections == ["volume"]
        assert h.fallback.state != "ok"


async def test_without_a_limit_a_volume_in_trouble_disturbs_nobody(data: Path) -> None:
    (data / "data" / "state").mkdir(parents=True)
    (data / "data" / "state" / "fallback").write_text("")
    async with two_houses(purse=partial(purse, data)) as h:
        assert is_from_afar(await ask(h))
        assert h.fallback.purse.spent == 140


def test_a_purse_without_prices_knows_no_sum() -> None:
    assert Purse().spent is None and Purse().limit is None and LIMITS.connect > 0
