"""Bodies as they come over the wire, with raw sockets: no HTTP client hides the bytes or the timing."""

import asyncio
import json
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field

import pytest
from aiohttp import web

from gateway.errors import Refused, refuse
from gateway.proxy.bodies import Bodies, BodyLimits
from gateway.proxy.checker import Body, Checker, Image, Spool
from gateway.proxy.checks import Rules, Wanted
from gateway.proxy.media import MediaFetcher

LIMIT = 1 << 20


@dataclass
class House:
    """A server that reads JSON bodies on /json and multipart on anything else, and remembers what came of it."""

    bodies: Bodies
    port: int = 0
    seen: list[object] = field(default_factory=list)
    chunks: list[int] = field(default_factory=list)
    pause: float = 0.0
    """Seconds that the consumer of a stream takes for each chunk."""

    async def serve(self, request: web.BaseRequest) -> web.Response:
        try:
            if request.path == "/json":
                self.bodies.check_head(request, json=True)
                self.seen.append(await self.bodies.read(request, "/v1/chat/completions"))
            else:
                self.bodies.check_head(request, json=False)
                got = bytearray()
                async for chunk in self.bodies.stream(request):
                    got += chunk
                    self.chunks.append(len(chunk))
                    if self.pause:
                        await asyncio.sleep(self.pause)
                self.seen.append(bytes(got))
        except Refused as refused:
            self.seen.append(refused.refusal)
            answer = web.Response(status=refused.refusal.status)
            answer.force_close()
            return answer
        except BaseException as error:
            self.seen.append(error)
            raise
        return web.Response(status=200)

    @property
    def last(self) -> object:
        return self.seen[-1]

    @property
    def status(self) -> int:
        return getattr(self.last, "status", 200)


Opener = Callable[..., Awaitable[House]]


@pytest.fixture
async def open_house() -> AsyncIterator[Opener]:
    opened: list[tuple[House, web.Server, asyncio.Server]] = []

    async def open_one(**limits: float) -> House:
        house = House(Bodies(BodyLimits(**({"size": LIMIT} | limits)), Checker(Rules())))  # type: ignore[arg-type]
        server = web.Server(house.serve, handler_cancellation=True, auto_decompress=False, lingering_time=0)
        listening = await asyncio.get_running_loop().create_server(server, "127.0.0.1", 0)
        house.port = listening.sockets[0].getsockname()[1]
        opened.append((house, server, listening))
        return house

    yield open_one
    for house, server, listening in opened:
        listening.close()
        await server.shutdown(1)
        await house.bodies.close()


FIN, RST = "FIN", "RST"


def head(length: int | None = None, path: str = "/json", kind: str = "application/json", more: str = "") -> bytes:
    framing = f"Content-Length: {length}" if length is not None else "Transfer-Encoding: chunked"
    return f"POST {path} HTTP/1.1\r\nHost: a\r\nContent-Type: {kind}\r\n{framing}\r\n{more}\r\n".encode()


def chunked(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


async def talk(house: House, *steps: bytes | float | str, within: float = 3.0) -> bytes:
    """Send, wait, or end, step by step; the status line that came back, b"" when the connection closed without one."""
    reader, writer = await asyncio.open_connection("127.0.0.1", house.port)
    try:
        for step in steps:
            if isinstance(step, bytes):
                writer.write(step)
                await writer.drain()
                await asyncio.sleep(0.01)
            elif isinstance(step, float):
                await asyncio.sleep(step)
            elif step == FIN:
                writer.write_eof()
            else:
                reset = struct.pack("ii", 1, 0)
                writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, reset)
                writer.transport.abort()
        return (await asyncio.wait_for(reader.read(1000), within)).partition(b"\r\n")[0]
    except ConnectionError:
        return b""
    finally:
        writer.close()


def sent(house: House) -> object:
    assert isinstance(house.last, Body), house.last
    return json.loads(b"".join(house.last.chunks))


SMALL = b'{"model":"m","a":[1,2]}'


