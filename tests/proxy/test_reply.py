"""What one caller hears, byte by byte, and in no other order."""

import asyncio
import json
import re
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any

import pytest
from aiohttp.http import HttpVersion, HttpVersion10, HttpVersion11

from gateway.errors import Refusal, refuse
from gateway.proxy import dialects
from gateway.proxy.reply import Answer, CallerLeft, Reply, head_bytes, http_date
from tests.support.simulated import BEGIN, in_simulated_time

EVENT_STREAM = (("Content-Type", "text/event-stream"),)
BUSY = refuse("backend_lost", "The engine ended.", retry_after=3).refusal


class Caller:
    """What a Reply uses of aiohttp's request: its version and method, its connection, and whether its body was read."""

    def __init__(
        self,
        method: str = "POST",
        version: HttpVersion = HttpVersion11,
        *,
        keep_alive: bool = True,
        unread: bool = False,
    ) -> None:
        self.method = method
        self.version = version
        self.keep_alive = keep_alive
        self.content = SimpleNamespace(is_eof=lambda: not unread)
        self.heard = b""
        self.writes = 0
        self.ended = ""
        """closed (after all was sent) or aborted."""
        self.transport: Any = self
        self.protocol = SimpleNamespace(writing_paused=False)
        self.writer = self
        self.reads: asyncio.Future[None] | None = None
        """Set: it has stopped reading until this is done."""
        self.unsent = 0
        """Bytes of what was written that still wait in this process."""

    # the transport

    def write(self, data: bytes) -> None:
        self.heard += data
        self.writes += 1

    def is_closing(self) -> bool:
        return bool(self.ended)

    def get_extra_info(self, name: str) -> None:
        """There is no socket."""

    def get_write_buffer_size(self) -> int:
        return self.unsent

    def close(self) -> None:
        self.ended = self.ended or "closed"

    def abort(self) -> None:
        self.ended = "aborted"

    # the writer

    async def drain(self) -> None:
        if self.reads is not None:
            await self.reads

    def stop_reading(self) -> "asyncio.Future[None]":
        self.protocol.writing_paused = True
        self.reads = asyncio.get_running_loop().create_future()
        return self.reads


def reply_to(caller: Caller, dialect: dialects.Dialect = dialects.OPENAI, *, streams: bool = False) -> Reply:
    reply = Reply(caller, dialect, request_id="id-1", write_timeout=60)  # type: ignore[arg-type]
    reply.streams = streams
    return reply


async def begin(reply: Reply, status: int, headers: list[tuple[str, str]], *, length: int | None) -> None:
    """As whoever carries a request does it."""
    reply.begin_now(status, headers, length=length)
    await reply.flush()


async def pass_on(reply: Reply, data: bytes) -> None:
    """The same."""
    if not reply.pass_now(data):
        await reply.drain()


def plain(heard: bytes) -> bytes:
    """Without the date."""
    return re.sub(rb"Date: [^\r]+ GMT\r\n", b"", heard)


# --- a complete answer


async def test_an_answer_is_one_write_of_head_and_body() -> None:
    caller = Caller()
    reply = reply_to(caller)
    await reply.answer(200, b'{"a":1}', [("x-ratelimit-limit", "1")])
    assert plain(caller.heard) == (
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nx-ratelimit-limit: 1\r\nX-Request-Id: id-1\r\n"
        b'Content-Length: 7\r\n\r\n{"a":1}'
    )
    assert caller.writes == 1 and reply.is_over and reply.keep_alive and not caller.ended
    assert (reply.status, reply.bytes_sent) == (200, 7)


@pytest.mark.parametrize(
    ("version", "keep_alive", "said"),
    [
        (HttpVersion11, True, b""),
        (HttpVersion11, False, b"Connection: close\r\n"),
        (HttpVersion10, True, b"Connection: keep-alive\r\n"),
        (HttpVersion10, False, b"Connection: close\r\n"),
    ],
)
async def test_whether_the_connection_is_kept_is_said_where_it_is_not_the_rule(
    version: HttpVersion, keep_alive: bool, said: bytes
) -> None:
    caller = Caller(version=version, keep_alive=keep_alive)
    reply = reply_to(caller)
    await reply.answer(200, b"x", content_type="text/plain")
    assert plain(caller.heard) == (
        b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nX-Request-Id: id-1\r\nContent-Length: 1\r\n" + said + b"\r\nx"
    )
    assert reply.keep_alive is keep_alive


