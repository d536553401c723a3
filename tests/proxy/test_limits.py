"""Limits of time and size, each its own: whoever is ended by one hears which it was, and nothing of the request is left
over: no slot, no place in line, no connection to the engine.

WRITE_TIMEOUT is in `test_back_pressure.py`, the limits of a request's own body in `test_bodies.py`.
"""

import asyncio
import contextlib
import json
import socket
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from gateway.providers.base import Endpoint
from tests.support.engine_end import full
from tests.support.house import (
    CHAT,
    KEY,
    STREAM_HEAD,
    STREAMED,
    House,
    Received,
    Script,
    answer,
    chunked,
    event,
    house,
    raw,
    stream,
)
from tests.support.large import Basin
from tests.support.loops import BOTH_LOOPS
from tests.support.wire import Heard, talk

Reader, Writer = asyncio.StreamReader, asyncio.StreamWriter
KINDS = pytest.mark.parametrize("body", [CHAT, STREAMED], ids=["whole", "stream"])
OK = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"


def says(*steps: bytes | float) -> Script:
    """Bytes, and seconds between them; then nothing more, for as long as its caller stays."""

    async def script(request: Received, reader: Reader, writer: Writer) -> None:
        for step in steps:
            if isinstance(step, bytes):
                writer.write(step)
            else:
                await asyncio.sleep(step)
        await asyncio.sleep(60)

    return script


def refusal_in(heard: Heard) -> tuple[int, str, str]:
    """(status, code, message): of an answer of ours, or of the error event that ends a stream."""
    text = heard.only.body.decode()
    if heard.only.header("Content-Type") == "application/json":
        error = json.loads(text)["error"]
    else:
        assert not heard.data.endswith(b"0\r\n\r\n") and heard.closed
        error = json.loads(text.rpartition("data: ")[2])["error"]
    return heard.only.status, error["code"], error["message"]


async def assert_nothing_is_left(h: House) -> None:
    await h.until(lambda: h.engine.left == len(h.engine.received), within=1)
    await h.until(lambda: (h.conductor.snapshot().in_flight, h.conductor.snapshot().waiting) == (0, 0), within=1)


# --- CONNECT_TIMEOUT


@contextlib.contextmanager
def mute() -> Iterator[Endpoint]:
    """The connection is there, and the other side never says its part of a TLS handshake."""
    with socket.create_server(("127.0.0.1", 0), backlog=16) as listener:
        yield Endpoint(f"https://127.0.0.1:{listener.getsockname()[1]}")


@BOTH_LOOPS
@pytest.mark.parametrize("engine", [full, mute])
async def test_an_engine_that_takes_no_connection_cannot_be_reached(
    engine: Callable[[], AbstractContextManager[Endpoint]],
) -> None:
    """CONNECT_TIMEOUT: names and TLS included. Nothing was sent, so it was tried again."""
    with engine() as endpoint:
        async with house(connect=0.05, first_byte=20, answer_time=20) as h:
            h.provider.endpoint = endpoint
            heard = await talk(h.port, h.request(CHAT))
            said = (502, "backend_unavailable", "The engine cannot be reached within CONNECT_TIMEOUT (0.05 s).")
            assert refusal_in(heard) == said and heard.took < 3
            await assert_nothing_is_left(h)


# --- FIRST_BYTE_TIMEOUT, STREAM_IDLE_TIMEOUT, ANSWER_TIMEOUT


@pytest.mark.parametrize(("heartbeat", "status"), [(20.0, 504), (0.05, 200)], ids=["nothing was said", "in company"])
async def test_a_stream_that_does_not_begin_ends_at_first_byte_timeout(heartbeat: float, status: int) -> None:
    async with house(script=says(), first_byte=0.15, heartbeat=heartbeat, answer_time=20) as h:
        heard = await talk(h.port, h.request(STREAMED))
        said = "The engine did not begin to answer within FIRST_BYTE_TIMEOUT (0.15 s)."
        assert refusal_in(heard) == (status, "backend_timeout", said)
        assert 0.14 < heard.took < 1.15
        await assert_nothing_is_left(h)


