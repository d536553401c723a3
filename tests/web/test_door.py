"""The way of one request through the real server, with an engine whose every byte the test decides."""

import asyncio
import contextlib
import json
import re
import socket
from dataclasses import replace
from functools import partial

import pytest

from gateway.policy.keys import Key, digest_of
from gateway.policy.lifecycle.states import State
from gateway.providers.base import Gone, Loading, Profile, Ready
from gateway.web.auth import Keys
from gateway.web.gate import Gate
from gateway.web.keyring import Keyring
from tests.support.house import (
    CHAT,
    KEY,
    STREAM_HEAD,
    STREAMED,
    Received,
    answer,
    chunked,
    event,
    house,
    raw,
    stream,
)
from tests.support.loops import BOTH_LOOPS


def head_of(reply: bytes) -> str:
    return reply.partition(b"\r\n\r\n")[0].decode()


def body_of(reply: bytes) -> bytes:
    """The body, its chunks put together."""
    head, _, body = reply.partition(b"\r\n\r\n")
    if b"chunked" not in head:
        return body
    whole = b""
    while body:
        size, _, body = body.partition(b"\r\n")
        length = int(size or b"0", 16)
        whole, body = whole + body[:length], body[length + 2 :]
    return whole


def error_of(reply: bytes) -> dict[str, object]:
    return json.loads(body_of(reply))["error"]


def status_of(reply: bytes) -> int:
    return int(reply.split(b" ", 2)[1])