async def test_head_hears_the_length_and_no_body() -> None:
    caller = Caller("HEAD")
    await reply_to(caller).answer(200, b"12345", content_type="text/plain")
    assert plain(caller.heard).endswith(b"Content-Length: 5\r\n\r\n")


@pytest.mark.parametrize("status", [204, 304])
async def test_an_answer_without_a_body_says_nothing_of_its_length(status: int) -> None:
    caller = Caller()
    await reply_to(caller).answer(status, b"", [("Allow", "POST")])
    head = plain(caller.heard)
    assert b"Content-" not in head and b"Transfer-" not in head and head.endswith(b"\r\n\r\n")
    assert b"Allow: POST\r\n" in head


async def test_an_unknown_status_has_a_reason_all_the_same() -> None:
    caller = Caller()
    await reply_to(caller).answer(299, b"")
    assert caller.heard.startswith(b"HTTP/1.1 299 Unknown\r\n")


async def test_server_timing_tells_what_was_waited_for() -> None:
    caller = Caller()
    reply = reply_to(caller)
    reply.timings |= {"wait": 1.25, "prefill": 0.0101}
    await reply.answer(200, b"")
    assert b"Server-Timing: wait;dur=1250.0, prefill;dur=10.1\r\n" in caller.heard


@pytest.mark.parametrize("value", ["a\r\nSet-Cookie: b=c", "a\nb", "a\rb", "a\0b"])
def test_a_header_that_would_end_a_line_is_left_out(value: str) -> None:
    """Whichever half of it holds the line end."""
    head = head_bytes(200, [("X-Good", "1"), ("X-Bad", value), (value, "x"), ("X-Also-Good", "ü")])
    assert head == "HTTP/1.1 200 OK\r\nX-Good: 1\r\nX-Also-Good: ü\r\n\r\n".encode()


def test_the_date_is_that_of_rfc_9110() -> None:
    assert re.fullmatch(r"\w{3}, \d\d \w{3} \d{4} \d\d:\d\d:\d\d GMT", http_date())


# --- the engine's answer, passed on


async def test_an_answer_of_known_length_goes_through_unframed() -> None:
    caller = Caller()
    reply = reply_to(caller)
    await begin(reply, 200, [("Content-Type", "application/json"), ("openai-model", "m")], length=6)
    await pass_on(reply, b"abc")
    await pass_on(reply, b"")
    await pass_on(reply, b"def")
    await reply.finish()
    assert plain(caller.heard) == (
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nopenai-model: m\r\nX-Request-Id: id-1\r\n"
        b"Content-Length: 6\r\n\r\nabcdef"
    )
    assert reply.keep_alive


async def test_an_answer_of_unknown_length_is_chunked() -> None:
    caller = Caller()
    reply = reply_to(caller)
    await begin(reply, 200, [("Content-Type", "audio/mpeg")], length=None)
    await pass_on(reply, b"x" * 26)
    await pass_on(reply, b"")
    await reply.finish()
    assert plain(caller.heard) == (
        b"HTTP/1.1 200 OK\r\nContent-Type: audio/mpeg\r\nX-Request-Id: id-1\r\nTransfer-Encoding: chunked\r\n\r\n"
        b"1a\r\n" + b"x" * 26 + b"\r\n0\r\n\r\n"
    )


async def test_to_http_1_0_the_end_of_the_connection_is_the_end_of_an_answer_of_unknown_length() -> None:
    caller = Caller(version=HttpVersion10)
    reply = reply_to(caller)
    await begin(reply, 200, [("Content-Type", "audio/mpeg")], length=None)
    await pass_on(reply, b"xyz")
    await reply.finish()
    assert plain(caller.heard) == (
        b"HTTP/1.1 200 OK\r\nContent-Type: audio/mpeg\r\nX-Request-Id: id-1\r\nConnection: close\r\n\r\nxyz"
    )
    assert not reply.keep_alive