async def test_a_head_is_no_first_byte_of_a_stream() -> None:
    """vLLM says it at once: the clock goes on, from the request and not from the head."""
    async with house(script=says(0.2, STREAM_HEAD), first_byte=0.3, gap=20, heartbeat=20) as h:
        heard = await talk(h.port, h.request(STREAMED))
        said = "The engine's stream did not begin within FIRST_BYTE_TIMEOUT (0.3 s)."
        assert refusal_in(heard) == (200, "backend_timeout", said)
        assert 0.29 < heard.took < 0.48
        await assert_nothing_is_left(h)


@BOTH_LOOPS
async def test_a_stream_that_falls_silent_ends_at_stream_idle_timeout() -> None:
    """Counted from its last read. Comments of ours are not the engine's."""
    script = says(STREAM_HEAD + chunked(event("a")), 0.1, chunked(event("b")), 0.1, chunked(event("c")))
    async with house(script=script, gap=0.17, first_byte=20, heartbeat=0.05) as h:
        heard = await talk(h.port, h.request(STREAMED))
        said = "The engine sent nothing for STREAM_IDLE_TIMEOUT (0.17 s)."
        assert refusal_in(heard) == (200, "backend_stalled", said)
        assert b'"c"' in heard.data and 0.36 < heard.took < 1.37
        await assert_nothing_is_left(h)


@pytest.mark.parametrize(
    "script",
    [says(), says(OK + b"Content-Length: 20\r\n\r\n{"), says(OK + b"Content-Le")],
    ids=["nothing", "half of its body", "half of its head"],
)
async def test_an_answer_that_is_not_whole_ends_at_answer_timeout(script: Script) -> None:
    async with house(script=script, answer_time=0.15, first_byte=20, gap=0.05, heartbeat=0.05) as h:
        heard = await talk(h.port, h.request(CHAT))
        status, code, message = refusal_in(heard)
        assert (status, code) == (504, "backend_timeout") and "within ANSWER_TIMEOUT (0.15 s)." in message
        assert 0.14 < heard.took < 1.15
        await assert_nothing_is_left(h)


@BOTH_LOOPS
async def test_a_long_answer_that_is_not_whole_in_time_is_cut() -> None:
    """It has begun: all that can be said is that this is not all."""
    script = says(OK + b"Content-Length: 1000000\r\n\r\n" + b"x" * 200_000)
    async with house(script=script, answer_time=0.15) as h:
        heard = await talk(h.port, h.request(CHAT))
        assert heard.closed and heard.only.status == 200 and len(heard.only.body) < 1_000_000
        assert h.visits[0].code == "backend_timeout"
        await assert_nothing_is_left(h)


async def test_an_answer_is_not_held_to_the_limits_of_streams_nor_a_stream_to_theirs() -> None:
    slow = says(OK + b"Content-Length: 2\r\n\r\n{", 0.15, b"}")
    async with house(script=slow, answer_time=20, first_byte=0.05, gap=0.05, heartbeat=0.05) as h:
        assert (await talk(h.port, h.request(CHAT))).only.body == b"{}"
    slow_stream = stream(*[event("x")] * 5, event("", "stop"), gap=0.03)
    async with house(script=slow_stream, answer_time=0.05, first_byte=5, gap=5) as h:
        assert (await talk(h.port, h.request(STREAMED))).data.endswith(b"0\r\n\r\n")


# --- MAX_REQUEST_SECONDS

SPENT = "This request took longer than MAX_REQUEST_SECONDS (0.15 s)."


@KINDS
@pytest.mark.parametrize("heartbeat", [20.0, 0.05], ids=["silent", "in company"])
async def test_the_whole_of_a_request_ends_at_max_request_seconds_while_its_engine_wakes(
    body: dict[str, object], heartbeat: float
) -> None:
    sizes = {"max_seconds": 0.15, "hold_max": 20, "grace": heartbeat, "heartbeat": heartbeat}
    async with house(ready_at_once=False, **sizes) as h:
        heard = await talk(h.port, h.request(body))
        began = body is STREAMED and heartbeat < 1
        assert refusal_in(heard) == (200 if began else 504, "backend_timeout", SPENT)
        assert 0.14 < heard.took < 1.15 and (b": " in heard.only.body.split(b"data:")[0]) is began
        await assert_nothing_is_left(h)