@pytest.mark.parametrize("size", [10, 5_000, 300_000, 900_000])
@pytest.mark.parametrize("pieces", [1, 7])
async def test_a_body_arrives_whole_with_a_length_or_in_chunks(open_house: Opener, size: int, pieces: int) -> None:
    house = await open_house()
    document = {"model": "m", "messages": [{"role": "user", "content": "ä" * (size // 2)}]}
    raw = json.dumps(document, ensure_ascii=False).encode()
    cuts = [raw[len(raw) * i // pieces : len(raw) * (i + 1) // pieces] for i in range(pieces)]
    assert await talk(house, head(len(raw)) + cuts[0], *cuts[1:]) == b"HTTP/1.1 200 OK"
    assert sent(house) == document
    assert (
        await talk(house, head() + chunked(cuts[0]), *map(chunked, cuts[1:]), b"0\r\nx: y\r\n\r\n")
        == b"HTTP/1.1 200 OK"
    )
    assert sent(house) == document


@pytest.mark.parametrize(
    "fields",
    [
        {"input": ["ä"] * 120_000},
        {"input": ["words " * 50] * 2_500},
        {"messages": [{"content": "words " * 60_000}, {"content": '"\n' * 90_000}, {"content": "ä" * 100_000}]},
    ],
    ids=["crowded", "many texts", "long texts"],
)
@pytest.mark.parametrize("is_chunked", [True, False])
async def test_a_large_body_arrives_as_it_is_whatever_it_is_made_of(
    open_house: Opener, fields: dict[str, object], is_chunked: bool
) -> None:
    """Set aside as it comes, or spooled for a helper from where it is too crowded for that."""
    house = await open_house(size=4 * LIMIT)
    raw = json.dumps({"model": "m"} | fields).encode()
    assert len(raw) > 600_000
    begin = head(None if is_chunked else len(raw))
    rest = chunked(raw) + b"0\r\n\r\n" if is_chunked else raw
    assert await talk(house, begin, rest, within=10.0) == b"HTTP/1.1 200 OK"
    assert sent(house) == {"model": "m"} | fields


async def test_a_connection_serves_body_after_body(open_house: Opener) -> None:
    house = await open_house()
    await talk(house, (head(len(SMALL)) + SMALL) * 3, b"")
    assert len(house.seen) == 3


@pytest.mark.parametrize(
    ("request_head", "status"),
    [
        (head(LIMIT + 1), 413),
        (head(10 << 30), 413),
        (head(5, kind="text/plain"), 415),
        (head(5, more="Content-Encoding: gzip\r\n"), 415),
        (head(5, path="/audio"), 415),
        (head(LIMIT + 1, path="/audio", kind="multipart/form-data; boundary=x"), 413),
    ],
    ids=lambda value: repr(value)[:60],
)
async def test_the_head_alone_is_refused_before_anything_is_read(
    open_house: Opener, request_head: bytes, status: int
) -> None:
    house = await open_house()
    assert (await talk(house, request_head)).split()[1] == str(status).encode()
    assert house.status == status


@pytest.mark.parametrize("path", ["/json", "/audio"])
async def test_chunks_beyond_the_limit_are_413_at_the_first_chunk_too_many(open_house: Opener, path: str) -> None:
    house = await open_house(size=100_000)
    kind = "application/json" if path == "/json" else "multipart/form-data; boundary=x"
    answer = await talk(house, head(None, path, kind), chunked(b" " * 60_000), chunked(b" " * 60_000))
    assert answer.split()[1] == b"413"
    assert house.last.code == "body_too_large"  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "steps",
    [
        (head(50) + b'{"model":"m"}', 0.05, FIN),
        (head(50) + b'{"model":"m"}', 0.05, RST),
        (head(50) + SMALL, FIN),
        (head() + chunked(SMALL), 0.05, FIN),
        (head() + chunked(SMALL), 0.05, RST),
        (head() + b"50\r\n" + SMALL, FIN),
        (head(900_000) + b"x" * 500_000, 0.05, FIN),
    ],
    ids=range(7),
)
async def test_a_body_that_ends_early_is_never_taken_for_a_body(open_house: Opener, steps: tuple[object, ...]) -> None:
    house = await open_house()
    assert b"200" not in await talk(house, *steps)  # type: ignore[arg-type]
    for _ in range(100):
        if house.seen:
            break
        await asyncio.sleep(0.01)
    assert isinstance(house.last, asyncio.CancelledError)


@pytest.mark.parametrize(
    "broken",
    [
        (chunked(b'{"model"'), b"zz\r\nx\r\n0\r\n\r\n"),
        (chunked(b'{"model"'), b"-5\r\nx\r\n0\r\n\r\n"),
        (b"5\r\nhello", b"XX0\r\n\r\n"),
        (chunked(b"{"), b"ffffffffffffffffffffff\r\n"),
        (chunked(b"{"), b"5;" + b"a" * 20_000 + b"\n"),
        (chunked(SMALL), b"0\r\n" + b"a: b\r\n" * 200 + b"\r\n"),
    ],
    ids=range(6),
)
async def test_chunk_framing_that_breaks_later_is_400_at_once(open_house: Opener, broken: tuple[bytes, bytes]) -> None:
    """aiohttp's parser tells the handler nothing then, and the body would never end."""
    house = await open_house()
    answer = await talk(house, head(), broken[0], broken[1], within=2.0)
    assert answer.split()[1] == b"400"
    assert (house.last.code, house.last.closes) == ("invalid_request", True)  # type: ignore[attr-defined]


async def test_a_body_that_stops_coming_is_408(open_house: Opener) -> None:
    house = await open_house(gap=0.2)
    assert (await talk(house, head(100) + b'{"a":')).split()[1] == b"408"
    assert house.last.code == "body_timeout"  # type: ignore[attr-defined]
    house = await open_house(gap=0.2)
    assert (await talk(house, head(100))).split()[1] == b"408"


async def test_a_body_that_dribbles_is_408_once_its_average_is_too_low(open_house: Opener) -> None:
    """One byte in time for each gap would go on for ever."""
    house = await open_house(gap=0.3, grace=0.6, rate=1000)
    steps: list[bytes | float] = [head(1000)]
    for _ in range(15):
        steps += [b" ", 0.1]
    await talk(house, *steps)  # it writes on into a closed connection, so the answer may be lost to a reset
    assert house.last.code == "body_timeout"  # type: ignore[attr-defined]


async def test_a_slow_body_that_keeps_the_average_is_served(open_house: Opener) -> None:
    house = await open_house(gap=0.3, grace=0.2, rate=1000)
    raw = b'{"model":"m"' + b" " * 5_000 + b"}"
    steps: list[bytes | float] = [head(len(raw))]
    for place in range(0, len(raw), 500):
        steps += [raw[place : place + 500], 0.05]
    assert await talk(house, *steps) == b"HTTP/1.1 200 OK"


MULTIPART = "multipart/form-data; boundary=x"


async def test_multipart_passes_through_as_it_comes(open_house: Opener) -> None:
    house = await open_house()
    data = b"--x\r\n" + bytes(range(256)) * 2_000
    assert await talk(house, head(len(data), "/audio", MULTIPART) + data[:100], data[100:]) == b"HTTP/1.1 200 OK"
    assert house.last == data
    assert len(house.chunks) > 1
    assert max(house.chunks) <= 256 * 1024


async def test_time_in_which_we_hold_a_stream_back_is_not_the_callers(open_house: Opener) -> None:
    """An engine that reads slowly must not turn its caller's upload into a 408."""
    house = await open_house(gap=0.2, grace=0.3, rate=100_000)
    house.pause = 0.35
    data = b"x" * 400_000
    assert await talk(house, head(len(data), "/audio", MULTIPART) + data, within=10.0) == b"HTTP/1.1 200 OK"
    assert house.last == data


async def test_a_stream_that_is_cut_never_ends_well(open_house: Opener) -> None:
    house = await open_house()
    await talk(house, head(1000, "/audio", MULTIPART) + b"x" * 100, 0.05, RST)
    for _ in range(100):
        if house.seen:
            break
        await asyncio.sleep(0.01)
    assert isinstance(house.last, asyncio.CancelledError)


async def test_a_request_without_a_body_is_invalid_json(open_house: Opener) -> None:
    house = await open_house()
    await talk(house, b"POST /json HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n\r\n")
    assert house.last.code == "invalid_json"  # type: ignore[attr-defined]


# -- images --------------------------------------------------------------------------------------------------------


@dataclass
class Fetcher:
    """What `media.py` is to a body: it brings images, or refuses."""

    answer: Sequence[Image] | Exception
    rooms: list[int] = field(default_factory=list)

    async def fetch(self, wanted: Sequence[Wanted], *, room: int) -> Sequence[Image]:
        self.rooms.append(room)
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


def bodies_with(fetcher: Fetcher | None) -> Bodies:
    return Bodies(BodyLimits(size=LIMIT), Checker(Rules(media_fetch=True)), media=fetcher)  # type: ignore[arg-type]


async def vision(bodies: Bodies) -> Body:
    document = {"messages": [{"content": [{"image_url": {"url": "https://a.example.org/x"}}]}]}
    return await bodies._checker.check(json.dumps(document).encode(), "/v1/chat/completions")


async def test_images_are_fetched_into_the_room_that_the_body_has_left() -> None:
    data = Spool()
    data.write(b"QQ==")
    fetcher = Fetcher([Image("image/gif", data)])
    bodies = bodies_with(fetcher)
    bare = await vision(bodies)
    body = await bodies.with_images(bare)
    assert fetcher.rooms == [LIMIT - bare.size]
    assert b"data:image/gif;base64,QQ==" in b"".join(body.chunks)
    assert await bodies.with_images(body) is body, "done once"
    body.close()


async def test_a_body_without_images_to_fetch_is_left_alone() -> None:
    bodies = bodies_with(None)
    body = await bodies._checker.check(b'{"model":"m"}', "/v1/chat/completions")
    assert await bodies.with_images(body) is body


@pytest.mark.parametrize("error", [refuse("invalid_request", "no image"), RuntimeError("a fault")], ids=repr)
async def test_a_body_whose_images_cannot_be_had_is_closed(error: Exception) -> None:
    bodies = bodies_with(Fetcher(error))
    body = await vision(bodies)
    with pytest.raises(type(error)):
        await bodies.with_images(body)
    with pytest.raises(OSError):
        body.with_model("m")


async def test_the_fetcher_is_closed_with_the_room() -> None:
    fetcher = MediaFetcher()
    session = fetcher._open()
    await bodies_with(fetcher).close()  # type: ignore[arg-type]
    assert session.closed