async def test_an_answer_without_a_content_type_gets_one_that_no_browser_runs() -> None:
    caller = Caller()
    await begin(reply_to(caller), 200, [], length=1)
    assert b"Content-Type: application/octet-stream\r\n" in caller.heard


@pytest.mark.parametrize("length", [100_000, None])
@pytest.mark.parametrize("headers", [EVENT_STREAM, (("Content-Type", "application/json"),)])
async def test_to_head_not_even_a_long_answer_has_a_body(
    length: int | None, headers: tuple[tuple[str, str], ...]
) -> None:
    """A path that the operator added is asked with GET: what comes back must not be taken for the next answer."""
    caller = Caller("HEAD")
    reply = reply_to(caller)
    await begin(reply, 200, headers, length=length)
    await pass_on(reply, b"x" * 100_000)
    await reply.heartbeat("waiting")
    await reply.finish()
    assert caller.heard.endswith(b"\r\n\r\n") and caller.heard.count(b"\r\n\r\n") == 1
    assert not reply.is_open and reply.is_over


async def test_a_204_that_calls_itself_a_stream_has_no_body() -> None:
    caller = Caller()
    reply = reply_to(caller)
    await begin(reply, 204, EVENT_STREAM, length=None)
    await pass_on(reply, b"data: x\n\n")
    await reply.finish()
    assert b"Transfer-Encoding" not in caller.heard and caller.heard.endswith(b"\r\n\r\n")


# --- streams


async def test_a_stream_is_chunked_uncached_and_unbuffered() -> None:
    caller = Caller()
    reply = reply_to(caller, streams=True)
    await begin(reply, 200, [("content-type", "text/event-stream; charset=utf-8"), ("x-model", "m")], length=None)
    await pass_on(reply, b"data: 1\n\n")
    await pass_on(reply, b"data: [DONE]\n\n")
    await reply.finish()
    assert plain(caller.heard) == (
        b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\nx-model: m\r\n"
        b"Cache-Control: no-cache\r\nX-Accel-Buffering: no\r\nX-Request-Id: id-1\r\nTransfer-Encoding: chunked\r\n\r\n"
        b"9\r\ndata: 1\n\n\r\ne\r\ndata: [DONE]\n\n\r\n0\r\n\r\n"
    )


async def test_a_stream_to_http_1_0_is_plain_and_ends_with_the_connection() -> None:
    caller = Caller(version=HttpVersion10)
    reply = reply_to(caller, streams=True)
    await reply.heartbeat("loading 10%")
    await begin(reply, 200, EVENT_STREAM, length=None)
    await pass_on(reply, b"data: 1\n\n")
    await reply.finish()
    assert plain(caller.heard) == (
        b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\n"
        b"Cache-Control: no-cache\r\nX-Accel-Buffering: no\r\nX-Request-Id: id-1\r\nConnection: close\r\n\r\n"
        b": loading 10%\n\ndata: 1\n\n"
    )
    assert not reply.keep_alive


@pytest.mark.parametrize(
    "dialect", [dialects.OPENAI, dialects.ANTHROPIC, dialects.RESPONSES], ids=["openai", "anthropic", "responses"]
)
async def test_a_heartbeat_commits_a_waiting_stream_and_the_engines_own_head_is_not_said_again(
    dialect: dialects.Dialect,
) -> None:
    caller = Caller()
    reply = reply_to(caller, dialect, streams=True)
    assert reply.is_open
    await reply.heartbeat("loading 43% 12.1/28.0 GiB")
    assert not reply.is_open and reply.status == 200
    await reply.heartbeat("a line\r\n\r\ndata: that would be two")
    await begin(reply, 200, [("Content-Type", "text/event-stream"), ("x-model", "m")], length=None)
    await pass_on(reply, b"data: 1\n\n")
    await reply.heartbeat("waiting")
    await reply.finish()
    head, _, body = plain(caller.heard).partition(b"\r\n\r\n")
    assert head.count(b"HTTP/1.1") == 1 and b"x-model" not in head
    assert body == (
        b"1d\r\n: loading 43% 12.1/28.0 GiB\n\n\r\n22\r\n: a line data: that would be two\n\n\r\n"
        b"9\r\ndata: 1\n\n\r\nb\r\n: waiting\n\n\r\n0\r\n\r\n"
    )