@KINDS
async def test_so_it_does_in_line_behind_others(body: dict[str, object]) -> None:
    """Who is before it is on the clock of its own, and the place in line is free again."""
    async with house(script=says(), max_seconds=0.15, slots=1, hold_max=20, first_byte=20, answer_time=20) as h:
        first, second = await asyncio.gather(talk(h.port, h.request(CHAT)), talk(h.port, 0.1, h.request(body)))
        assert refusal_in(first)[1:] == refusal_in(second)[1:] == ("backend_timeout", SPENT)
        assert 0.24 < second.took < 1.25
        await assert_nothing_is_left(h)


@pytest.mark.parametrize(
    ("body", "script"),
    [
        pytest.param(CHAT, says(), id="an answer that has not begun"),
        pytest.param(STREAMED, says(), id="a stream that has not begun"),
        pytest.param(STREAMED, stream(*[event("x")] * 200, gap=0.02), id="a stream that flows"),
        pytest.param(STREAMED, says(STREAM_HEAD + chunked(event("x"))), id="a stream that is silent"),
    ],
)
async def test_so_it_does_while_the_engine_works(body: dict[str, object], script: Script) -> None:
    async with house(script=script, max_seconds=0.15, first_byte=20, answer_time=20, gap=20, heartbeat=0.1) as h:
        heard = await talk(h.port, h.request(body))
        assert refusal_in(heard)[1:] == ("backend_timeout", SPENT)
        assert 0.14 < heard.took < 1.15
        assert (h.visits[0].outcome, h.visits[0].code) == ("failed", "backend_timeout")
        await assert_nothing_is_left(h)


async def test_so_it_does_while_its_body_comes_and_nothing_is_started_for_it() -> None:
    async with house(ready_at_once=False, max_seconds=0.15, body_gap=20) as h:
        whole = h.request(CHAT)
        heard = await talk(h.port, whole[:-20], 0.1, whole[-20:-10], 5.0, whole[-10:])
        assert refusal_in(heard) == (504, "backend_timeout", SPENT)
        assert heard.closed and 0.14 < heard.took < 1.15 and h.provider.starts == 0


async def test_so_it_does_while_the_engine_does_not_read_an_upload(tmp_path: Path) -> None:
    """Then the rest of the upload is nobody's, and its connection ends."""
    async with Basin(tmp_path / "s") as basin, house(max_seconds=0.15, body_gap=20, answer_time=20) as h:
        h.provider.endpoint = basin.endpoint
        upload = (
            f"POST /v1/audio/transcriptions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\n"
            "Content-Type: multipart/form-data; boundary=x\r\nContent-Length: 900000\r\n\r\n"
        )
        heard = await talk(h.port, upload.encode() + b"x" * 1000)
        assert refusal_in(heard) == (504, "backend_timeout", SPENT)
        assert heard.closed and heard.only.header("Connection") == "close" and basin.begun.is_set()
        assert h.conductor.snapshot().in_flight == 0


async def test_within_it_nothing_changes_and_the_next_request_has_all_of_it_again() -> None:
    """On one connection, longer than the limit in all."""
    async with house(script=stream(*[event("x")] * 4, event("", "stop"), gap=0.02), max_seconds=0.25) as h:
        one = h.request(STREAMED, close=False)
        heard = await talk(h.port, one + one + h.request(STREAMED))
        assert heard.statuses == [200] * 3 and b"error" not in heard.data
        assert heard.took > 0.25


# --- heads


@KINDS
@pytest.mark.parametrize(
    ("head", "said"),
    [
        (b"X-A: a\r\n" * 129, "The answer has more than 128 headers."),
        (b"X-A: " + b"a" * 8200 + b"\r\n", "A line of the answer is longer than 8190 bytes."),
        ((b"X-A: " + b"a" * 8000 + b"\r\n") * 9, "The head of the answer is longer than 65536 bytes."),
    ],
    ids=["count", "line", "size"],
)
async def test_a_head_that_is_too_large_is_said_to_be(head: bytes, said: str, body: dict[str, object]) -> None:
    async with house(script=raw(OK + head + b"\r\n{}")) as h:
        heard = await talk(h.port, h.request(body))
        assert refusal_in(heard) == (502, "backend_protocol_error", f"The engine's answer was not proper HTTP. {said}")


