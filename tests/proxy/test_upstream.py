"""What an engine can do wrong on the wire, byte by byte, and what its caller hears then.

Through the whole gateway, because the answer is the point: whose fault it is, with a status where one can still be
said, and never an answer that looks whole and is not. Numbers in brackets are rows of the fault matrix (section 2.2);
those that are missing here are in `tests/web/test_door.py`.
"""

import asyncio
import gzip
import json

import pytest

from tests.support.house import (
    CHAT,
    KEY,
    STREAM_HEAD,
    STREAMED,
    Received,
    Script,
    chunked,
    event,
    house,
    raw,
    stream,
)
from tests.support.wire import Heard, Step, talk

OK = b"HTTP/1.1 200 OK"
JSON = b"Content-Type: application/json\r\n"
EVENTS = b"Content-Type: text/event-stream\r\n"
BODY = b'{"ok": 1}'
LENGTH = b"Content-Length: %d\r\n" % len(BODY)
CHUNKED = b"Transfer-Encoding: chunked\r\n"
CHUNKS = chunked(BODY) + b"0\r\n\r\n"


def said(head: bytes, body: bytes = BODY, *, line: bytes = OK) -> Script:
    """An engine that says these bytes and closes."""
    return raw(line + b"\r\n" + head + b"\r\n" + body)


def rows(table: dict[str, Script]) -> list[object]:
    return [pytest.param(script, id=name) for name, script in table.items()]


def assert_told(heard: Heard, status: int, code: str) -> None:
    """One answer, ours: the status, our JSON, our request id."""
    only = heard.only
    assert only.status == status, only
    assert len(only.header("X-Request-Id") or "") == 36  # a UUID
    assert only.header("Content-Type") == "application/json"
    error = only.json["error"]
    assert set(error) == {"message", "type", "param", "code"} and error["code"] == code, error


BOTH_KINDS = pytest.mark.parametrize("body", [CHAT, STREAMED], ids=["whole", "stream"])


@BOTH_KINDS
@pytest.mark.parametrize(
    "script",
    rows(
        {
            # [45]
            "length and chunks": said(JSON + LENGTH + CHUNKED, CHUNKS),
            "two lengths": said(JSON + LENGTH + b"Content-Length: 8\r\n"),
            "the same length twice": said(JSON + LENGTH + LENGTH),
            "length that is no number": said(JSON + b"Content-Length: x\r\n"),
            "negative length": said(JSON + b"Content-Length: -9\r\n"),
            "length with a plus": said(JSON + b"Content-Length: +9\r\n"),
            "length above 64 bits": said(JSON + b"Content-Length: 99999999999999999999999\r\n"),
            "chunk size that is no number": said(JSON + CHUNKED, b"zz\r\n" + BODY + b"\r\n0\r\n\r\n"),
            "chunk size of 19 digits": said(JSON + CHUNKED, b"f" * 19 + b"\r\n" + BODY + b"\r\n0\r\n\r\n"),
            "chunk longer than its size": said(JSON + CHUNKED, b"9\r\n" + BODY + b"XX0\r\n\r\n"),
            "second chunk broken": said(JSON + CHUNKED, chunked(BODY) + b"zz\r\n"),
            "other coding": said(JSON + b"Transfer-Encoding: gzip, chunked\r\n", CHUNKS),
            "unknown coding": said(JSON + b"Transfer-Encoding: xyz\r\n"),
            "NUL in a header": said(JSON + LENGTH + b"X-A: a\0b\r\n"),
            "CR in a header": said(JSON + LENGTH + b"X-A: a\rb\r\n"),
            "no colon": said(JSON + LENGTH + b"X-A\r\n"),
            "header of 10 KB": said(JSON + LENGTH + b"X-A: " + b"a" * 10_240 + b"\r\n"),
            "200 headers": said(JSON + LENGTH + b"X-A: a\r\n" * 200),
            "a head without end": said(b"X-A: a\r\n" * 100_000),
            "HTTP/0.9": raw(BODY),
            "another protocol": raw(b"ICY 200 OK\r\n" + JSON + LENGTH + b"\r\n" + BODY),
            "TLS": raw(bytes.fromhex("15030300020228") * 5),
            # [47]
            "status 101": said(b"Connection: upgrade\r\nUpgrade: websocket\r\n", line=b"HTTP/1.1 101 Switching"),
            "status 304": said(JSON, b"", line=b"HTTP/1.1 304 Not Modified"),
            "status 307": said(b"Location: http://169.254.169.254/\r\n" + LENGTH, line=b"HTTP/1.1 307 Away"),
            "status 999": said(JSON + LENGTH, line=b"HTTP/1.1 999 X"),
            "status 1000": said(JSON + LENGTH, line=b"HTTP/1.1 1000 X"),
            "status 000": said(JSON + LENGTH, line=b"HTTP/1.1 000 X"),
            "status in words": said(JSON + LENGTH, line=b"HTTP/1.1 fine X"),
            "gzip": said(JSON + b"Content-Encoding: gzip\r\n", gzip.compress(BODY)),
            "gzip that is none": said(JSON + LENGTH + b"Content-Encoding: gzip\r\n"),
            "gzip around events": said(EVENTS + b"Content-Encoding: gzip\r\n", gzip.compress(event("a", "stop"))),
            "br": said(JSON + LENGTH + b"Content-Encoding: br\r\n"),
        }
    ),
)
async def test_an_answer_that_is_no_proper_http_is_a_502_of_ours(script: Script, body: dict[str, object]) -> None:
    """[45, 47] aiohttp calls most of these 400, and means the engine: its caller did nothing wrong. Asked once only."""
    async with house(script=script) as h:
        heard = await talk(h.port, h.request(body))
        assert_told(heard, 502, "backend_protocol_error")
        assert b"169.254" not in heard.data and len(h.engine.received) == 1