async def test_what_chat_pages_are_shown_is_said_while_it_is_held_and_then_only_comments() -> None:
    """In the middle of an answer a text about the wait would stand in what the model thinks."""
    caller = Caller()
    reply = reply_to(caller, streams=True)
    reply.show_loading("gpt-4o")
    await reply.heartbeat("loading 10%")
    assert b"\r\n\r\n" in caller.heard and caller.heard.count(b'"id":"chatcmpl-id-1"') == 1
    await reply.heartbeat("loading 10%")
    assert caller.heard.endswith(b": loading 10%\n\n\r\n") and caller.heard.count(b"chatcmpl-id-1") == 1
    await begin(reply, 200, EVENT_STREAM, length=None)
    assert caller.heard.count(b"chatcmpl-id-1") == 2 and b"Ready." in caller.heard
    await pass_on(reply, b"data: 1\n\n")
    await reply.heartbeat("waiting for the engine")
    assert caller.heard.endswith(b": waiting for the engine\n\n\r\n") and caller.heard.count(b"chatcmpl-id-1") == 2


@pytest.mark.parametrize("streams", [False, True])
async def test_who_was_told_nothing_is_shown_nothing(streams: bool) -> None:
    caller = Caller()
    reply = reply_to(caller, streams=streams)
    reply.show_loading("gpt-4o")
    if streams:
        await begin(reply, 200, EVENT_STREAM, length=None)
        await pass_on(reply, b"data: 1\n\n")
    else:
        await reply.heartbeat("loading 10%")
        await reply.answer(200, b"{}")
    assert b"chatcmpl" not in caller.heard and reply.loading_text is not None and not reply.loading_text.has_begun


async def test_whoever_asked_for_no_stream_hears_no_heartbeat() -> None:
    caller = Caller()
    reply = reply_to(caller)
    await reply.heartbeat("loading")
    assert caller.heard == b"" and reply.is_open
    await begin(reply, 200, [("Content-Type", "application/json")], length=2)
    await reply.heartbeat("waiting")
    await pass_on(reply, b"{}")
    await reply.finish()
    await reply.heartbeat("too late")
    assert caller.heard.endswith(b"\r\n\r\n{}")


# --- bad news


async def test_bad_news_before_anything_was_said_are_an_answer() -> None:
    caller = Caller()
    reply = reply_to(caller, streams=True)
    await reply.refuse(BUSY)
    head, _, body = plain(caller.heard).partition(b"\r\n\r\n")
    assert head == (
        b"HTTP/1.1 502 Bad Gateway\r\nContent-Type: application/json\r\nRetry-After: 3\r\nX-Request-Id: id-1\r\n"
        b"Content-Length: %d" % len(body)
    )
    assert json.loads(body) == {
        "error": {"message": "The engine ended.", "type": "server_error", "param": None, "code": "backend_lost"}
    }
    assert reply.refused is BUSY and reply.keep_alive


async def test_bad_news_have_the_shape_of_their_route() -> None:
    caller = Caller()
    await reply_to(caller, dialects.ANTHROPIC).refuse(refuse("queue_full", "Later.").refusal)
    body = json.loads(caller.heard.partition(b"\r\n\r\n")[2])
    assert body["type"] == "error" and body["error"]["type"] == "rate_limit_error"


@pytest.mark.parametrize(
    ("caller", "refusal"),
    [
        (Caller(unread=True), BUSY),
        (Caller(), refuse("body_too_large", "Too large.").refusal),
        (Caller(), refuse("invalid_request", "No.", close=True).refusal),
    ],
    ids=["a body that was not read", "a code that closes", "a refusal that closes"],
)
async def test_a_body_that_was_not_read_is_never_taken_for_the_next_request(caller: Caller, refusal: Refusal) -> None:
    reply = reply_to(caller)
    await reply.refuse(refusal)
    assert b"Connection: close\r\n" in caller.heard and not reply.keep_alive


