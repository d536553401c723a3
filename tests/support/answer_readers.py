"""Three readers of an engine's answer: ours, aiohttp's compiled one and h11; and the laws that ours keeps beside them.

`check` is what the property tests and the fuzzer ask of any bytes whatsoever.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

import h11
from aiohttp import http_exceptions
from aiohttp.base_protocol import BaseProtocol
from aiohttp.client_exceptions import ClientPayloadError
from aiohttp.http_parser import HttpResponseParser

from gateway.proxy.http1 import AnswerParser, Malformed


@dataclass(frozen=True)
class Reading:
    """What a reader made of an answer and the connection's end behind it."""

    verdict: Literal["whole", "cut", "malformed"]
    status: int | None = None
    headers: list[tuple[str, str]] = field(default_factory=list)
    """Lower-case names; empty where a reader sorts or merges them."""
    body: bytes = b""


def read_by_us(pieces: Sequence[bytes], method: str = "POST") -> Reading:
    parser, body = AnswerParser(method), b""
    is_malformed = False
    for piece in pieces:
        try:
            came = parser.feed(piece)
        except Malformed:
            is_malformed = True
            break
        if parser.verbatim:
            size, data = piece.split(b"\r\n", 1)
            assert came and data == came + b"\r\n" and size.isalnum() and int(size, 16) == len(came)
        body += came
    is_whole = parser.feed_eof()
    assert not (is_whole and is_malformed)
    verdict: Literal["whole", "cut", "malformed"] = "whole" if is_whole else "malformed" if is_malformed else "cut"
    if parser.head is None:
        assert not body
        return Reading(verdict)
    return Reading(verdict, parser.head.status, _lower(parser.head.headers), body)


class _Loop:
    """All that aiohttp's reader wants of one as long as nobody waits."""

    def get_debug(self) -> bool:
        return False


def read_by_aiohttp(pieces: Sequence[bytes], method: str = "POST") -> Reading:
    protocol = BaseProtocol(_Loop())
    parser = HttpResponseParser(
        protocol,
        _Loop(),
        1 << 30,
        payload_exception=ClientPayloadError,
        response_with_body=method != "HEAD",
        read_until_eof=True,
        auto_decompress=False,
        max_line_size=8190,
        max_field_size=8190,
    )
    protocol._parser = parser
    answer = payload = None
    try:
        for piece in pieces:
            for message, its_payload in parser.feed_data(piece)[0]:
                if answer is None and (message.code >= 200 or message.code == 101):
                    answer, payload = message, its_payload
        if answer is None or payload is None:
            return Reading("cut")
        if not payload.is_eof():
            parser.feed_eof()
    except http_exceptions.ContentLengthError:
        return Reading("cut", answer.code if answer else None)
    except http_exceptions.TransferEncodingError as error:
        return Reading("cut" if "Not enough" in error.message else "malformed")
    except http_exceptions.HttpProcessingError:
        return Reading("malformed")
    if payload.exception() is not None or not payload.is_eof():
        return Reading("malformed")
    headers = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in answer.raw_headers]
    return Reading("whole", answer.code, _lower(headers), payload.read_nowait(-1))


def read_by_h11(pieces: Sequence[bytes], method: str = "POST") -> Reading:
    connection = h11.Connection(h11.CLIENT, max_incomplete_event_size=1 << 17)
    connection.send(h11.Request(method=method, target="/", headers=[("host", "x"), ("content-length", "0")]))
    connection.send(h11.EndOfMessage())
    status, body = None, b""
    try:
        for piece in (*pieces, b""):
            if not piece and status is None:
                return Reading("cut")
            connection.receive_data(piece)
            while (event := connection.next_event()) not in (h11.NEED_DATA, h11.PAUSED):
                if isinstance(event, h11.Response):
                    status = event.status_code
                elif isinstance(event, h11.Data):
                    body += event.data
                elif isinstance(event, h11.EndOfMessage):
                    return Reading("whole", status, body=body)
    except h11.RemoteProtocolError as error:
        return Reading("cut" if "peer closed connection" in str(error) else "malformed", status)
    return Reading("cut", status)


OTHERS: dict[str, Callable[[Sequence[bytes], str], Reading]] = {"aiohttp": read_by_aiohttp, "h11": read_by_h11}


def check(answer: bytes, cuts: Sequence[int], method: str) -> Reading:
    """The laws. `cuts` are places in the answer where a read ends; any integers will do."""
    reading = read_by_us([answer], method)
    for pieces in (list(split(answer, cuts)), [answer[at : at + 1] for at in range(len(answer))]):
        other = read_by_us(pieces, method)
        assert other.verdict == reading.verdict, (reading, other)
        assert (other.status, other.headers) == (reading.status, reading.headers)
        if reading.verdict == "malformed":
            # In smaller pieces more may have been given out before the fault came; never anything else.
            assert other.body.startswith(reading.body)
        else:
            assert other.body == reading.body
    for name, read in OTHERS.items():
        theirs = read([answer], method)
        if "malformed" in (reading.verdict, theirs.verdict):
            continue
        if name == "aiohttp" and reading.verdict == "cut":
            continue  # it forgets that it reads chunks when a trailer is called Transfer-Encoding, and calls them whole
        assert theirs.verdict == reading.verdict, (name, reading, theirs)
        if reading.verdict == "whole":
            assert (theirs.status, theirs.body) == (reading.status, reading.body), name
            assert not theirs.headers or theirs.headers == reading.headers, name
    return reading


def split(answer: bytes, cuts: Sequence[int]) -> Iterator[bytes]:
    places = sorted({cut % len(answer) for cut in cuts} - {0}) if answer else []
    for begin, end in zip([0, *places], [*places, len(answer)], strict=True):
        yield answer[begin:end]


def _lower(headers: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    return [(name.lower(), value) for name, value in headers]