# --- MAX_RESPONSE_SIZE


def too_long(most: int) -> tuple[int, str, str]:
    said = f"The engine's answer is longer than MAX_RESPONSE_SIZE ({most} bytes)."
    return 502, "backend_protocol_error", said


def sized(size: int, *, framing: str) -> Script:
    """An answer of so many bytes."""
    data = b'"' + b"x" * (size - 2) + b'"'
    if framing == "length":
        return answer(data)
    if framing == "chunks":
        return raw(OK + b"Transfer-Encoding: chunked\r\n\r\n" + chunked(data) + b"0\r\n\r\n")
    return raw(OK + b"\r\n" + data)


FRAMINGS = pytest.mark.parametrize("framing", ["length", "chunks", "none"])


@FRAMINGS
@pytest.mark.parametrize(
    ("limit", "size"), [(1000, 1001), (1000, 60_000), (1000, 300_000)], ids=["a byte", "short", "long"]
)
async def test_an_answer_that_is_too_long_is_refused_before_a_byte_of_it(framing: str, limit: int, size: int) -> None:
    async with house(script=sized(size, framing=framing), response_size=limit) as h:
        heard = await talk(h.port, h.request(CHAT))
        assert refusal_in(heard) == too_long(limit) and b"xxx" not in heard.data


async def test_one_that_says_its_length_is_refused_without_being_read() -> None:
    """The engine hears it at once."""
    async with house(script=says(OK + b"Content-Length: 5000000000\r\n\r\n"), response_size=4 << 30) as h:
        heard = await talk(h.port, h.request(CHAT))
        assert refusal_in(heard) == too_long(4 << 30)
        await assert_nothing_is_left(h)


@BOTH_LOOPS
@pytest.mark.parametrize("framing", ["chunks", "none"])
async def test_one_that_gets_too_long_after_it_began_is_cut(framing: str) -> None:
    """Nobody knew before."""
    async with house(script=sized(1_000_000, framing=framing), response_size=200_000) as h:
        heard = await talk(h.port, h.request(CHAT))
        assert heard.closed and heard.data.startswith(b"HTTP/1.1 200 OK") and not heard.data.endswith(b"0\r\n\r\n")
        assert heard.data.count(b"x") <= 200_000
        assert (h.visits[0].outcome, h.visits[0].code) == ("failed", "backend_protocol_error")


@FRAMINGS
@pytest.mark.parametrize("size", [1000, 200_000], ids=["short", "long"])
async def test_one_of_exactly_that_size_passes(framing: str, size: int) -> None:
    async with house(script=sized(size, framing=framing), response_size=size) as h:
        heard = await talk(h.port, h.request(CHAT))
        assert heard.only.status == 200 and len(heard.only.body) == size


async def test_streams_may_be_of_any_size() -> None:
    async with house(script=stream(*[event("x" * 900)] * 20, event("", "stop")), response_size=1000) as h:
        heard = await talk(h.port, h.request(STREAMED))
        assert heard.data.endswith(b"0\r\n\r\n") and len(heard.only.body) > 18_000


@pytest.mark.parametrize(("limit", "fits"), [(5000, True), (4000, False)])
async def test_an_answer_that_is_put_together_here_is_held_to_it_too(limit: int, fits: bool) -> None:
    """By what it says, not by the stream around it, which is fifty times as long."""
    script = stream(*[event("x" * 10)] * 400, event("", "stop"))
    async with house(script=script, response_size=limit, gathers=True) as h:
        heard = await talk(h.port, h.request(CHAT))
        if fits:
            assert heard.only.json["choices"][0]["message"]["content"] == "x" * 4000
        else:
            assert refusal_in(heard) == too_long(limit)
            await h.until(lambda: h.conductor.snapshot().in_flight == 0, within=1)