def openai_error(event: bytes) -> str:
    assert event.startswith(b"data: ") and event.count(b"\n") == 2
    return str(json.loads(event[6:])["error"]["code"])


def anthropic_error(event: bytes) -> str:
    name, data = event.removesuffix(b"\n\n").split(b"\n")
    assert name == b"event: error" and json.loads(data[6:])["type"] == "error"
    return str(json.loads(data[6:])["error"]["code"])


def responses_error(event: bytes) -> str:
    name, data = event.removesuffix(b"\n\n").split(b"\n")
    told = json.loads(data[6:])
    assert name == b"event: error" and told["type"] == "error" and told["sequence_number"] == 7
    return str(told["code"])


@pytest.mark.parametrize("committed_by_us", [True, False])
@pytest.mark.parametrize(
    ("dialect", "read"),
    [
        (dialects.OPENAI, openai_error),
        (dialects.ANTHROPIC, anthropic_error),
        (dialects.RESPONSES, responses_error),
    ],
    ids=["openai", "anthropic", "responses"],
)
async def test_bad_news_in_a_stream_are_its_last_event_and_the_connection_ends_without_the_last_chunk(
    dialect: dialects.Dialect, read: Callable[[bytes], str], committed_by_us: bool
) -> None:
    caller = Caller()
    reply = reply_to(caller, dialect, streams=True)
    if committed_by_us:
        await reply.heartbeat("waking")
    else:
        await begin(reply, 200, EVENT_STREAM, length=None)
    reply.next_sequence = 7
    before = len(caller.heard)
    await reply.refuse(BUSY)
    size, _, chunk = caller.heard[before:].partition(b"\r\n")
    assert len(chunk) == int(size, 16) + 2 and chunk.endswith(b"\n\n\r\n")
    assert read(chunk[:-2]) == "backend_lost"
    assert caller.heard.count(b"HTTP/1.1") == 1 and not caller.heard.endswith(b"0\r\n\r\n")
    assert caller.ended == "closed" and not reply.keep_alive and reply.is_over


@pytest.mark.parametrize("length", [100, None])
async def test_bad_news_in_an_answer_that_is_no_stream_can_only_cut_it(length: int | None) -> None:
    caller = Caller()
    reply = reply_to(caller)
    await begin(reply, 200, [("Content-Type", "application/json")], length=length)
    await pass_on(reply, b'{"half":')
    before = caller.heard
    await reply.refuse(BUSY)
    assert caller.heard == before and caller.ended == "aborted" and reply.refused is BUSY


async def test_bad_news_after_the_end_are_not_said() -> None:
    caller = Caller()
    reply = reply_to(caller)
    await reply.answer(200, b"{}")
    before = caller.heard
    await reply.refuse(BUSY)
    assert caller.heard == before and reply.refused is None and not caller.ended


async def test_bad_news_for_who_has_left_are_lost_quietly() -> None:
    caller = Caller()
    reply = reply_to(caller, streams=True)
    await reply.heartbeat("waking")
    caller.close()
    await reply.refuse(BUSY)
    assert caller.ended == "aborted" and reply.is_over


# --- the order of things


async def open_one(reply: Reply) -> None:
    pass


async def committed(reply: Reply) -> None:
    await reply.heartbeat("waking")


async def streaming(reply: Reply) -> None:
    await begin(reply, 200, EVENT_STREAM, length=None)


async def passing(reply: Reply) -> None:
    await begin(reply, 200, [("Content-Type", "application/json")], length=3)


async def ended(reply: Reply) -> None:
    await reply.answer(200, b"{}")


async def cut(reply: Reply) -> None:
    reply.cut()


async def said_last_words(reply: Reply) -> None:
    await reply.heartbeat("waking")
    await reply.refuse(BUSY)