async def test_only_the_plain_answer_is_asked_for() -> None:
    """[47]"""
    async with house() as h:
        await talk(h.port, h.request(CHAT, headers="Accept-Encoding: gzip, br\r\n"))
        assert h.engine.received[0].header("Accept-Encoding") == ["identity"]


@BOTH_KINDS
@pytest.mark.parametrize(
    "script",
    rows(
        {
            "before its head": raw(b""),
            "in its head": raw(OK + b"\r\nContent-Ty"),
            "before the last chunk": said(JSON + CHUNKED, chunked(BODY)),
            "in a chunk": said(JSON + CHUNKED, b"20\r\n" + BODY),
            "before its length": said(JSON + b"Content-Length: 20\r\n"),
            "in JSON that only its end ends": said(JSON, BODY[:-2]),
        }
    ),
)
async def test_an_answer_that_breaks_off_is_a_502_and_not_asked_for_again(
    script: Script, body: dict[str, object]
) -> None:
    """[43] Nothing had been said yet, so it can be said properly."""
    async with house(script=script) as h:
        assert_told(await talk(h.port, h.request(body)), 502, "backend_lost")
        assert len(h.engine.received) == 1


@pytest.mark.parametrize("framing", [b"Content-Length: 1000000\r\n", CHUNKED, b""], ids=["length", "chunks", "none"])
async def test_a_long_answer_that_breaks_off_is_never_made_whole(framing: bytes) -> None:
    """[43] Its head is out; all that is left is to cut. Without any framing of the engine's its JSON tells."""
    data = b'{"a": "' + b"x" * 200_000
    async with house(script=said(JSON + framing, chunked(data) if framing == CHUNKED else data)) as h:
        heard = await talk(h.port, h.request(CHAT))
        assert heard.closed and heard.data.count(b"HTTP/1.1") == 1 and heard.data.startswith(OK)
        assert not heard.data.endswith(b"0\r\n\r\n")
        if framing.startswith(b"Content-Length"):
            assert len(heard.only.body) < 1_000_000


async def test_a_long_answer_that_only_its_connection_ends_is_whole_when_its_json_is() -> None:
    data = b'{"a": "' + b"x" * 200_000 + b'"}\n'
    async with house(script=said(JSON, data)) as h:
        assert (await talk(h.port, h.request(CHAT))).only.body == data


@pytest.mark.parametrize(
    ("ending", "is_whole"),
    [
        (b"", False),
        (b'data: {"half', False),
        (event("", "stop"), True),
        (b"data: [DONE]\n\n", True),
    ],
    ids=["cut", "cut in an event", "finish_reason", "[DONE]"],
)
@pytest.mark.parametrize("framing", [b"", b"Connection: close\r\n"])
async def test_a_stream_that_only_its_connection_ends_has_ended_when_it_says_so(
    framing: bytes, ending: bytes, is_whole: bool
) -> None:
    """[44] aiohttp takes any end of it for a good one."""
    async with house(script=said(EVENTS + framing, event("a") + ending)) as h:
        heard = await talk(h.port, h.request(STREAMED))
        assert heard.closed and b'"content": "a"' in heard.data
        assert (b"backend_lost" not in heard.data) is is_whole
        assert heard.data.endswith(b"0\r\n\r\n") is is_whole
        assert b"half" not in heard.data


