"""Bad input, byte by byte, through the real server: the rows of the fault matrix that concern the wire.

Numbers in brackets are those rows (section 2.1). What all refusals have in common is in `assert_refused`: status, our
JSON, our request id, an end where one is due, and nothing behind the door that moved.
"""

import asyncio
import gzip
import json
import logging
import os
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from gateway.providers.base import Ready
from gateway.web.auth import Keys
from gateway.web.gate import Gate
from gateway.web.routes import INFERENCE
from tests.support.house import CHAT, KEY, STREAMED, House, Received, answer, chunked, event, house, stream
from tests.support.wire import ANSWERED, FIN, RESET, Caller, Heard, Step, talk

BOTH_LOOPS = pytest.mark.asyncio(loop_factories=["asyncio", "uvloop"])
"""What depends on when a loop tells of a closed or a full connection: production has uvloop."""

HOST = b"Host: gateway\r\n"
WITH_KEY = b"Authorization: Bearer " + KEY.encode() + b"\r\n"
JSON = b"Content-Type: application/json\r\n"
MULTIPART = b"Content-Type: multipart/form-data; boundary=x\r\n"
RIGHT = HOST + WITH_KEY + JSON
BODY = json.dumps(CHAT).encode()
LENGTH = b"Content-Length: %d\r\n" % len(BODY)
CHUNKED = b"Transfer-Encoding: chunked\r\n"
CHUNKS = chunked(BODY) + b"0\r\n\r\n"
EXPECT = b"Expect: 100-continue\r\n"
CANARY = b"c4nary"
"""Stands in what is sent; must not stand in what comes back."""


def get(
    target: bytes = b"/health", *, method: bytes = b"GET", version: bytes = b"HTTP/1.1", head: bytes = HOST
) -> bytes:
    return b"%b %b %b\r\n%b\r\n" % (method, target, version, head)


def post(
    framing: bytes | None = None, body: bytes = BODY, *, head: bytes = RIGHT, path: bytes = b"/v1/chat/completions"
) -> bytes:
    """A chat request that is right, but for what the test says of it."""
    if framing is None:
        framing = b"Content-Length: %d\r\n" % len(body)
    return b"POST %b HTTP/1.1\r\n%b%b\r\n%b" % (path, head, framing, body)


def rows(table: dict[str, object]) -> list[object]:
    """A table with a name for each case."""
    return [pytest.param(*(case if isinstance(case, tuple) else (case,)), id=name) for name, case in table.items()]


@pytest.fixture
async def h() -> AsyncIterator[House]:
    async with house() as built:
        yield built


def assert_untouched(h: House) -> None:
    """Nothing reached the engine, nothing was started, nobody waits."""
    assert h.engine.received == []
    assert h.provider.starts == 0
    snapshot = h.conductor.snapshot()
    assert (snapshot.in_flight, snapshot.waiting) == (0, 0)