SAYINGS: dict[str, Callable[[Reply], Awaitable[None]]] = {
    "answer": lambda reply: reply.answer(200, b"{}"),
    "begin a stream": streaming,
    "begin": passing,
    "pass on": lambda reply: pass_on(reply, b"data: 1\n\n"),
    "finish": lambda reply: reply.finish(),
}
LEGAL = {
    open_one: {"answer", "begin a stream", "begin"},
    committed: {"begin a stream"},
    streaming: {"pass on", "finish"},
    passing: {"pass on", "finish"},
    ended: set(),
    cut: set(),
    said_last_words: set(),
}


@pytest.mark.parametrize("saying", SAYINGS)
@pytest.mark.parametrize("phase", LEGAL, ids=[phase.__name__ for phase in LEGAL])
async def test_what_is_not_said_in_this_phase_raises_and_is_not_heard(
    phase: Callable[[Reply], Awaitable[None]], saying: str
) -> None:
    caller = Caller()
    reply = reply_to(caller, streams=True)
    await phase(reply)
    before = caller.heard
    if saying in LEGAL[phase]:
        await SAYINGS[saying](reply)
    else:
        with pytest.raises(RuntimeError, match="cannot go on from here"):
            await SAYINGS[saying](reply)
        assert caller.heard == before
    assert caller.heard.count(b"HTTP/1.1 ") <= 1


async def test_a_handler_that_returns_without_an_ending_leaves_nothing_that_looks_complete() -> None:
    """What aiohttp's server calls when the handler is done."""
    caller = Caller()
    reply = reply_to(caller, streams=True)
    await reply.heartbeat("waking")
    await reply.prepare(caller)  # type: ignore[arg-type]
    await reply.write_eof()
    assert caller.ended == "aborted" and not reply.keep_alive


async def test_an_answer_that_ended_is_left_alone_by_the_server() -> None:
    caller = Caller()
    reply = reply_to(caller)
    await reply.answer(200, b"{}")
    await reply.write_eof()
    assert not caller.ended and reply.keep_alive


# --- callers who leave, or do not read


@pytest.mark.parametrize("how", ["close", "abort"])
async def test_to_who_has_left_nothing_is_said(how: str) -> None:
    caller = Caller()
    reply = reply_to(caller)
    getattr(caller, how)()
    with pytest.raises(CallerLeft):
        await reply.answer(200, b"{}")
    assert caller.heard == b"" and reply.first_byte_at is None


async def test_a_caller_who_left_before_the_request_was_handled_has_no_connection_at_all() -> None:
    caller = Caller()
    caller.transport = None
    reply = reply_to(caller)
    with pytest.raises(CallerLeft):
        await reply.answer(200, b"{}")
    reply.cut()


