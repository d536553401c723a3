"""What it costs to take an engine's HTTP framing away: ours, aiohttp's compiled reader, and h11.

    python bench/answer_framing.py [--quick]

Microseconds of CPU time, the best of some rounds in which the readers take turns: a chunk of 222 bytes per read, as
engines send a token; 1 MB of such chunks in reads of 64 KiB; and what begins an answer, with all that is made for
it. aiohttp's reader is fed into its StreamReader and read out with `read_nowait`, as its client does, but without the
task that would be woken for it.
"""

import argparse
import time
from collections.abc import Callable
from functools import partial
from typing import Protocol

import h11
from aiohttp import StreamReader
from aiohttp.base_protocol import BaseProtocol
from aiohttp.client_exceptions import ClientPayloadError
from aiohttp.http_parser import HttpResponseParser

from gateway.proxy.http1 import AnswerParser

EVENT = b"data: " + b'{"choices":[{"index":0,"delta":{"content":" word"}}]}'.ljust(214) + b"\n\n"
CHUNK = b"%x\r\n%b\r\n" % (len(EVENT), EVENT)
READ = 64 * 1024
HEAD = (
    b"HTTP/1.1 200 OK\r\nserver: uvicorn\r\ndate: Sat, 21 Nov 2026 08:00:00 GMT\r\nx-request-id: 0123456789abcdef\r\n"
)
STREAM = HEAD + b"content-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n"
BODY = b'{"choices":[{"index":0,"message":{"role":"assistant","content":"..."}}]}'.ljust(600)
JSON = HEAD + b"content-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(BODY) + BODY


class Reader(Protocol):
    """One answer's."""

    def feed(self, data: bytes) -> bytes: ...


class Loop:
    """What aiohttp's reader wants of one as long as nobody waits."""

    def get_debug(self) -> bool:
        return False


LOOP = Loop()


class Aiohttps:
    def __init__(self) -> None:
        protocol = BaseProtocol(LOOP)
        self.parser = protocol._parser = HttpResponseParser(
            protocol, LOOP, 1 << 20, payload_exception=ClientPayloadError, read_until_eof=True, auto_decompress=False
        )
        self.payload: StreamReader | None = None

    def feed(self, data: bytes) -> bytes:
        messages = self.parser.feed_data(data)[0]
        if messages:
            self.payload = messages[0][1]
        return self.payload.read_nowait(-1)


class H11s:
    def __init__(self) -> None:
        self.connection = h11.Connection(h11.CLIENT)
        self.connection.send(h11.Request(method="POST", target="/", headers=[("host", "x"), ("content-length", "0")]))
        self.connection.send(h11.EndOfMessage())

    def feed(self, data: bytes) -> bytes:
        self.connection.receive_data(data)
        parts = []
        while (event := self.connection.next_event()) is not h11.NEED_DATA and type(event) is not h11.EndOfMessage:
            if type(event) is h11.Data:
                parts.append(event.data)
        return b"".join(parts)


READERS: dict[str, Callable[[], Reader]] = {"ours": AnswerParser, "aiohttp": Aiohttps, "h11": H11s}


def begun(make: Callable[[], Reader]) -> Reader:
    reader = make()
    assert reader.feed(STREAM + CHUNK) == EVENT
    return reader


def one_chunk(make: Callable[[], Reader], times: int) -> float:
    feed = begun(make).feed
    assert feed(CHUNK) == EVENT
    began = time.process_time()
    for _ in range(times):
        feed(CHUNK)
    return (time.process_time() - began) / times


def a_megabyte(make: Callable[[], Reader], times: int) -> float:
    whole = CHUNK * (1_000_000 // len(CHUNK))
    reads = [whole[at : at + READ] for at in range(0, len(whole), READ)]
    feed = begun(make).feed
    began = time.process_time()
    for _ in range(max(1, times // 1000)):
        got = sum(len(feed(read)) for read in reads)
    assert got == len(whole) // len(CHUNK) * len(EVENT)
    return (time.process_time() - began) / max(1, times // 1000)


def an_answer(make: Callable[[], Reader], times: int, *, answer: bytes, body: bytes, setup: bool) -> float:
    """`setup`: of it only what is made before the first byte."""
    readers = [make for _ in range(times // 10)]
    began = time.process_time()
    if setup:
        for each in readers:
            each()
    else:
        for each in readers:
            got = each().feed(answer)
        assert got == body
    return (time.process_time() - began) / len(readers)


ROWS: dict[str, Callable[[Callable[[], Reader], int], float]] = {
    "a chunk of 222 bytes in a read of its own": one_chunk,
    "1 MB of such chunks, in reads of 64 KiB": a_megabyte,
    "a JSON answer of 600 bytes in one read": partial(an_answer, answer=JSON, body=BODY, setup=False),
    "  of that: before the first byte": partial(an_answer, answer=JSON, body=BODY, setup=True),
    "a stream's head, and its first chunk": partial(an_answer, answer=STREAM + CHUNK, body=EVENT, setup=False),
}


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    options.add_argument("--quick", action="store_true", help="fewer rounds")
    rounds, times = (3, 2_000) if options.parse_args().quick else (15, 20_000)
    print(f"{'µs of CPU time':<46}" + "".join(f"{name:>10}" for name in READERS))
    for what, work in ROWS.items():
        best = dict.fromkeys(READERS, float("inf"))
        for _ in range(rounds):
            for name, make in READERS.items():
                best[name] = min(best[name], work(make, times if name != "h11" else times // 10))
        print(f"{what:<46}" + "".join(f"{best[name] * 1e6:>10.2f}" for name in READERS))


if __name__ == "__main__":
    main()