async def silent(request: Received, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await asyncio.sleep(60)


# --- what reaches the engine


async def test_the_request_is_built_and_not_copied() -> None:
    """The engine's own key and Host, our request id; nothing of the caller's that is not on the list."""
    async with house() as h:
        headers = (
            "Cookie: a=b\r\nX-Forwarded-For: 1.2.3.4\r\nX-Request-Id: mine-1\r\nOpenAI-Beta: x=1\r\nX_Api_Key: y\r\n"
        )
        await h.raw(h.request(CHAT, headers=headers))
        seen = h.engine.received[0]
        assert seen.header("Authorization") == ["Bearer engine-key"]
        assert seen.header("Host") == [f"127.0.0.1:{h.engine.port}"]
        assert seen.header("OpenAI-Beta") == ["x=1"]
        assert seen.header("X-Request-Id") == [h.visits[0].request_id]
        assert not {"cookie", "x-forwarded-for", "x_api_key"} & {name.lower() for name, _ in seen.headers}
        assert h.visits[0].caller_id == "mine-1"


async def test_what_was_checked_is_what_is_forwarded() -> None:
    async with house() as h:
        body = b'{"messages": [{"role":"user","content":"\\ud83d"}], "odd_field": {"b": 1, "a": 1e2}, "n":1}'
        await h.raw(h.request(body))
        seen = h.engine.received[0].json
        assert seen["messages"][0]["content"] == "�"
        assert list(seen["odd_field"]) == ["b", "a"]
        assert b"wakegate_lone_surrogates_total 1" in h.metrics.page()


async def test_any_model_name_becomes_the_served_one() -> None:
    async with house() as h:
        await h.raw(h.request(CHAT | {"model": "gpt-4o"}))
        assert h.engine.received[0].json["model"] == "served"


async def test_an_engine_that_calls_its_model_by_a_path_is_asked_so_and_callers_never_see_it() -> None:
    """`vllm serve /models/tiny` answers to that name only; what it is called is known when it is ready, not before."""
    async with house(ready_at_once=False, profile=Profile()) as h:
        reply = asyncio.create_task(h.raw(h.request(CHAT | {"model": "gpt-4o"})))
        await h.until(lambda: h.conductor.snapshot().waiting == 1)
        h.provider.tell(Ready(("/models/tiny.gguf",)))
        assert status_of(await reply) == 200
        assert h.engine.received[0].json["model"] == "/models/tiny.gguf"
        assert h.conductor.models == ("tiny",)


@pytest.mark.parametrize("messages", [{}, {"messages": None}, {"messages": "Hello"}])
async def test_a_chat_without_messages_wakes_nothing(messages: dict[str, object]) -> None:
    """Valid JSON that every engine refuses is garbage too: no GPU is started for it."""
    async with house(ready_at_once=False) as h:
        reply = await h.raw(h.request({"model": "served", **messages}))
        assert (status_of(reply), error_of(reply)["param"]) == (400, "messages")
        assert h.provider.starts == 0


async def test_a_strict_gateway_that_knew_no_name_yet_refuses_once_it_does() -> None:
    async with house(ready_at_once=False, strict_models=True, profile=Profile()) as h:
        reply = asyncio.create_task(h.raw(h.request(CHAT | {"model": "gpt-4o"})))
        await h.until(lambda: h.conductor.snapshot().waiting == 1)
        h.provider.tell(Ready(("tiny",)))
        assert error_of(await reply)["code"] == "model_not_found"
        assert h.engine.received == []


async def test_server_timing_tells_line_wake_and_prefill() -> None:
    async with house(ready_at_once=False) as h:
        reply = asyncio.create_task(h.raw(h.request(CHAT)))
        await h.until(lambda: h.conductor.snapshot().waiting == 1)
        await asyncio.sleep(0.2)
        h.provider.tell(Ready(("served",)))
        said = dict(re.findall(r"(\w+);dur=([0-9.]+)", head_of(await reply)))
        assert {"line", "wake", "prefill"} <= said.keys()
        assert float(said["wake"]) >= 190 and float(said["line"]) < 100


async def test_who_is_sent_back_or_leaves_while_it_wakes_was_held_too() -> None:
    """They are whom an operator looks for: the log's line and the metrics say how long they waited."""
    async with house(ready_at_once=False, hold_max=0.1) as h:
        reply = await h.raw(h.request(CHAT))
        assert float(dict(re.findall(r"(\w+);dur=([0-9.]+)", head_of(reply)))["wake"]) >= 90
        _, writer = await asyncio.open_connection("127.0.0.1", h.port)
        writer.write(h.request(STREAMED))
        await h.until(lambda: h.conductor.snapshot().waiting == 1)
        await asyncio.sleep(0.05)
        writer.transport.abort()
        await h.until(lambda: len(h.visits) == 2)
        for visit, outcome in zip(h.visits, ("refused", "left"), strict=True):
            assert visit.outcome == outcome and visit.reply is not None
            assert visit.reply.timings["wake"] >= 0.04 and visit.reply.timings["line"] == 0


async def test_a_strict_gateway_refuses_an_unknown_model_without_a_start() -> None:
    async with house(strict_models=True) as h:
        reply = await h.raw(h.request(CHAT | {"model": "gpt-4o"}))
        assert (status_of(reply), error_of(reply)["code"]) == (404, "model_not_found")
        assert h.provider.starts == 0


@pytest.mark.parametrize(
    "path", ["/slots", "/props", "/sleep", "/v1/../slots", "//v1/chat/completions", "/v1/%2e%2e/x"]
)
async def test_an_unlisted_path_never_reaches_the_engine(path: str) -> None:
    async with house() as h:
        reply = await h.raw(h.request(CHAT, path=path))
        assert (status_of(reply), error_of(reply)["code"]) == (404, "route_not_found")
        assert h.engine.received == [] and h.provider.starts == 0


async def test_an_operator_may_add_a_path() -> None:
    async with house(allowed_paths=("/tokenize",)) as h:
        assert status_of(await h.raw(h.request({"content": "x"}, path="/tokenize"))) == 200
        assert h.engine.received[0].line == "POST /tokenize HTTP/1.1"


async def test_a_route_that_the_engine_lacks_is_said_so() -> None:
    async with house(profile=Profile(("served",), frozenset({"/v1/chat/completions"}))) as h:
        reply = await h.raw(h.request(CHAT, path="/v1/rerank"))
        assert (status_of(reply), error_of(reply)["code"]) == (404, "route_not_supported")


async def test_a_path_without_v1_is_told_to_add_it() -> None:
    async with house() as h:
        assert "Add /v1" in str(error_of(await h.raw(h.request(CHAT, path="/chat/completions")))["message"])


# --- what reaches the caller


async def test_events_reach_the_caller_as_they_come() -> None:
    async with house(script=stream(event("a"), event("b"), event("", "stop"), gap=0.1)) as h:
        reader, writer = await asyncio.open_connection("127.0.0.1", h.port)
        writer.write(h.request(STREAMED))
        await reader.readuntil(b"\r\n\r\n")
        began = asyncio.get_running_loop().time()
        await reader.readuntil(b"\n\n\r\n")
        assert asyncio.get_running_loop().time() - began < 0.09
        assert (await reader.read()).endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n")
        writer.close()


async def test_an_answer_keeps_its_status_and_listed_headers_only() -> None:
    script = answer(
        {"ok": 1},
        headers="Set-Cookie: a=b\r\nServer: x\r\nx-ratelimit-limit: 1\r\nx-ratelimit-limit: 2\r\nKeep-Alive: max=5\r\n",
    )
    async with house(script=script) as h:
        head = head_of(await h.raw(h.request(CHAT)))
        assert "Set-Cookie" not in head and "Server: x" not in head and "Keep-Alive" not in head
        assert head.lower().count("x-ratelimit-limit") == 2
        assert "X-Request-Id: " in head


async def test_a_traceback_of_the_engine_never_passes() -> None:
    text = b'Traceback (most recent call last):\n  File "/opt/x/app.py", line 3\nValueError: no'
    async with house(script=answer(text, status="500 Internal Server Error", content_type="text/plain")) as h:
        reply = await h.raw(h.request(CHAT))
        assert status_of(reply) in (500, 502) and b"/opt/x" not in reply and b"Traceback" not in reply
        assert error_of(reply)["code"]


async def test_a_stream_that_breaks_ends_with_an_error_event_and_no_end() -> None:
    async with house(script=stream(event("a"), done=False, last_chunk=False)) as h:
        reply = await h.raw(h.request(STREAMED))
        assert b'"code":"backend_lost"' in reply
        assert b"[DONE]" not in reply and not reply.endswith(b"0\r\n\r\n")
        assert status_of(reply) == 200 and reply.count(b"HTTP/1.1") == 1


async def test_a_tidy_end_without_the_end_of_the_answer_is_no_success() -> None:
    async with house(script=stream(event("a"), done=False)) as h:
        reply = await h.raw(h.request(STREAMED))
        assert b"backend_lost" in reply and not reply.endswith(b"0\r\n\r\n")


async def test_an_unfinished_event_is_never_followed_by_ours() -> None:
    async with house(script=raw(STREAM_HEAD + chunked(event("a")) + chunked(b'data: {"half'))) as h:
        reply = await h.raw(h.request(STREAMED))
        assert b"half" not in reply and b"backend_lost" in reply


async def test_an_engine_that_dies_politely_is_still_shown_as_dead() -> None:
    """vLLM at SIGTERM (recorded): finish_reason "abort", then [DONE]."""
    async with house(script=stream(event("a"), event("", "abort"))) as h:
        reply = await h.raw(h.request(STREAMED))
        assert b"abort" not in reply and b"[DONE]" not in reply and b"backend_lost" in reply


async def test_an_engine_error_inside_a_stream_is_not_followed_by_done() -> None:
    """vLLM after kill -9 of its core (recorded): an error event and [DONE] inside a 200."""
    async with house(
        script=stream(event("a"), b'data: {"error": {"message": "EngineCore died", "code": 500}}\n\n')
    ) as h:
        reply = await h.raw(h.request(STREAMED))
        assert b"EngineCore died" in reply and b"[DONE]" not in reply


async def test_garbage_from_the_engine_is_a_502_of_ours() -> None:
    async with house(script=raw(b"SSH-2.0-OpenSSH\r\n\r\n")) as h:
        reply = await h.raw(h.request(CHAT))
        assert (status_of(reply), error_of(reply)["code"]) == (502, "backend_protocol_error")


async def test_an_engine_that_closes_without_an_answer_is_asked_once_only() -> None:
    """It may have run: a POST is never sent twice."""
    async with house(script=raw(b"")) as h:
        reply = await h.raw(h.request(CHAT))
        assert (status_of(reply), error_of(reply)["code"]) == (502, "backend_lost")
        assert len(h.engine.received) == 1


async def test_a_redirect_is_not_followed() -> None:
    async with house(script=answer(b"", status="302 Found", headers="Location: http://169.254.169.254/\r\n")) as h:
        reply = await h.raw(h.request(CHAT))
        assert status_of(reply) == 502 and b"169.254" not in reply and len(h.engine.received) == 1


async def test_an_engine_that_never_begins_is_a_504() -> None:
    async with house(script=silent, answer_time=0.3) as h:
        reply = await h.raw(h.request(CHAT))
        assert (status_of(reply), error_of(reply)["code"]) == (504, "backend_timeout")
        await h.until(lambda: h.engine.left == 1)


async def test_a_stream_that_stalls_is_ended_with_its_reason() -> None:
    async def stalls(request: Received, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(STREAM_HEAD + chunked(event("a")))
        await asyncio.sleep(60)

    async with house(script=stalls, gap=0.5) as h:
        reply = await h.raw(h.request(STREAMED))
        assert b"backend_stalled" in reply and b": waiting" in reply
        await h.until(lambda: h.engine.left == 1)


async def test_a_long_prompt_is_waited_for_in_company() -> None:
    async def slow(request: Received, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(0.5)
        await stream(event("a", "stop"))(request, reader, writer)

    async with house(script=slow) as h:
        reply = await h.raw(h.request(STREAMED))
        assert b": working on the prompt" in reply and reply.endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n")


async def test_company_comes_within_the_callers_own_time_out_also_from_a_ready_engine() -> None:
    """In a long prompt, and in the middle of a stream."""
    silence = asyncio.Event()

    async def slow(request: Received, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await silence.wait()
        silence.clear()
        writer.write(STREAM_HEAD + chunked(event("a")))
        await silence.wait()
        writer.write(chunked(event("b", "stop") + b"data: [DONE]\n\n") + b"0\r\n\r\n")

    async with house(script=slow, heartbeat=60, gap=30, first_byte=30) as h:
        reader, writer = await asyncio.open_connection("127.0.0.1", h.port)
        writer.write(h.request(STREAMED, headers="x-stainless-read-timeout: 1\r\n"))
        for said in (b": working on the prompt\n\n", b": waiting for the engine\n\n"):
            assert await reader.readuntil(said)
            silence.set()
        assert b"[DONE]" in await reader.read()
        writer.close()


async def test_an_engine_error_after_a_heartbeat_becomes_an_event() -> None:
    async def late(request: Received, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(0.4)
        await answer({"error": {"message": "too long", "code": 400}}, status="400 Bad Request")(request, reader, writer)

    async with house(script=late) as h:
        reply = await h.raw(h.request(STREAMED))
        assert status_of(reply) == 200 and reply.count(b"HTTP/1.1") == 1
        assert b'data: {"error"' in reply and b"too long" in reply


async def test_options_and_head_are_answered_without_the_engine() -> None:
    async with house() as h:
        reply = await h.raw(b"OPTIONS /v1/chat/completions HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert status_of(reply) == 204 and "Allow: POST, OPTIONS" in head_of(reply)
        reply = await h.raw(b"HEAD /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert status_of(reply) == 200 and reply.endswith(b"\r\n\r\n")
        assert h.provider.starts == 0


# --- holding


async def test_twenty_early_callers_make_one_start_and_are_all_answered() -> None:
    async with house(ready_at_once=False, slots=20, queue=50) as h:
        replies = [asyncio.create_task(h.raw(h.request(CHAT))) for _ in range(20)]
        await h.until(lambda: h.conductor.snapshot().waiting == 20)
        assert h.state is State.STARTING
        h.provider.tell(Ready(("served",)))
        assert [status_of(reply) for reply in await asyncio.gather(*replies)] == [200] * 20
        assert h.provider.starts == 1


async def test_a_held_stream_hears_how_far_it_is_and_then_the_engine() -> None:
    async with house(ready_at_once=False, script=stream(event("a", "stop"))) as h:
        reply = asyncio.create_task(h.raw(h.request(STREAMED)))
        await h.until(lambda: h.conductor.snapshot().waiting == 1)
        h.provider.tell(Loading("loading", 0.43, "12.1/28.0 GiB"))
        await asyncio.sleep(0.5)
        h.provider.tell(Ready())
        got = await reply
        assert re.search(rb": loading \d\d% 12\.1/28\.0 GiB[^\n]*\n\n", got), got
        assert got.endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n") and got.count(b"HTTP/1.1") == 1


async def test_a_held_stream_hears_that_it_is_tried_again() -> None:
    """The next try begins at its own beginning: a bar that went back would be a riddle."""
    async with house(ready_at_once=False, grace=0.05, heartbeat=0.05) as h:
        reply = asyncio.create_task(h.raw(h.request(STREAMED), within=10))
        await h.until(lambda: h.conductor.snapshot().waiting == 1)
        h.provider.tell(Gone("It ended."))
        await h.until(lambda: h.provider.starts == 2)
        h.provider.tell(Loading("loading", 0.2))
        await asyncio.sleep(0.3)
        h.provider.tell(Ready())
        assert re.search(rb": trying again: loading \d+%", await reply)


async def test_a_stream_with_a_short_time_out_is_opened_and_kept_company_within_it() -> None:
    async with house(ready_at_once=False, grace=60, heartbeat=60) as h:
        reader, writer = await asyncio.open_connection("127.0.0.1", h.port)
        writer.write(h.request(STREAMED, headers="x-stainless-read-timeout: 1\r\n"))
        async with asyncio.timeout(10):
            opened, beat = [await reader.readuntil(b"\n\n") for _ in range(2)]
        assert opened.startswith(b"HTTP/1.1 200") and b"\r\n: " in opened and b"\r\n: " in beat
        writer.close()


async def test_a_held_answer_without_a_stream_is_sent_back_in_time() -> None:
    async with house(ready_at_once=False, hold_max=0.3) as h:
        reply = await h.raw(h.request(CHAT))
        assert (status_of(reply), error_of(reply)["code"]) == (503, "loading")
        assert "x-should-retry: true" in head_of(reply) and "Retry-After: " in head_of(reply)


async def test_nobody_is_held_for_longer_than_they_said_they_wait() -> None:
    async with house(ready_at_once=False, hold_max=60) as h:
        began = asyncio.get_running_loop().time()
        reply = await h.raw(h.request(CHAT, headers="x-stainless-read-timeout: 6\r\n"))
        assert error_of(reply)["code"] == "loading"
        assert asyncio.get_running_loop().time() - began < 3


async def test_a_caller_who_prefers_not_to_wait_is_told_at_once_and_the_wake_goes_on() -> None:
    async with house(ready_at_once=False, hold_max=60) as h:
        for body in (CHAT, STREAMED):
            reply = await h.raw(h.request(body, headers="Prefer: wait=0\r\n"))
            assert (status_of(reply), error_of(reply)["code"]) == (503, "loading")
        assert h.state is State.STARTING and h.provider.starts == 1
        h.provider.tell(Ready())
        await h.until(lambda: h.state is State.READY)


async def test_who_waits_for_what_nobody_can_foretell_stays_away_for_as_long_as_it_took_so_far() -> None:
    async with house(ready_at_once=False, rejects=True) as h:
        at_first = await h.raw(h.request(CHAT))
        assert "Retry-After: 15\r\n" in head_of(at_first)
        assert h.conductor._forecast is not None
        h.conductor._forecast.began -= 40  # rather than 40 seconds of everybody's time
        assert re.search(r"Retry-After: 4\d\r\n", head_of(await h.raw(h.request(CHAT))))


async def test_a_stream_that_prefers_a_wait_hears_an_error_event_when_it_is_over() -> None:
    async with house(ready_at_once=False, grace=0.01) as h:
        reply = await h.raw(h.request(STREAMED, headers="Prefer: wait=1\r\n"))
        assert status_of(reply) == 200 and b'"code":"loading"' in reply and b"[DONE]" not in reply


async def test_cold_start_reject_tells_everybody_at_once_and_wakes_all_the_same() -> None:
    async with house(ready_at_once=False, rejects=True) as h:
        for body in (CHAT, STREAMED):
            reply = await h.raw(h.request(body))
            assert (status_of(reply), error_of(reply)["code"]) == (503, "loading")
            assert "Retry-After: " in head_of(reply) and "x-should-retry: true" in head_of(reply)
        assert h.conductor.snapshot().waiting == 0 and h.provider.starts == 1
        h.provider.tell(Ready())
        await h.until(lambda: h.state is State.READY)
        assert status_of(await h.raw(h.request(CHAT))) == 200


async def test_cold_start_reject_still_lets_those_stand_in_line_whom_it_serves() -> None:
    async with house(slots=1, rejects=True, script=silent) as h:
        first = asyncio.create_task(h.raw(h.request(CHAT)))
        await h.until(lambda: h.engine.received)
        second = asyncio.create_task(h.raw(h.request(CHAT)))
        await h.until(lambda: h.conductor.snapshot().waiting == 1)
        first.cancel()
        second.cancel()


async def test_who_comes_back_stands_where_it_stood_and_pays_its_limit_once() -> None:
    """Two of three requests a minute are paid: by those who came between, and by the one who came twice."""
    ann = Key("ann", digest_of(KEY.encode()), requests_per_minute=2)
    gate = partial(Gate, keys=Keys([ann]), admin=Keys([]))
    async with house(ready_at_once=False, hold_max=60, slots=1, gate=gate, profile=Profile(("served",))) as h:
        early = CHAT | {"seed": 1}
        told = await h.raw(h.request(early, headers="Prefer: wait=0\r\n"))
        assert error_of(told)["code"] == "loading" and "x-ratelimit-remaining-requests: 1" in head_of(told)
        late = asyncio.create_task(h.raw(h.request(CHAT | {"seed": 2})))
        await h.until(lambda: h.conductor.snapshot().waiting == 1)
        again = asyncio.create_task(h.raw(h.request(early)))
        await h.until(lambda: h.conductor.snapshot().waiting == 2)
        third = await h.raw(h.request(CHAT | {"seed": 3}))
        assert error_of(third)["code"] == "rate_limit_exceeded"
        h.provider.tell(Ready(concurrency=1))
        assert [status_of(reply) for reply in await asyncio.gather(late, again)] == [200, 200]
        assert [request.json["seed"] for request in h.engine.received] == [1, 2]


async def test_who_does_not_come_back_is_given_back_what_it_took() -> None:
    ann = Key("ann", digest_of(KEY.encode()), requests_per_minute=1)
    gate = partial(Gate, keys=Keys([ann]), admin=Keys([]))
    async with house(ready_at_once=False, hold_max=60, gate=gate) as h:
        told = await h.raw(h.request(CHAT | {"seed": 1}, headers="Prefer: wait=0\r\n"))
        assert error_of(told)["code"] == "loading"
        assert error_of(await h.raw(h.request(CHAT)))["code"] == "rate_limit_exceeded"
        h.door.beat(asyncio.get_running_loop().time() + 600)
        assert error_of(await h.raw(h.request(CHAT, headers="Prefer: wait=0\r\n")))["code"] == "loading"


async def test_who_comes_back_may_no_more_than_its_key_may_by_then() -> None:
    ann = Key("ann", digest_of(KEY.encode()), requests_per_minute=9)
    ring = Keyring([ann])
    async with house(ready_at_once=False, hold_max=60, gate=partial(Gate, keys=Keys(ring), admin=Keys([]))) as h:
        assert error_of(await h.raw(h.request(CHAT, headers="Prefer: wait=0\r\n")))["code"] == "loading"
        ring.by_digest = {ann.digest: replace(ann, models=frozenset({"other"}))}
        assert status_of(await h.raw(h.request(CHAT))) == 403
        assert len(h.door.places) == 1 and h.conductor.snapshot().waiting == 0


async def test_another_key_with_the_same_words_finds_no_place() -> None:
    others = "sk-another-0123456789"
    keys = Keys([Key("ann", digest_of(KEY.encode()), requests_per_minute=1), Key.of("bob", others)])
    async with house(ready_at_once=False, hold_max=60, slots=1, gate=partial(Gate, keys=keys, admin=Keys([]))) as h:
        assert error_of(await h.raw(h.request(CHAT, headers="Prefer: wait=0\r\n")))["code"] == "loading"
        assert len(h.door.places) == 1
        request = h.request(CHAT, headers="Prefer: wait=0\r\n").replace(KEY.encode(), others.encode())
        assert error_of(await h.raw(request))["code"] == "loading"
        assert len(h.door.places) == 2


async def test_a_start_that_fails_for_good_is_told_to_all_who_wait() -> None:
    """Nothing was committed yet, so it keeps its status for streams, too."""
    async with house(ready_at_once=False, grace=30) as h:
        waiting = [asyncio.create_task(h.raw(h.request(body))) for body in (CHAT, STREAMED)]
        await h.until(lambda: h.conductor.snapshot().waiting == 2)
        h.provider.tell(Gone("The configured model was not found.", lasting=True, detail="/secret/path"))
        for reply in await asyncio.gather(*waiting):
            assert (status_of(reply), error_of(reply)["code"]) == (503, "start_failed")
            assert b"not found" in reply and b"/secret" not in reply
        reply = await h.raw(h.request(CHAT))
        assert error_of(reply)["code"] == "start_failed" and h.provider.starts == 1


async def test_a_full_line_is_said_at_once() -> None:
    async with house(ready_at_once=False, queue=1) as h:
        first = asyncio.create_task(h.raw(h.request(CHAT)))
        await h.until(lambda: h.conductor.snapshot().waiting == 1)
        reply = await h.raw(h.request(CHAT))
        assert (status_of(reply), error_of(reply)["code"]) == (429, "queue_full")
        assert "Retry-After: " in head_of(reply)
        first.cancel()


async def test_held_bodies_are_bounded_in_bytes() -> None:
    async with house(ready_at_once=False, queue_bytes=1000) as h:
        reply = await h.raw(h.request(CHAT | {"user": "x" * 2000}))
        assert error_of(reply)["code"] == "queue_full"


async def test_the_engine_crashes_and_only_those_in_flight_hear_of_it() -> None:
    """Those in line wait for the restart."""

    async def dies(request: Received, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(0.2)
        writer.close()

    async with house(script=dies, slots=1) as h:
        first = asyncio.create_task(h.raw(h.request(CHAT)))
        await h.until(lambda: h.engine.received)
        second = asyncio.create_task(h.raw(h.request(CHAT)))
        await h.until(lambda: h.conductor.snapshot().waiting == 1)
        h.provider.ready_at_once = False
        h.provider.tell(Gone("The engine was killed by signal 9."))
        assert error_of(await first)["code"] == "backend_lost"
        h.engine.script = answer({"ok": 1})
        await h.until(lambda: h.provider.starts == 2)
        h.provider.tell(Ready())
        assert status_of(await second) == 200


async def test_the_next_in_line_is_not_sent_to_an_engine_that_is_dying() -> None:
    """Connections break before the provider can know why, and a dying engine's door is open a moment longer."""

    async def dies(request: Received, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        loop = asyncio.get_running_loop()
        loop.call_later(0.04, h.provider.tell, Gone("The engine was killed by signal 9."))
        h.provider.ready_at_once = False

    async with house(script=dies, slots=1) as h:
        first = asyncio.create_task(h.raw(h.request(CHAT)))
        second = asyncio.create_task(h.raw(h.request(CHAT)))
        assert error_of(await first)["code"] == "backend_lost"
        h.engine.script = answer({"ok": 1})
        await h.until(lambda: h.provider.starts == 2)
        assert len(h.engine.received) == 1
        h.provider.tell(Ready())
        assert status_of(await second) == 200


# --- the caller leaves


@pytest.mark.parametrize("body", [CHAT, STREAMED], ids=["whole", "stream"])
async def test_a_caller_who_leaves_ends_the_engines_work(body: dict[str, object]) -> None:
    async with house(script=silent, slots=1) as h:
        _, writer = await asyncio.open_connection("127.0.0.1", h.port)
        writer.write(h.request(body))
        await h.until(lambda: h.engine.received)
        writer.close()
        await h.until(lambda: h.engine.left == 1 and h.conductor.snapshot().in_flight == 0, within=1)
        assert h.visits[0].outcome == "left"


async def test_a_caller_who_leaves_in_mid_stream_ends_the_engines_work() -> None:
    async with house(script=stream(*[event("x")] * 1000, gap=0.05), slots=1) as h:
        reader, writer = await asyncio.open_connection("127.0.0.1", h.port)
        writer.write(h.request(STREAMED))
        await reader.readuntil(b"\n\n")
        writer.close()
        await h.until(lambda: h.engine.left == 1 and h.conductor.snapshot().in_flight == 0, within=1)


@pytest.mark.parametrize("body", [CHAT, STREAMED])
async def test_an_engine_that_is_spared_a_leaving_finishes_and_keeps_its_slot_until_then(
    body: dict[str, object],
) -> None:
    finish = asyncio.Event()

    async def slow(request: Received, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if "stream" in request.json:
            writer.write(STREAM_HEAD + chunked(event("a")))
        await finish.wait()
        whole = stream(event("b", "stop")) if "stream" in request.json else answer({"ok": True})
        if "stream" in request.json:
            writer.write(chunked(event("b", "stop")) + chunked(b"data: [DONE]\n\n") + b"0\r\n\r\n")
        else:
            await whole(request, reader, writer)

    async with house(slots=1, cancels=False, script=slow, profile=Profile(("served",))) as h:
        caller = asyncio.create_task(h.raw(h.request(body)))
        await h.until(lambda: h.engine.received)
        caller.cancel()
        await h.until(lambda: h.visits)
        assert h.visits[0].outcome == "left" and h.conductor.snapshot().in_flight == 1 and h.engine.left == 0
        finish.set()
        await h.until(lambda: h.conductor.snapshot().in_flight == 0)
        assert h.engine.left == 0
        assert status_of(await h.raw(h.request(CHAT))) == 200


async def test_the_next_in_line_is_not_sent_to_one_that_dies_in_an_answer_unheard() -> None:
    die = asyncio.Event()

    async def dies(request: Received, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await die.wait()
        asyncio.get_running_loop().call_later(0.04, h.provider.tell, Gone("The engine was killed by signal 9."))
        h.provider.ready_at_once = False

    async with house(script=dies, slots=1, cancels=False) as h:
        first = asyncio.create_task(h.raw(h.request(CHAT)))
        await h.until(lambda: h.engine.received)
        second = asyncio.create_task(h.raw(h.request(CHAT)))
        await h.until(lambda: h.conductor.snapshot().waiting == 1)
        first.cancel()
        await h.until(lambda: h.visits)
        h.engine.script = answer({"ok": 1})
        die.set()
        await h.until(lambda: h.provider.starts == 2)
        assert len(h.engine.received) == 1
        h.provider.tell(Ready())
        assert status_of(await second) == 200


async def test_at_the_end_of_a_drain_an_unheard_answer_is_cut_too() -> None:
    async with house(cancels=False, script=silent, drain_timeout=0.6) as h:
        caller = asyncio.create_task(h.raw(h.request(CHAT)))
        await h.until(lambda: h.engine.received)
        caller.cancel()
        await h.until(lambda: h.visits)
        await h.conductor.drain()
        await h.until(lambda: h.engine.left == 1)


@pytest.mark.parametrize("body", [CHAT, STREAMED], ids=["whole", "stream"])
async def test_a_request_that_takes_too_long_is_ended_in_the_engine_too(body: dict[str, object]) -> None:
    """Its caller is still there and hears an error: nothing may go on into that answer, and its slot is free."""

    async def slow(request: Received, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if "stream" in request.json:
            writer.write(STREAM_HEAD + chunked(event("a")))
        await asyncio.Event().wait()

    async with house(slots=1, cancels=False, script=slow, max_seconds=0.2) as h:
        assert b'"code":"backend_timeout"' in await h.raw(h.request(body))
        await h.until(lambda: h.engine.left == 1)
        assert h.conductor.snapshot().in_flight == 0 and h.visits[0].unheard is None


async def test_an_answer_that_nobody_hears_ends_at_max_request_seconds_too() -> None:
    """One that never ends would keep what is rented for ever."""
    async with house(cancels=False, script=silent, max_seconds=0.5, answer_time=60) as h:
        caller = asyncio.create_task(h.raw(h.request(CHAT)))
        await h.until(lambda: h.engine.received)
        caller.cancel()
        await h.until(lambda: h.visits)
        assert h.visits[0].outcome == "left"
        await h.until(lambda: h.engine.left == 1)
        await h.until(lambda: h.conductor.snapshot().in_flight == 0)


async def test_an_answer_that_nobody_hears_is_one_of_its_keys_until_the_engine_is_done_with_it() -> None:
    finish = asyncio.Event()

    async def slow(request: Received, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await finish.wait()
        await answer({"ok": True})(request, reader, writer)

    key = Key("ann", digest_of(KEY.encode()), max_concurrent=1)
    gate = partial(Gate, keys=Keys([key]), admin=Keys([]))
    async with house(cancels=False, script=slow, gate=gate) as h:
        caller = asyncio.create_task(h.raw(h.request(CHAT)))
        await h.until(lambda: h.engine.received)
        caller.cancel()
        await h.until(lambda: h.visits)
        assert error_of(await h.raw(h.request(CHAT)))["code"] == "rate_limit_exceeded"
        finish.set()
        await h.until(lambda: h.conductor.snapshot().in_flight == 0)
        assert status_of(await h.raw(h.request(CHAT))) == 200


async def test_a_caller_who_leaves_the_line_is_gone_from_it() -> None:
    async with house(ready_at_once=False) as h:
        _, writer = await asyncio.open_connection("127.0.0.1", h.port)
        writer.write(h.request(CHAT))
        await h.until(lambda: h.conductor.snapshot().waiting == 1)
        writer.close()
        await h.until(lambda: h.conductor.snapshot().waiting == 0, within=1)


async def test_a_caller_who_leaves_while_uploading_starts_nothing() -> None:
    async with house() as h:
        _, writer = await asyncio.open_connection("127.0.0.1", h.port)
        writer.write(h.request(CHAT)[:-10])
        await writer.drain()
        await asyncio.sleep(0.05)
        writer.close()
        await h.until(lambda: h.visits)
        assert h.provider.starts == 0 and h.engine.received == []


async def test_a_caller_who_does_not_read_is_dropped_and_the_engine_freed() -> None:
    flood = stream(*[event("x" * 8000)] * 20000)
    async with house(script=flood, write_timeout=0.5, gap=5) as h:
        reader, writer = await asyncio.open_connection("127.0.0.1", h.port, limit=1024)
        writer.write(h.request(STREAMED))
        await h.until(lambda: h.engine.left == 1, within=5)
        assert h.visits[0].outcome == "left"
        assert h.visits[0].reply is not None and h.visits[0].reply.bytes_sent < 20_000_000
        writer.close()
        del reader


@BOTH_LOOPS
async def test_a_caller_who_reads_slowly_for_longer_than_write_timeout_is_not_dropped() -> None:
    """So slowly that the kernel, which waits for a third of its buffer, says all the while that there is no room."""
    flood = stream(*[event("x" * 8000)] * 20000)
    async with house(script=flood, write_timeout=0.4, gap=5) as h:
        with socket.socket() as caller:
            caller.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            caller.setblocking(False)
            loop = asyncio.get_running_loop()
            await loop.sock_connect(caller, ("127.0.0.1", h.port))
            await loop.sock_sendall(caller, h.request(STREAMED))
            until = loop.time() + 2
            while loop.time() < until:
                assert await loop.sock_recv(caller, 2048), "it was cut off"
                await asyncio.sleep(0.02)
            assert h.visits == [] and h.engine.left == 0
        await h.until(lambda: h.engine.left == 1, within=5)


# --- who may


async def test_a_wrong_key_never_starts_anything() -> None:
    async with house() as h:
        wrong = h.request(CHAT).replace(b"Bearer sk-test", b"Bearer sk-nope")
        reply = await h.raw(wrong)
        assert (status_of(reply), error_of(reply)["code"]) == (401, "invalid_api_key")
        assert "WWW-Authenticate: Bearer" in head_of(reply) and "Connection: close" in head_of(reply)
        assert h.provider.starts == 0


async def test_a_key_in_x_api_key_counts_although_authorization_holds_another() -> None:
    """RunPod's edge takes Authorization for itself."""
    async with house() as h:
        data = h.request(CHAT).replace(b"Authorization: Bearer ", b"Authorization: Bearer rpa_x\r\nX-API-Key: ")
        assert status_of(await h.raw(data)) == 200


async def test_without_keys_everybody_may() -> None:
    async with house(gate=lambda: Gate(keys=Keys([]), admin=Keys([]))) as h:
        data = h.request(CHAT).replace(b"Authorization", b"X-Nothing")
        assert status_of(await h.raw(data)) == 200


# --- activity and the end


async def test_probes_pages_and_refusals_are_no_activity() -> None:
    async with house() as h:
        await h.raw(h.request(CHAT))
        before = h.conductor.snapshot().last_activity
        for path in ("/ping", "/health", "/metrics", "/", "/v1/models"):
            await h.raw(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        await h.raw(h.request({"n": 1000}))
        h.engine.script = answer({"error": {"message": "no"}}, status="422 Unprocessable Entity")
        assert status_of(await h.raw(h.request(CHAT))) == 422
        assert h.conductor.snapshot().last_activity == before


async def test_idle_ends_in_stopped_and_the_next_request_wakes_it() -> None:
    async with house(idle_timeout=0.3) as h:
        assert status_of(await h.raw(h.request(CHAT))) == 200
        await h.until(lambda: h.state is State.STOPPED)
        assert h.provider.stops == 1
        assert status_of(await h.raw(h.request(CHAT))) == 200
        assert h.provider.starts == 2


async def test_a_drain_lets_running_answers_finish_and_nobody_in() -> None:
    async with house(script=stream(*[event("x")] * 8, event("", "stop"), gap=0.1)) as h:
        running = asyncio.create_task(h.raw(h.request(STREAMED)))
        await h.until(lambda: h.engine.received)
        drained = asyncio.create_task(h.conductor.drain())
        await asyncio.sleep(0.05)
        reply = await h.raw(h.request(CHAT))
        assert (status_of(reply), error_of(reply)["code"]) == (503, "draining")
        assert (await running).endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n")
        await drained
        assert h.provider.stops == 1


async def test_a_drain_that_is_over_ends_the_rest_with_a_wellformed_error() -> None:
    async with house(script=stream(*[event("x")] * 1000, gap=0.05), drain_timeout=1.0) as h:
        running = asyncio.create_task(h.raw(h.request(STREAMED)))
        await h.until(lambda: h.engine.received)
        await asyncio.wait_for(h.conductor.drain(), 3)
        reply = await running
        assert b'"code":"draining"' in reply and b"[DONE]" not in reply
        await h.until(lambda: h.engine.left == 1)


async def test_in_the_middle_of_an_overlong_event_the_end_of_a_drain_is_a_cut() -> None:
    """An error event behind half an event would be a part of it."""
    half = b"data: " + b"x" * 100_000

    async def script(request: Received, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(STREAM_HEAD + chunked(half))
        await asyncio.sleep(60)

    async with house(script=script, drain_timeout=0.6) as h:
        reader, writer = await asyncio.open_connection("127.0.0.1", h.port)
        writer.write(h.request(STREAMED))
        await reader.readuntil(b"x" * 1000)
        await h.conductor.drain()
        rest = b""
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(65536):
                rest += data
        assert b"draining" not in rest and b"error" not in rest
        writer.close()


async def test_so_it_does_for_those_whose_engine_has_just_broken_off() -> None:
    """For a moment they wait for what became of it; the drain's time may be over in that moment."""

    async def dies(request: Received, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        drains.append(asyncio.create_task(h.conductor.drain()))
        await asyncio.sleep(0.45)  # those who run have until 0.5, see house

    drains: list[asyncio.Task[None]] = []
    async with house(script=dies, drain_timeout=1.0) as h:
        reply = await h.raw(h.request(CHAT))
        assert (status_of(reply), error_of(reply)["code"]) == (503, "draining")
        assert (h.visits[0].outcome, h.visits[0].code) == ("refused", "draining")
        await asyncio.wait_for(drains[0], 3)


async def test_models_are_listed_while_nothing_runs() -> None:
    async with house() as h:
        data = h.request(b"", path="/v1/models").replace(b"POST", b"GET").replace(b"Content-Length: 0\r\n", b"")
        reply = json.loads(body_of(await h.raw(data)))
        assert reply["data"][0]["id"] == "served" and reply["data"][0]["wakegate"]["state"] == "stopped"
        assert h.provider.starts == 0


async def test_short_of_memory_new_requests_are_refused_and_pages_are_not() -> None:
    """[84] Rather than all that run be lost with the process."""
    async with house(short_of_memory=True) as h:
        refused = await h.raw(h.request(CHAT))
        assert b" 503 " in refused and b'"code":"overloaded"' in refused and b"Retry-After: 5" in refused
        assert b" 200 " in await h.raw(b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert h.provider.starts == 0