@pytest.mark.parametrize("error", [ConnectionResetError("gone"), RuntimeError("unable to perform operation on <TCP>")])
async def test_a_connection_that_breaks_while_writing_is_a_caller_who_left(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    """RuntimeError is uvloop's word for it."""

    def broken(data: bytes) -> None:
        raise error

    caller = Caller()
    monkeypatch.setattr(caller, "write", broken)
    with pytest.raises(CallerLeft):
        await reply_to(caller).answer(200, b"{}")


async def test_a_connection_that_breaks_while_it_is_waited_for_is_a_caller_who_left() -> None:
    caller = Caller()
    caller.stop_reading().set_exception(ConnectionResetError("gone"))
    with pytest.raises(CallerLeft):
        await reply_to(caller).answer(200, b"{}")


def elapsed() -> float:
    return asyncio.get_running_loop().time() - BEGIN


@in_simulated_time
async def test_who_reads_slowly_is_waited_for() -> None:
    caller = Caller()
    reply = reply_to(caller, streams=True)
    await begin(reply, 200, EVENT_STREAM, length=None)
    asyncio.get_running_loop().call_later(59, caller.stop_reading().set_result, None)
    await pass_on(reply, b"data: 1\n\n")
    assert elapsed() == 59 and not caller.ended


@in_simulated_time
async def test_who_reads_on_but_too_slowly_to_make_room_is_waited_for() -> None:
    """The kernel says that there is room again only when a good part of its buffer was read."""
    caller = Caller()
    reply = reply_to(caller, streams=True)
    await begin(reply, 200, EVENT_STREAM, length=None)
    loop, reads = asyncio.get_running_loop(), caller.stop_reading()
    caller.unsent = 1000
    for sip in range(1, 12):
        loop.call_later(50 * sip, setattr, caller, "unsent", 1000 - sip)
    loop.call_later(600, reads.set_result, None)
    await pass_on(reply, b"data: 1\n\n")
    assert elapsed() == 600 and not caller.ended


@in_simulated_time
async def test_who_read_a_little_and_then_nothing_for_write_timeout_is_let_go() -> None:
    caller = Caller()
    reply = reply_to(caller, streams=True)
    await begin(reply, 200, EVENT_STREAM, length=None)
    caller.stop_reading()
    caller.unsent = 1000
    asyncio.get_running_loop().call_later(50, setattr, caller, "unsent", 999)
    with pytest.raises(CallerLeft, match="read nothing for 60 s"):
        await pass_on(reply, b"data: 1\n\n")
    assert elapsed() == 120 and caller.ended == "aborted"


@in_simulated_time
async def test_who_reads_nothing_for_write_timeout_is_let_go() -> None:
    caller = Caller()
    reply = reply_to(caller, streams=True)
    await begin(reply, 200, EVENT_STREAM, length=None)
    caller.stop_reading()
    with pytest.raises(CallerLeft, match="read nothing for 60 s"):
        await pass_on(reply, b"data: 1\n\n")
    assert elapsed() == 60 and caller.ended == "aborted" and reply.is_over


@in_simulated_time
async def test_last_words_are_not_waited_for_longer_than_anything_else() -> None:
    caller = Caller()
    reply = reply_to(caller, streams=True)
    await reply.heartbeat("waking")
    caller.stop_reading()
    await reply.refuse(BUSY)
    assert elapsed() == 60 and caller.ended == "aborted"


@in_simulated_time
async def test_the_first_byte_is_the_answers_own_and_timed_once() -> None:
    """A stream that was held for a minute had its first token after that minute, whatever comments it heard."""
    caller = Caller()
    reply = reply_to(caller, streams=True)
    await asyncio.sleep(3)
    await reply.heartbeat("waking")
    await asyncio.sleep(57)
    await begin(reply, 200, [("Content-Type", "text/event-stream")], length=None)
    assert reply.first_byte_at is None
    await asyncio.sleep(1)
    await pass_on(reply, b"data: a\n\n")
    await asyncio.sleep(1)
    await pass_on(reply, b"data: b\n\n")
    assert reply.first_byte_at == BEGIN + 61


async def test_the_repr_says_how_far_it_is() -> None:
    reply = reply_to(Caller(), streams=True)
    assert repr(reply) == "<Reply id-1 open - 0 B>"
    await reply.heartbeat("waking")
    assert re.fullmatch(r"<Reply id-1 committed 200 \d+ B>", repr(reply))


# --- the answer to a request that could not be read


@pytest.mark.parametrize(("method", "body"), [("GET", b"{}"), ("HEAD", b"")])
async def test_an_answer_outside_of_any_handler_closes_and_is_complete(method: str, body: bytes) -> None:
    caller = Caller(method)
    answer = Answer(caller, 400, b"{}", [("X-Request-Id", "id-2")], close=True)  # type: ignore[arg-type]
    await answer.prepare(caller)  # type: ignore[arg-type]
    await answer.write_eof()
    head, _, heard = plain(caller.heard).partition(b"\r\n\r\n")
    assert head == (
        b"HTTP/1.1 400 Bad Request\r\nContent-Type: application/json\r\nX-Request-Id: id-2\r\n"
        b"Connection: close\r\nContent-Length: 2"
    )
    assert heard == body and not answer.keep_alive


async def test_an_answer_to_who_has_left_is_not_written() -> None:
    caller = Caller()
    answer = Answer(caller, 400, b"{}")  # type: ignore[arg-type]
    caller.close()
    with pytest.raises(CallerLeft):
        await answer.prepare(caller)  # type: ignore[arg-type]
    assert caller.heard == b""