def assert_refused(h: House, heard: Heard, status: int, code: str = "invalid_request", *, closes: bool = True) -> None:
    """One answer, ours in every respect, and nothing behind it that moved."""
    only = heard.only
    assert only.status == status, only
    assert only.header("Content-Type") == "application/json"
    assert len(only.header("X-Request-Id") or "") == 36  # a UUID
    error = only.json["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["code"] == code and error["message"]
    assert CANARY not in heard.data
    if closes:
        assert only.header("Connection") == "close" and heard.closed
    assert_untouched(h)


# --- framing


@pytest.mark.parametrize(
    ("sent", "status"),
    rows(
        {
            # [1]
            "length, then chunks": (post(LENGTH + CHUNKED, CHUNKS), 400),
            "chunks, then length": (post(CHUNKED + LENGTH, CHUNKS), 400),
            "length 0 and chunks": (post(b"Content-Length: 0\r\n" + CHUNKED, CHUNKS), 400),
            # [2]
            "empty coding and length": (post(b"Transfer-Encoding:\r\n" + LENGTH), 400),
            "empty coding": (post(b"Transfer-Encoding:\r\n", b""), 501),
            "unknown coding": (post(b"Transfer-Encoding: xchunked\r\n", CHUNKS), 400),
            "coding before chunks": (post(b"Transfer-Encoding: gzip, chunked\r\n", CHUNKS), 501),
            "coding after chunks": (post(b"Transfer-Encoding: chunked, gzip\r\n", CHUNKS), 400),
            "chunked in two headers": (post(CHUNKED + CHUNKED, CHUNKS), 400),
            "chunked twice": (post(b"Transfer-Encoding: chunked, chunked\r\n", CHUNKS), 400),
            "identity": (post(b"Transfer-Encoding: identity\r\n" + LENGTH), 400),
            "quoted": (post(b'Transfer-Encoding: "chunked"\r\n', CHUNKS), 400),
            "vertical tab": (post(b"Transfer-Encoding: \x0bchunked\r\n", CHUNKS), 400),
            "blank before the colon": (post(b"Transfer-Encoding : chunked\r\n", CHUNKS), 400),
            "folded": (post(b"Transfer-Encoding:\r\n chunked\r\n", CHUNKS), 400),
            # [3]
            "two lengths": (post(LENGTH + b"Content-Length: 1\r\n"), 400),
            "the same length twice": (post(LENGTH + LENGTH), 400),
            "lengths in one header": (post(b"Content-Length: 15, 15\r\n"), 400),
            "plus": (post(b"Content-Length: +15\r\n"), 400),
            "minus": (post(b"Content-Length: -1\r\n"), 400),
            "underscore": (post(b"Content-Length: 1_5\r\n"), 400),
            "hexadecimal": (post(b"Content-Length: 0xf\r\n"), 400),
            "no number": (post(b"Content-Length:\r\n"), 400),
            "other digits": (post("Content-Length: ١٥\r\n".encode()), 400),
            "two numbers": (post(b"Content-Length: 1 5\r\n"), 400),
            "more than 64 bits": (post(b"Content-Length: 99999999999999999999999\r\n"), 400),
            # [4]
            "negative chunk": (post(CHUNKED, b"-f\r\nx\r\n0\r\n\r\n"), 400),
            "chunk size with 0x": (post(CHUNKED, b"0x1\r\nx\r\n0\r\n\r\n"), 400),
            "chunk size with underscore": (post(CHUNKED, b"0_1\r\nx\r\n0\r\n\r\n"), 400),
            "blank after the chunk size": (post(CHUNKED, b"1 \r\nx\r\n0\r\n\r\n"), 400),
            "blank before the chunk size": (post(CHUNKED, b" 1\r\nx\r\n0\r\n\r\n"), 400),
            "lone LF after the chunk size": (post(CHUNKED, b"1\nx\n0\n\n"), 400),
            "LF in a chunk extension": (post(CHUNKED, b"1;a\nb\r\nx\r\n0\r\n\r\n"), 400),
            "chunk longer than its size": (post(CHUNKED, b"1\r\nxy\r\n0\r\n\r\n"), 400),
            "chunk size of 17 digits": (post(CHUNKED, b"f" * 17 + b"\r\nx\r\n0\r\n\r\n"), 400),
            "framing in a trailer": (post(CHUNKED, CHUNKS[:-2] + b"Content-Length: 5\r\n\r\n"), 400),
            # [5]
            "NUL in a value": (get(head=HOST + b"X: c4nary\0b\r\n"), 400),
            "NUL in a name": (get(head=HOST + b"X\0c4nary: b\r\n"), 400),
            "CR in a value": (get(head=HOST + b"X: c4nary\rb\r\n"), 400),
            "control in a value": (get(head=HOST + b"X: c4nary\x01b\r\n"), 400),
            "DEL in a value": (get(head=HOST + b"X: c4nary\x7fb\r\n"), 400),
            "folded header": (get(head=HOST + b"X: a\r\n c4nary\r\n"), 400),
            "folded first header": (get(head=b" " + HOST), 400),
            "lone LF": (b"GET /health HTTP/1.1\nHost: c4nary\n\n", 400),
            "no colon": (get(head=HOST + b"c4nary\r\n"), 400),
            "no name": (get(head=HOST + b": c4nary\r\n"), 400),
            "blank in a name": (get(head=HOST + b"c4nary b: c\r\n"), 400),
            "name not in ASCII": (get(head=HOST + "é: c4nary\r\n".encode()), 400),
            # [9]
            "websocket": (get(head=HOST + b"Connection: upgrade\r\nUpgrade: websocket\r\n"), 400),
            "h2c": (
                get(head=HOST + b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: A\r\n"),
                400,
            ),
            "upgrade with two requests behind it": (post(b"Connection: upgrade\r\nUpgrade: h2c\r\n") + post(), 400),
            "upgrade that Connection does not name": (get(head=HOST + b"Upgrade: h2c\r\n"), 400),
        }
    ),
)
async def test_framing_that_two_parsers_could_read_in_two_ways_is_refused(h: House, sent: bytes, status: int) -> None:
    """[1-5, 9] Also when a right request follows on the same connection: it is never read."""
    assert_refused(h, await talk(h.port, sent + post()), status)


@pytest.mark.parametrize(
    "body",
    rows(
        {
            "upper-case size": b"%X\r\n%b\r\n0\r\n\r\n" % (len(BODY), BODY),
            "chunk extension": b"%x;a=b\r\n%b\r\n0\r\n\r\n" % (len(BODY), BODY),
            "trailers": CHUNKS[:-2] + b"X-Trailer: c4nary\r\nAuthorization: Bearer c4nary\r\n\r\n",
        }
    ),
)
async def test_chunks_in_good_order_are_served_without_their_trailers(h: House, body: bytes) -> None:
    """[4]"""
    heard = await talk(h.port, post(CHUNKED, body, head=RIGHT + b"Connection: close\r\n"))
    assert heard.statuses == [200]
    assert h.engine.received[0].json == CHAT
    assert CANARY not in h.engine.received[0].raw_head


async def test_more_than_128_trailers_are_refused(h: House) -> None:
    """[4]"""
    heard = await talk(h.port, post(CHUNKED, CHUNKS[:-2] + b"a: b\r\n" * 200 + b"\r\n"))
    assert_refused(h, heard, 431, "head_too_large")


@pytest.mark.parametrize(
    "host",
    [
        *(
            b"x/?",
            b"x/#",
            b"x/v1",
            b"user@x",
            b"user:word@x",
            b"x y",
            b"x, y",
            b"x\\y",
            b"http://x",
            b"x:8a",
            b"x:123456",
        ),
        *(b"", b"x?", b"[::1", b"::1", b"x:", "é".encode(), b"*"),
    ],
)
@pytest.mark.parametrize("version", [b"HTTP/1.1", b"HTTP/1.0"])
async def test_a_host_that_is_no_host_is_refused(h: House, host: bytes, version: bytes) -> None:
    """[6] Two bypasses of 2026 were routes read from a URL that was put together with such a Host."""
    assert_refused(h, await talk(h.port, get(version=version, head=b"Host: %b\r\n" % host)), 400)


@pytest.mark.parametrize(
    "head",
    [b"", HOST + HOST, HOST + b"Host: other\r\n", b"Host : gateway\r\n"],
    ids=["none", "the same twice", "another", "blank before the colon"],
)
async def test_a_missing_or_second_host_is_refused(h: House, head: bytes) -> None:
    """[6]"""
    assert_refused(h, await talk(h.port, get(head=head)), 400)


@pytest.mark.parametrize(
    "host", [b"x", b"x:80", b"127.0.0.1:8000", b"[::1]:8000", b"abc-8000.proxy.runpod.net", b"a_b"]
)
async def test_a_host_that_is_one_is_served(h: House, host: bytes) -> None:
    """[6]"""
    assert (await talk(h.port, get(head=b"Host: %b\r\nConnection: close\r\n" % host))).statuses == [200]


# --- targets, methods, versions


@pytest.mark.parametrize(
    ("sent", "status", "code"),
    rows(
        {
            "absolute form": (get(b"http://gateway/health"), 400, "invalid_request"),
            "absolute form of another": (get(b"http://c4nary/health"), 400, "invalid_request"),
            "CONNECT": (get(b"c4nary:443", method=b"CONNECT") + b"\x16\x03\x01" + post(), 400, "invalid_request"),
            "CONNECT to a path": (get(method=b"CONNECT") + post(), 405, "method_not_allowed"),
            "OPTIONS *": (get(b"*", method=b"OPTIONS"), 400, "invalid_request"),
            "GET *": (get(b"*"), 400, "invalid_request"),
            "TRACE": (get(method=b"TRACE", head=HOST + b"X: c4nary\r\n"), 405, "method_not_allowed"),
            "PUT": (post().replace(b"POST", b"PUT", 1), 405, "method_not_allowed"),
            "DELETE": (get(method=b"DELETE"), 405, "method_not_allowed"),
            "PATCH": (get(method=b"PATCH"), 405, "method_not_allowed"),
            "PROPFIND": (get(method=b"PROPFIND"), 405, "method_not_allowed"),
            "lower case": (get(method=b"get"), 400, "invalid_request"),
            "unknown": (get(method=b"C4NARY"), 400, "invalid_request"),
            "a long one": (get(method=b"A" * 300), 400, "invalid_request"),
            "no target": (b"GET  HTTP/1.1\r\n" + HOST + b"\r\n", 400, "invalid_request"),
            "no slash": (get(b"health"), 400, "invalid_request"),
            "port only": (get(b":80/health"), 400, "invalid_request"),
            "not in ASCII": (get("/c4naryé".encode()), 400, "invalid_request"),
            "blank": (get(b"/health c4nary"), 400, "invalid_request"),
            "tab": (get(b"/hea\tlth"), 400, "invalid_request"),
            "NUL": (get(b"/health\0"), 400, "invalid_request"),
            "control": (get(b"/hea\x01lth"), 400, "invalid_request"),
        }
    ),
)
async def test_a_target_or_method_that_nobody_needs_ends_the_connection(
    h: House, sent: bytes, status: int, code: str
) -> None:
    """[7]"""
    assert_refused(h, await talk(h.port, sent), status, code)


@pytest.mark.parametrize(
    "path",
    [
        *(
            b"/v1/../slots",
            b"/v1/%2e%2e/slots",
            b"/v1/%2e./slots",
            b"/v1%2fchat%2fcompletions",
            b"//v1/chat/completions",
        ),
        *(b"/v1//chat/completions", b"/v1/chat/completions/", b"/v1/chat/completions;x", b"/v1\\chat\\completions"),
        *(
            b"/v1/chat/completions%00",
            b"/v1/chat/completions%0d%0aX:c4nary",
            b"/V1/chat/completions",
            b"/v1/chat/completion%73",
        ),
        *(
            b"/v1/chat/completions#",
            b"/./v1/chat/completions",
            b"/slots?/v1/chat/completions",
            b"//gateway/v1/chat/completions",
        ),
    ],
)
async def test_only_the_exact_path_leads_to_the_engine(h: House, path: bytes) -> None:
    """[8] Nothing is decoded or tidied up: no traversal reaches what an engine has besides."""
    assert_refused(h, await talk(h.port, post(path=path), ANSWERED, FIN), 404, "route_not_found", closes=False)


async def test_a_models_name_is_only_ever_looked_up(h: House) -> None:
    """[8] The one path with a variable part goes nowhere."""
    for name in (b"..%2f..%2fslots", b"%00", b"%0d%0aX-Injected:%20c4nary", b"../../slots", b"%ff%fe"):
        heard = await talk(h.port, get(b"/v1/models/" + name, head=HOST + WITH_KEY), ANSWERED, FIN)
        assert_refused(h, heard, 404, "model_not_found", closes=False)


@pytest.mark.parametrize(
    ("sent", "status"),
    rows(
        {
            "HTTP/0.9": (b"GET /health\r\n\r\n", 505),
            "HTTP/0.9, named": (get(version=b"HTTP/0.9"), 505),
            "HTTP/1.2": (get(version=b"HTTP/1.2"), 400),
            "HTTP/1.10": (get(version=b"HTTP/1.10"), 400),
            "HTTP/2.0": (get(version=b"HTTP/2.0"), 505),
            "HTTP/3.0": (get(version=b"HTTP/3.0"), 400),
            "lower case": (get(version=b"http/1.1"), 400),
            "preface of HTTP/2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(9), 400),
            "TLS": (bytes.fromhex("16030100c8010000c40303") + bytes(200), 400),
            "SOCKS": (b"\x05\x01\x00", 400),
            "SSH": (b"SSH-2.0-c4nary\r\n", 400),
            "zeros": (bytes(100), 400),
            "HTTP/1.0 with chunks": (post(CHUNKED, CHUNKS).replace(b"HTTP/1.1", b"HTTP/1.0"), 400),
        }
    ),
)
async def test_other_protocols_and_versions_are_told_so_in_http_1_1(h: House, sent: bytes, status: int) -> None:
    """[19]"""
    assert_refused(h, await talk(h.port, sent), status)


async def test_http_1_0_is_served_and_closed_unless_it_asks_to_stay(h: House) -> None:
    """[19] It needs no Host, and gets no chunks."""
    old = post().replace(b"HTTP/1.1", b"HTTP/1.0")
    heard = await talk(h.port, old.replace(HOST, b""))
    assert heard.closed and heard.only.status == 200 and heard.only.header("Connection") == "close"
    stays = old.replace(b"\r\n\r\n", b"\r\nConnection: keep-alive\r\n\r\n", 1)
    heard = await talk(h.port, stays, ANSWERED, 0.1, stays, 0.3, FIN)
    assert heard.statuses == [200, 200]
    assert [each.header("Connection") for each in heard.answers] == ["keep-alive"] * 2


async def test_a_stream_for_http_1_0_ends_with_its_connection() -> None:
    """[19]"""
    async with house(script=stream(event("a"), event("", "stop"))) as h:
        heard = await talk(h.port, h.request(STREAMED).replace(b"HTTP/1.1", b"HTTP/1.0"))
        assert heard.closed and heard.only.status == 200
        assert heard.only.header("Transfer-Encoding") is None and heard.only.header("Connection") == "close"
        assert heard.only.body.endswith(b"data: [DONE]\n\n")


# --- headers


OURS = {"host", "content-type", "content-length", "authorization", "x-request-id", "accept-encoding"}
"""What an engine hears of this caller."""


async def test_what_others_say_of_a_caller_is_not_passed_on(h: House) -> None:
    """[9, 10] Hop-by-hop headers, forwarded addresses, ids, and twins that some engines read as the same header."""
    odd = (
        b"Connection: close, X-Hop\r\nX-Hop: c4nary\r\nKeep-Alive: c4nary\r\nTE: trailers\r\n"
        b"Proxy-Authorization: c4nary\r\n"
        b"X-Forwarded-For: c4nary\r\nX-Forwarded-Host: c4nary\r\nX-Real-IP: c4nary\r\nForwarded: for=c4nary\r\n"
        b"X-Request-Id: c4nary\r\nX_Request_Id: c4nary\r\nContent_Length: 1\r\nTransfer_Encoding: c4nary\r\n"
        b"X-Original-URL: /c4nary\r\nX-HTTP-Method-Override: DELETE\r\nCookie: c4nary\r\nRange: bytes=0-1\r\n"
    )
    heard = await talk(h.port, post(head=RIGHT + odd))
    assert heard.statuses == [200] and CANARY not in heard.data
    seen = h.engine.received[0]
    assert CANARY not in seen.raw_head and b"_" not in seen.raw_head and seen.json == CHAT
    names = {name.lower() for name, _ in seen.headers}
    assert names == OURS


@pytest.mark.parametrize(
    "head",
    rows(
        {
            "none": b"",
            "wrong": b"Authorization: Bearer sk-c4nary\r\n",
            "empty": b"Authorization: Bearer \r\n",
            "no scheme": b"Authorization: " + KEY.encode() + b"\r\n",
            "Basic": b"Authorization: Basic " + KEY.encode() + b"\r\n",
            "prefix": WITH_KEY[:-3] + b"\r\n",
            "longer": WITH_KEY[:-2] + b"x\r\n",
            "other case": WITH_KEY.upper(),
            "not in ASCII": "Authorization: Bearer sk-tést\r\n".encode(),
            "not in UTF-8": b"Authorization: Bearer \xff\xfe\r\n",
            "twice": WITH_KEY + WITH_KEY,
            "right, then wrong": WITH_KEY + b"Authorization: Bearer x\r\n",
            "X-API-Key twice": (b"X-API-Key: " + KEY.encode() + b"\r\n") * 2,
            "X-API-Key wrong": b"X-API-Key: c4nary\r\n",
            "in the query string only": b"X-Nothing: x\r\n",
            "twin": WITH_KEY.replace(b"Authorization", b"Authorization_"),
        }
    ),
)
async def test_without_the_right_key_nothing_starts(h: House, head: bytes) -> None:
    """[11]"""
    heard = await talk(
        h.port, post(head=HOST + JSON + head, path=b"/v1/chat/completions?api_key=" + KEY.encode()), ANSWERED, FIN
    )
    assert_refused(h, heard, 401, "invalid_api_key", closes=False)
    assert heard.only.header("WWW-Authenticate") == "Bearer"
    assert KEY.encode() not in heard.data


@pytest.mark.parametrize("scheme", [b"Bearer", b"bearer", b"BEARER"])
async def test_the_scheme_is_read_in_any_case(h: House, scheme: bytes) -> None:
    head = HOST + JSON + WITH_KEY.replace(b"Bearer", scheme) + b"Connection: close\r\n"
    assert (await talk(h.port, post(head=head))).statuses == [200]


# --- too much


@pytest.mark.parametrize(
    "sent",
    rows(
        {
            "a line of 64 KiB": get(b"/" + b"a" * 65536),
            "a header of 64 KiB": get(head=HOST + b"X: " + b"a" * 65536 + b"\r\n"),
            "a name of 64 KiB": get(head=HOST + b"X" * 65536 + b": a\r\n"),
            "5,000 headers": get(head=HOST + b"X: a\r\n" * 5000),
            "129 headers": get(head=HOST + b"X: a\r\n" * 128),
            "500 headers of 8 KB": get(head=HOST + (b"X: " + b"a" * 8000 + b"\r\n") * 500),
        }
    ),
)
async def test_a_head_that_is_too_large_is_431(h: House, sent: bytes) -> None:
    """[13]"""
    assert_refused(h, await talk(h.port, sent), 431, "head_too_large")


def resident() -> int:
    """Bytes of memory that this process holds."""
    return int(Path("/proc/self/statm").read_text("ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")


async def test_a_head_of_4_mib_takes_no_memory(h: House) -> None:
    """[13] Ten of them; the caller's own copy was there before."""
    sent = get(head=HOST + b"X: " + b"a" * (4 << 20) + b"\r\n")
    assert_refused(h, await talk(h.port, sent), 431, "head_too_large")
    before = resident()
    for heard in await asyncio.gather(*(talk(h.port, sent) for _ in range(10))):
        assert_refused(h, heard, 431, "head_too_large")
    assert resident() - before < 6 << 20


@pytest.mark.parametrize("more", [b"", EXPECT], ids=["at once", "asking first"])
async def test_a_length_over_the_limit_is_413_before_anything_came(h: House, more: bytes) -> None:
    """[14, 16]"""
    async with Caller(h.port) as caller:
        await caller.send(post(b"Content-Length: 10000000000\r\n" + more, b""))
        heard = await caller.hear(until=b"body_too_large")
        assert heard.took < 1.5
        assert_refused(h, await caller.hear(), 413, "body_too_large")


@pytest.mark.parametrize("kind", [JSON, MULTIPART], ids=["JSON", "multipart"])
async def test_chunks_over_the_limit_are_413_and_the_engine_has_no_whole_request(kind: bytes) -> None:
    """[15] For a body that passes through, the chunk too many is where the engine's request breaks off."""
    path = b"/v1/chat/completions" if kind == JSON else b"/v1/audio/transcriptions"
    async with house(body_limit=100_000) as h:
        piece = chunked(b" " * 30_000)
        steps: list[Step] = [post(CHUNKED, b"", head=HOST + WITH_KEY + kind, path=path)]
        heard = await talk(h.port, *steps, *([piece, 0.02] * 10))
        assert heard.only.status == 413 and heard.only.json["error"]["code"] == "body_too_large" and heard.closed
        assert h.engine.received == []


@pytest.mark.parametrize(
    ("coding", "body"),
    rows(
        {
            "a bomb": (b"gzip", gzip.compress(bytes(200_000_000), 9)),
            "20,000 empty members": (b"gzip", gzip.compress(b"") * 20_000),
            "a small one": (b"gzip", gzip.compress(BODY)),
            "deflate": (b"deflate", BODY),
            "br": (b"br", BODY),
            "unknown": (b"c4nary", BODY),
            "gzip after identity": (b"identity, gzip", BODY),
        }
    ),
)
async def test_a_compressed_body_is_415_and_never_inflated(h: House, coding: bytes, body: bytes) -> None:
    """[21]"""
    before = resident()
    for framing, sent in ((LENGTH.replace(b"%d" % len(BODY), b"%d" % len(body)), body), (CHUNKED, chunked(body))):
        heard = await talk(h.port, post(b"Content-Encoding: %b\r\n" % coding + framing, sent), ANSWERED, FIN)
        assert_refused(h, heard, 415, "unsupported_media_type", closes=False)
        assert heard.took < 4
    assert resident() - before < 16 << 20


# --- bodies


@pytest.mark.parametrize(
    "body",
    rows(
        {
            "nothing": b"",
            "broken": b'{"messages": [}',
            "cut": BODY[:-1],
            "two documents": BODY + BODY,
            "an array": b"[]",
            "null": b"null",
            "a number of 6,000 digits": b'{"messages": [], "n": ' + b"9" * 6000 + b"}",
            "NaN": b'{"messages": [], "temperature": NaN}',
            "100,000 levels": b'{"messages": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
            "100,000 levels that do not end": b'{"messages": ' + b"[" * 100_000,
            "a key twice": b'{"messages": [], "model": "a", "model": "b"}',
            "UTF-16": json.dumps(CHAT).encode("utf-16"),
            "Latin-1": b'{"messages": "\xe9"}',
            "a byte order mark": b"\xef\xbb\xbf" + BODY,
            "NUL behind it": BODY + b"\0",
        }
    ),
)
async def test_a_body_that_is_no_json_object_starts_nothing(h: House, body: bytes) -> None:
    """[22]"""
    assert_refused(h, await talk(h.port, post(body=body), ANSWERED, FIN), 400, "invalid_json", closes=False)


@pytest.mark.parametrize(
    "kind", [b"", b"text/plain", b"application/x-www-form-urlencoded", b"application/json; charset=utf-16", b"json"]
)
async def test_another_content_type_is_415(h: House, kind: bytes) -> None:
    """[23]"""
    head = HOST + WITH_KEY + (b"Content-Type: %b\r\n" % kind if kind else b"")
    heard = await talk(h.port, post(head=head), ANSWERED, FIN)
    assert_refused(h, heard, 415, "unsupported_media_type", closes=False)


@pytest.mark.parametrize(
    ("more", "code", "param"),
    [
        ({"n_discard": -1}, "unsupported_parameter", "n_discard"),
        ({"api_base": "http://c4nary"}, "unsupported_parameter", "api_base"),
        (
            {
                "messages": [
                    {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://c4nary/x"}}]}
                ]
            },
            "unsupported_parameter",
            "messages.0.content.0.image_url.url",
        ),
    ],
)
async def test_a_field_that_could_harm_the_engine_is_named(
    h: House, more: dict[str, object], code: str, param: str
) -> None:
    """[25]"""
    heard = await talk(h.port, post(body=json.dumps(CHAT | more).encode()), ANSWERED, FIN)
    assert_refused(h, heard, 400, code, closes=False)
    assert heard.only.json["error"]["param"] == param


@BOTH_LOOPS
@pytest.mark.parametrize("end", [FIN, RESET])
@pytest.mark.parametrize("framing", [LENGTH, CHUNKED], ids=["length", "chunks"])
async def test_a_body_that_ends_early_starts_nothing(h: House, framing: bytes, end: str) -> None:
    """[20] The caller is gone: there is nobody to answer."""
    body = BODY[:-1] if framing == LENGTH else CHUNKS[:-2]
    heard = await talk(h.port, post(framing, body), 0.05, end)
    assert heard.closed and heard.data == b""
    await h.until(lambda: h.visits)
    assert h.visits[0].outcome == "left"
    assert_untouched(h)


# --- asking for the body


@BOTH_LOOPS
@pytest.mark.parametrize("framing", [LENGTH, CHUNKED], ids=["length", "chunks"])
async def test_a_caller_that_waits_to_be_asked_for_its_body_is_asked_once(h: House, framing: bytes) -> None:
    """[16] As curl does with more than a megabyte, without the second that it gives us."""
    async with Caller(h.port) as caller:
        await caller.send(post(framing + EXPECT, b"", head=RIGHT + b"Connection: close\r\n"))
        asked = await caller.hear(until=b"\r\n\r\n")
        assert asked.data == b"HTTP/1.1 100 Continue\r\n\r\n" and asked.took < 1.5
        assert_untouched(h)
        await caller.send(BODY if framing == LENGTH else CHUNKS)
        assert (await caller.hear()).statuses == [100, 200]


async def test_a_caller_that_sends_its_body_unasked_is_served(h: House) -> None:
    """[16]"""
    heard = await talk(h.port, post(LENGTH + EXPECT, head=RIGHT + b"Connection: close\r\n"))
    assert [status for status in heard.statuses if status != 100] == [200]
    heard = await talk(h.port, post(LENGTH + EXPECT).replace(b"HTTP/1.1", b"HTTP/1.0"))
    assert heard.statuses == [200], "HTTP/1.0 knows no 100"


@pytest.mark.parametrize(
    ("head", "status", "code"),
    rows(
        {
            "no key": (HOST + JSON, 401, "invalid_api_key"),
            "wrong type": (HOST + WITH_KEY, 415, "unsupported_media_type"),
            "no host": (WITH_KEY + JSON, 400, "invalid_request"),
            "unknown expectation": (RIGHT + b"Expect: c4nary\r\n", 417, "invalid_request"),
            "two expectations": (RIGHT + b"Expect: 100-continue, c4nary\r\n", 417, "invalid_request"),
        }
    ),
)
async def test_nobody_is_asked_for_a_body_that_will_be_refused(h: House, head: bytes, status: int, code: str) -> None:
    """[16]"""
    heard = await talk(h.port, post(LENGTH + (b"" if b"Expect" in head else EXPECT), b"", head=head))
    assert_refused(h, heard, status, code)


async def test_an_upload_is_asked_for_when_there_is_an_engine_to_take_it() -> None:
    """[16] Until then it waits where it is, and not in our memory."""
    async with house(ready_at_once=False) as h, Caller(h.port) as caller:
        head = HOST + WITH_KEY + MULTIPART + EXPECT + b"Connection: close\r\n"
        await caller.send(post(b"Content-Length: 5\r\n", b"", head=head, path=b"/v1/audio/transcriptions"))
        await h.until(lambda: h.conductor.snapshot().waiting == 1)
        assert (await caller.hear(within=0.1)).data == b""
        h.provider.tell(Ready())
        assert (await caller.hear(until=b"\r\n\r\n")).statuses == [100]
        await caller.send(b"hello")
        assert (await caller.hear()).statuses == [100, 200]
        assert h.engine.received[0].body == b"hello"


# --- one request behind another


@BOTH_LOOPS
async def test_200_pipelined_requests_are_answered_in_order_one_at_a_time() -> None:
    """[17]"""
    at_once = most = 0

    async def echo(request: Received, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal at_once, most
        at_once += 1
        most = max(most, at_once)
        await asyncio.sleep(0)
        at_once -= 1
        await answer({"user": request.json["user"]})(request, reader, writer)

    async with house(script=echo, slots=8) as h:
        requests = [post(body=json.dumps(CHAT | {"user": str(n)}).encode()) for n in range(200)]
        heard = await talk(h.port, b"".join(requests) + get(head=HOST + b"Connection: close\r\n"), within=30)
        assert [each.json["user"] for each in heard.answers[:200]] == [str(n) for n in range(200)]
        assert heard.answers[200].json["status"] == "ok" and most == 1


HIDDEN = post() + b"X" * 200
"""A request that is right, hidden in a body: it must stay a body."""
HIDDEN_LENGTH = b"Content-Length: %d\r\n" % len(HIDDEN)


@pytest.mark.parametrize("way", ["at once", "in two", "later"])
@pytest.mark.parametrize(
    ("head", "status"),
    rows(
        {
            "400": (post(HIDDEN_LENGTH, b"", head=b"Host: a@b\r\n" + WITH_KEY + JSON), 400),
            "401": (post(HIDDEN_LENGTH, b"", head=HOST + JSON), 401),
            "404": (post(HIDDEN_LENGTH, b"", path=b"/nothing"), 404),
            "405": (post(HIDDEN_LENGTH, b"", path=b"/health"), 405),
            "413": (post(HIDDEN_LENGTH, b""), 413),
            "415": (post(HIDDEN_LENGTH, b"", head=HOST + WITH_KEY), 415),
            "417": (post(HIDDEN_LENGTH + b"Expect: x\r\n", b""), 417),
            "200": (get(head=HOST + HIDDEN_LENGTH), 200),
            "204": (get(method=b"OPTIONS", head=HOST + HIDDEN_LENGTH), 204),
        }
    ),
)
async def test_a_body_that_nobody_reads_is_never_taken_for_a_request(head: bytes, status: int, way: str) -> None:
    """[18] Not even half of it, and not when it comes after the answer."""
    ways: dict[str, tuple[Step, ...]] = {
        "at once": (head + HIDDEN, ANSWERED, 0.1, FIN),
        "in two": (head + HIDDEN[:100], ANSWERED, HIDDEN[100:], 0.1, FIN),
        "later": (head, ANSWERED, HIDDEN, 0.1, FIN),
    }
    async with house(body_limit=200) as h:
        heard = await talk(h.port, *ways[way])
        assert heard.statuses == [status]
        if way != "at once" and status >= 400:
            assert heard.only.header("Connection") == "close"
        assert_untouched(h)


async def test_after_a_body_that_was_read_and_dropped_the_next_request_is_served(h: House) -> None:
    """[18] The other side of it: framing is trusted where it was exact."""
    heard = await talk(h.port, post(path=b"/nothing") + get(head=HOST + b"Connection: close\r\n"))
    assert heard.statuses == [404, 200]


async def test_what_follows_a_request_that_asked_to_close_is_not_read(h: House) -> None:
    """[17]"""
    heard = await talk(h.port, get(head=HOST + b"Connection: close\r\n") + post())
    assert heard.only.status in (200, 400) and heard.closed
    assert_untouched(h)


# --- slow callers


async def test_a_head_that_does_not_end_in_time_ends_its_connection() -> None:
    """[26] However it dribbles; there is nothing to answer. Production's time is 10 s."""

    def dribble(data: bytes) -> list[Step]:
        return [step for byte in data[:20] for step in (bytes([byte]), 0.5)]

    async with house(head_timeout=2.0, keep_idle=30) as h:
        heads: list[list[Step]] = [
            dribble(get()),
            dribble(b"\r\n" * 10),
            [get()[:-2]],
            [get()[:-2], *dribble(b"X: " + b"a" * 20)],
            [get(), 0.3, *dribble(get())],
        ]
        for number, heard in enumerate(await asyncio.gather(*(talk(h.port, *steps) for steps in heads))):
            assert heard.closed and 0.9 < heard.took < 5, (number, heard)
            assert heard.statuses == ([200] if number == 4 else [])
        assert_untouched(h)


@pytest.mark.parametrize("kind", [JSON, MULTIPART], ids=["JSON", "multipart"])
@pytest.mark.parametrize("sent", [b"", b"{"], ids=["nothing", "a byte"])
async def test_a_body_that_stops_coming_is_408(kind: bytes, sent: bytes) -> None:
    """[27] Also where it passes through: then it is not the engine that failed."""
    path = b"/v1/chat/completions" if kind == JSON else b"/v1/audio/transcriptions"
    async with house(body_gap=0.4) as h:
        async with Caller(h.port) as caller:
            await caller.send(post(b"Content-Length: 100\r\n", sent, head=HOST + WITH_KEY + kind, path=path))
            heard = await caller.hear(until=b"body_timeout")
            assert 0.3 < heard.took < 3
            heard = await caller.hear()
        assert heard.only.status == 408 and heard.closed
        assert heard.only.header("Connection") == "close"
        assert h.engine.received == []


@BOTH_LOOPS
@pytest.mark.parametrize("body", [STREAMED, CHAT], ids=["stream", "whole"])
async def test_a_caller_who_does_not_read_is_let_go_and_the_engine_freed(body: dict[str, object]) -> None:
    """[28]"""

    async def much(request: Received, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 100000000\r\n\r\n")
        for _ in range(100):
            writer.write(b" " * 1_000_000)
            await writer.drain()

    script = stream(*[event("x" * 8000)] * 12_000) if body is STREAMED else much
    async with house(script=script, write_timeout=0.5, gap=20, answer_time=20) as h:
        async with Caller(h.port, receive_buffer=4096) as caller:
            await caller.send(h.request(body))
            await h.until(lambda: h.engine.left == 1, within=10)
            await h.until(lambda: not h.server.connections)
        reply = h.visits[0].reply
        assert h.visits[0].outcome == "left" and reply is not None
        assert reply.bytes_sent < 20_000_000
        assert h.conductor.snapshot().in_flight == 0


@BOTH_LOOPS
async def test_a_caller_who_never_takes_the_last_of_an_answer_keeps_no_connection() -> None:
    """[28, 29] The answer is over, its end lies in our buffer: closing alone would wait for it for ever."""
    script = answer(b"x" * 40_000_000, content_type="x/x")
    async with (
        house(script=script, keep_idle=0.3, write_timeout=5) as h,
        Caller(h.port, receive_buffer=4096) as caller,
    ):
        await caller.send(h.request(CHAT, close=False))
        while not h.visits:
            await caller.hear(within=0.01)
        await h.until(lambda: not h.server.connections, within=8)


@BOTH_LOOPS
async def test_idle_connections_cost_others_nothing_and_end() -> None:
    """[29] Production's limit is 2,000, its patience 75 s."""
    async with house(max_connections=320, keep_idle=2.0) as h:
        callers = [Caller(h.port) for _ in range(300)]
        await asyncio.gather(*(caller.__aenter__() for caller in callers))
        await h.until(lambda: len(h.server.connections) == 300)
        heard = await talk(h.port, post(head=RIGHT + b"Connection: close\r\n"))
        assert heard.statuses == [200] and heard.took < 2
        ends = await asyncio.gather(*(caller.hear() for caller in callers))
        assert all(end.closed and end.data == b"" for end in ends)
        await h.until(lambda: not h.server.connections)
        for caller in callers:
            await caller.__aexit__()


@BOTH_LOOPS
async def test_connections_beyond_the_limit_are_told_so_and_closed() -> None:
    """[29]"""
    async with house(max_connections=50) as h:
        callers = [Caller(h.port) for _ in range(50)]
        await asyncio.gather(*(caller.__aenter__() for caller in callers))
        await h.until(lambda: len(h.server.connections) == 50)
        for heard in await asyncio.gather(*(talk(h.port) for _ in range(20))):
            assert_refused(h, heard, 503, "overloaded")
            assert heard.only.header("Retry-After") and heard.only.header("x-should-retry") == "true"
        await callers[0].send(get())
        assert (await callers[0].hear(until=b"}")).statuses == [200], "who is in already is served"
        for caller in callers:
            await caller.__aexit__()
        await h.until(lambda: not h.server.connections)
        assert (await talk(h.port, get(head=HOST + b"Connection: close\r\n"))).statuses == [200]


# --- what production's loop must do as asyncio's does


@BOTH_LOOPS
@pytest.mark.parametrize("end", [FIN, RESET])
@pytest.mark.parametrize("body", [CHAT, STREAMED], ids=["whole", "stream"])
async def test_a_caller_who_leaves_frees_the_engine_within_a_second(body: dict[str, object], end: str) -> None:
    async def silent(request: Received, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(60)

    async with house(script=silent, slots=1) as h:
        leaving = asyncio.create_task(talk(h.port, h.request(body), 0.3, end))
        await h.until(lambda: h.engine.received)
        await leaving
        await h.until(lambda: h.engine.left == 1 and h.conductor.snapshot().in_flight == 0, within=1)
        assert h.visits[0].outcome == "left"


@BOTH_LOOPS
@pytest.mark.parametrize("end", [FIN, RESET])
async def test_a_caller_who_leaves_in_mid_stream_frees_the_engine(end: str) -> None:
    async with house(script=stream(*[event("x")] * 1000, gap=0.02), slots=1) as h:
        await talk(h.port, h.request(STREAMED), 0.2, end)
        await h.until(lambda: h.engine.left == 1 and h.conductor.snapshot().in_flight == 0, within=1)


@BOTH_LOOPS
async def test_a_caller_who_leaves_the_line_is_gone_from_it() -> None:
    async with house(ready_at_once=False) as h, Caller(h.port) as caller:
        await caller.send(h.request(STREAMED))
        await h.until(lambda: h.conductor.snapshot().waiting == 1)
        caller.vanish()
        await h.until(lambda: h.conductor.snapshot().waiting == 0, within=1)


@BOTH_LOOPS
@pytest.mark.parametrize("politely", [True, False])
async def test_an_engine_that_ends_in_mid_stream_is_never_taken_for_the_end(politely: bool) -> None:
    async def ends(request: Received, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await stream(event("a"), done=False, last_chunk=False)(request, reader, writer)
        await asyncio.sleep(0.1)
        if not politely:
            writer.transport.abort()

    async with house(script=ends) as h:
        heard = await talk(h.port, h.request(STREAMED))
        assert heard.closed and heard.statuses == [200]
        assert b"backend_lost" in heard.data and b"[DONE]" not in heard.data
        assert not heard.data.endswith(b"0\r\n\r\n")


# --- what is written down


FLOOD: tuple[tuple[Step, ...], ...] = (
    (post(LENGTH + CHUNKED, CHUNKS),),
    (get(head=HOST + b"X: c4nary\0\r\n"),),
    (get(head=b"Host: c4nary@x\r\n"),),
    (bytes(100),),
    (get(b"/" + b"c4nary" * 2000),),
    (post(head=HOST + JSON + b"Authorization: Bearer c4nary\r\n"), ANSWERED, FIN),
    (post(body=b'{"c4nary'), ANSWERED, FIN),
    (post(b"Content-Length: 100\r\n", b"c4nary"), 0.02, RESET),
    (post(CHUNKED, chunked(b"{")), 0.02, b"c4nary\r\n"),
    (post(CHUNKED, chunked(b"{"), path=b"/c4nary"), 0.02, b"c4nary\r\n", ANSWERED, FIN),
    (get(b"/c4nary%0d%0a[gateway]%20forged"), ANSWERED, FIN),
)


@BOTH_LOOPS
async def test_bad_requests_leave_no_more_than_a_line_a_second_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    """[5, 31] No traceback for each, and nothing of what was sent."""
    caplog.set_level(logging.INFO)
    async with house() as h:
        began = asyncio.get_running_loop().time()
        await asyncio.gather(*(talk(h.port, *steps) for steps in FLOOD * 8))
        took = asyncio.get_running_loop().time() - began
        assert_untouched(h)
    assert len(caplog.records) <= 1 + took, caplog.text
    assert "c4nary" not in caplog.text


async def test_a_fault_of_our_own_is_500_and_logged_once_a_second(caplog: pytest.LogCaptureFixture) -> None:
    """Somebody who finds one must not fill the disk with it."""

    class Faulty(Gate):
        def enter(self, *args: object) -> None:
            raise TimeoutError("planted")

    async with house(gate=lambda: Faulty(keys=Keys([]), admin=Keys([]))) as h:
        for heard in await asyncio.gather(*(talk(h.port, post()) for _ in range(30))):
            assert_refused(h, heard, 500, "backend_error")
    assert 1 <= len(caplog.records) <= 3
    assert "planted" in caplog.text


async def test_nothing_that_a_caller_sends_becomes_a_label_or_a_line(h: House) -> None:
    """[31] What metrics and log know of a request is from closed sets, but for an id that is short and plain."""
    paths = [b"/c4nary%d" % number for number in range(200)]
    requests = b"".join(post(path=path, head=RIGHT + b"X-Request-Id: a%0ab c4nary\r\n") for path in paths)
    await talk(h.port, requests + get(head=HOST + b"Connection: close\r\n"), within=20)
    await talk(h.port, post(body=b'{"model": "c4nary", "messages": "c4nary"}'), ANSWERED, FIN)
    routes = {route.path for route in INFERENCE}
    assert len(h.visits) == 202
    for visit in h.visits:
        assert visit.route in routes | {""} and visit.caller_id == ""
        assert "c4nary" not in repr(replace(visit, model=""))  # the model is a stranger's text: lines.py escapes it
    assert {visit.code for visit in h.visits} <= {"", "200", "route_not_found", "invalid_request"}


async def test_no_header_of_ours_can_be_injected(h: House) -> None:
    """[31] Whatever is shown to a caller of its own request: the Host in the welcome, the path in a 404."""
    for sent in (
        get(b"/%0d%0aX-Injected:%20c4nary"),
        get(b"/?%0d%0aX-Injected:%20c4nary", head=b"Host: x:80\r\n"),
        get(b"/v1/models/a%0d%0aX-Injected:%20c4nary", head=HOST + WITH_KEY),
        post(head=RIGHT + b"X-Request-Id: c4nary\r\n", path=b"/chat/completions"),
    ):
        heard = await talk(h.port, sent, ANSWERED, FIN)
        assert heard.only.header("X-Injected") is None and heard.data.count(b"HTTP/1.1") == 1
        assert CANARY not in heard.data