@pytest.mark.parametrize("head", [STREAM_HEAD, OK + b"\r\n" + JSON + CHUNKED + b"\r\n"], ids=["stream", "whole"])
@pytest.mark.parametrize("begun", [0, 200_000], ids=["short", "long"])
async def test_a_chunk_that_breaks_later_ends_the_answer_at_once(head: bytes, begun: int) -> None:
    """[43, 45] Also while the engine stays."""

    async def breaks(request: Received, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(head + chunked(event("a" + "x" * begun)))
        await asyncio.sleep(0.1)
        writer.write(b"zz\r\n" + event("b"))
        await asyncio.sleep(60)

    async with house(script=breaks, heartbeat=30, gap=30, answer_time=30) as h:
        heard = await talk(h.port, h.request(STREAMED))
        assert heard.closed and heard.took < 5
        if head is STREAM_HEAD:
            assert b"backend_protocol_error" in heard.data and not heard.data.endswith(b"0\r\n\r\n")
        elif begun:
            assert heard.data.startswith(OK) and not heard.data.endswith(b"0\r\n\r\n")
        else:
            assert_told(heard, 502, "backend_protocol_error")


@pytest.mark.parametrize(
    ("extra", "status"),
    [(b"x", 502), (OK + b"\r\nContent-Length: 4\r\n\r\nevil", 200), (b"\r\n\r\n", 200), (b"\0" * 100_000, 502)],
    ids=["a byte", "an answer", "empty lines", "zeros"],
)
async def test_what_follows_an_answer_reaches_nobody(extra: bytes, status: int) -> None:
    """[46] A connection is used once, so the next caller's answer cannot be poisoned; bytes that begin no answer make
    the one before them doubtful, too."""
    async with house(script=said(JSON + LENGTH, BODY + extra)) as h:
        one = h.request(CHAT, close=False)
        heard = await talk(h.port, one + one + h.request(CHAT))
        assert heard.statuses == [status] * 3
        assert all((each.body == BODY) is (status == 200) for each in heard.answers)


@BOTH_KINDS
async def test_interim_answers_are_not_taken_for_the_answer(body: dict[str, object]) -> None:
    interim = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n"
    async with house(script=raw(interim + OK + b"\r\n" + JSON + LENGTH + b"\r\n" + BODY)) as h:
        heard = await talk(h.port, h.request(body))
        assert heard.statuses == [200] and heard.only.body == BODY and heard.only.header("Link") is None


@pytest.mark.parametrize(
    ("script", "status", "most"),
    [
        (said(b"Content-Type: text/plain\r\n", b"x" * 10_000_000, line=b"HTTP/1.1 500 X"), 502, 6_000),
        (said(b"Content-Type: text/html\r\n", b"<b>" * 3_000_000, line=b"HTTP/1.1 404 X"), 404, 1_000),
        (said(JSON, b'{"error": {"message": "' + b"x" * 10_000_000 + b'"}}', line=b"HTTP/1.1 500 X"), 502, 1_000),
        (said(JSON, b'{"error": {"message": "' + b"x" * 50_000 + b'"}}', line=b"HTTP/1.1 400 X"), 400, 6_000),
        (said(JSON, b'{"error": {"message": "' + b"[" * 60_000, line=b"HTTP/1.1 400 X"), 400, 1_000),
        (said(JSON, b"[" * 60_000, line=b"HTTP/1.1 500 X"), 502, 1_000),
    ],
    ids=["text", "HTML", "JSON beyond the limit", "JSON", "JSON that was cut", "nested"],
)
async def test_a_huge_error_is_cut_to_what_helps(script: Script, status: int, most: int) -> None:
    """[49]"""
    async with house(script=script) as h:
        heard = await talk(h.port, h.request(CHAT))
        assert heard.only.status == status and heard.only.json["error"]["code"]
        assert len(heard.only.body) < most


async def test_an_error_that_never_ends_is_told_with_what_came_of_it() -> None:
    """[49] The status has said it all."""

    async def dribbles(request: Received, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 503 X\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{")
        await asyncio.sleep(60)

    async with house(script=dribbles, connect=0.3) as h:
        heard = await talk(h.port, h.request(CHAT))
        assert heard.only.status == 502 and heard.only.json["error"]["code"] == "backend_error"
        await h.until(lambda: h.engine.left == 1)


async def test_a_compressed_error_is_not_shown_as_text() -> None:
    """[47, 49]"""
    error = gzip.compress(b'{"error": {"message": "hidden"}}')
    async with house(script=said(JSON + b"Content-Encoding: gzip\r\n", error, line=b"HTTP/1.1 400 X")) as h:
        heard = await talk(h.port, h.request(CHAT))
        assert heard.only.status == 400
        assert heard.only.json["error"]["message"] == "The engine refused the request with status 400."


async def test_no_word_of_the_engines_status_line_or_head_can_become_ours() -> None:
    """[49] Reason, cookies, framing, addresses; several values of one name stay several."""
    head = (
        b"Server: engine\r\nSet-Cookie: a=b\r\nLocation: /x\r\nX-Request-Id: theirs\r\nConnection: keep-alive\r\n"
        b"Keep-Alive: timeout=5\r\nTrailer: X\r\nDate: never\r\nAccess-Control-Allow-Origin: *\r\n"
        b"x-ratelimit-limit-requests: 1\r\nx-ratelimit-limit-requests: 2\r\nRetry-After: 7\r\nWarning: \xe9\xff\r\n"
    )
    async with house(script=said(JSON + LENGTH + head, line=b"HTTP/1.1 200 <script>theirs")) as h:
        heard = await talk(h.port, h.request(CHAT))
        names = [name.lower() for name, _ in heard.only.headers]
        assert heard.data.startswith(b"HTTP/1.1 200 OK\r\n") and b"theirs" not in heard.data
        assert sorted(names) == sorted(
            [
                *(
                    "content-type",
                    "content-length",
                    "date",
                    "connection",
                    "x-request-id",
                    "server-timing",
                    "retry-after",
                ),
                *["x-ratelimit-limit-requests"] * 2,
            ]
        )
        assert heard.only.header("Date") != "never"


@pytest.mark.parametrize("kind", [b"text/\xc3\xa9", b"a" * 300, b""], ids=["not in ASCII", "long", "empty"])
async def test_an_odd_content_type_does_no_harm(kind: bytes) -> None:
    async with house(script=said(b"Content-Type: %b\r\n" % kind + LENGTH)) as h:
        heard = await talk(h.port, h.request(CHAT))
        assert heard.only.status == 200 and heard.only.body == BODY


async def test_model_text_that_looks_like_events_stays_inside_its_event() -> None:
    """[48] Byte for byte; ours come only between complete events."""
    text = 'x"}\n\ndata: [DONE]\n\nevent: error\ndata: {"error": 1}\n\n'
    events = [event(text), event("😀\r\n\r\n"), event("", "stop")]
    async with house(script=stream(*events, gap=0.05)) as h:
        heard = await talk(h.port, h.request(STREAMED))
        whole = b"".join(events) + b"data: [DONE]\n\n"
        lines = [line for line in heard.only.body.split(b"\n\n") if not line.startswith(b":")]
        assert b"\n\n".join(lines) == whole
        assert json.loads(whole.split(b"\n\n")[0].removeprefix(b"data: "))["choices"][0]["delta"]["content"] == text


async def test_a_get_is_sent_once_too() -> None:
    """aiohttp repeats a GET whose connection dropped, and nobody would know."""
    async with house(script=raw(b""), allowed_paths=("/tokenizer",)) as h:
        asked = f"GET /tokenizer HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\nConnection: close\r\n\r\n"
        assert_told(await talk(h.port, asked.encode()), 502, "backend_lost")
        assert len(h.engine.received) == 1


def upload(framing: bytes, body: bytes) -> bytes:
    head = f"POST /v1/audio/transcriptions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\n"
    return head.encode() + b"Content-Type: multipart/form-data; boundary=x\r\n" + framing + b"\r\n" + body


@pytest.mark.parametrize(
    ("steps", "status", "code"),
    [
        ((upload(b"Content-Length: 100\r\n", b"--x"),), 408, "body_timeout"),
        ((upload(CHUNKED, chunked(b"--x")), 0.1, *[chunked(b"x" * 9000), 0.02] * 3), 413, "body_too_large"),
        ((upload(CHUNKED, chunked(b"--x")), 0.1, b"zz\r\n"), 400, "invalid_request"),
    ],
    ids=["stops", "too large", "broken"],
)
async def test_an_upload_that_goes_wrong_is_not_called_the_engines_fault(
    steps: tuple[Step, ...], status: int, code: str
) -> None:
    """It breaks off while it is sent, and the connection to the engine with it."""
    async with house(body_limit=20_000, body_gap=0.4) as h:
        heard = await talk(h.port, *steps)
        assert_told(heard, status, code)
        assert heard.closed and h.visits[0].outcome == "refused"
        assert h.engine.received == []


async def test_an_engine_that_answers_before_it_has_read_an_upload_is_heard() -> None:
    """It says no to the head already; the caller need not send the rest."""

    async def refuses(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(
            b"HTTP/1.1 413 X\r\n" + JSON + b'Content-Length: 33\r\n\r\n{"error": {"message": "too much"}}'[:33]
        )
        await writer.drain()
        await asyncio.sleep(0.5)
        writer.close()

    server = await asyncio.start_server(refuses, "127.0.0.1", 0)
    async with house(body_gap=3) as h:
        h.engine.port = server.sockets[0].getsockname()[1]
        h.provider.endpoint = type(h.provider.endpoint)(f"http://127.0.0.1:{h.engine.port}")
        heard = await talk(h.port, upload(b"Content-Length: 1000000\r\n", b"x" * 100_000))
        assert heard.only.status == 413
    server.close()
