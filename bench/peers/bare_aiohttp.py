"""The least that can be built of the parts that the gateway is built of: aiohttp's server, uvloop, Python.

    python bench/peers/bare_aiohttp.py PORT ENGINE_PORT    passes everything on and looks at nothing
    python bench/peers/bare_aiohttp.py PORT                answers by itself, as the fake engine would

It has no router, no response object of aiohttp's, no key, no check, no limit, no log, and no way for anything that goes
wrong; an answer goes from the engine's connection to the caller's as it was read, head included. So it is nothing to be
used, but a floor: what it costs, everything on these parts costs.
"""

import asyncio
import sys
from collections.abc import Awaitable, Callable

from aiohttp import web

LAST = b"\r\n0\r\n\r\n"
"""How the fake engine ends a stream."""


class Said:
    """What aiohttp's server asks of a response, for an answer that is out already."""

    status = 200

    def __init__(self, request: web.BaseRequest) -> None:
        self.keep_alive = request.keep_alive

    async def prepare(self, request: web.BaseRequest) -> None: ...

    async def write_eof(self) -> None: ...


Handler = Callable[[web.BaseRequest], Awaitable[Said]]


class EngineConnection(asyncio.Protocol):
    """One kept connection: what it says goes to the caller at once."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def ask(self, request: bytes, caller: asyncio.Transport) -> asyncio.Future[None]:
        self.caller = caller
        self.left: int | None = None
        self.answered = asyncio.get_running_loop().create_future()
        self.transport.write(request)
        return self.answered

    def data_received(self, data: bytes) -> None:
        if not self.caller.is_closing():
            self.caller.write(data)
        if self.left is None:
            head, _, data = data.partition(b"\r\n\r\n")
            _, found, length = head.partition(b"Content-Length: ")
            self.left = int(length.partition(b"\r\n")[0]) if found else 0
        if self.left:
            self.left -= len(data)
            ends = self.left == 0
        else:
            ends = data.endswith(LAST)
        if ends and not self.answered.done():
            self.answered.set_result(None)


def passing_on(engine: int) -> Handler:
    idle: list[EngineConnection] = []
    front = "POST {} HTTP/1.1\r\nHost: engine\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n"

    async def told(request: web.BaseRequest) -> bytes:
        body = await request.content.read()  # request.read() would keep it until the answer ends
        return front.format(request.raw_path, len(body)).encode() + body

    async def handle(request: web.BaseRequest) -> Said:
        if idle:
            connection = idle.pop()
        else:
            loop = asyncio.get_running_loop()
            _, connection = await loop.create_connection(EngineConnection, "127.0.0.1", engine)
        await connection.ask(await told(request), request.transport)
        idle.append(connection)
        return Said(request)

    return handle


def answering() -> Handler:
    """Counts as the fake engine does, for those who compare (GET /bench)."""
    posts = 0
    known, answer = b"", b""

    async def handle(request: web.BaseRequest) -> Said:
        nonlocal posts, known, answer
        body = await request.read()
        if request.method == "GET":
            request.transport.write(with_head(b'{"posts":%d}' % posts))
            return Said(request)
        posts += 1
        if body != known:
            known, answer = body, with_head(answer_to(body))
        request.transport.write(answer)
        return Said(request)

    return handle


def answer_to(body: bytes) -> bytes:
    """1 KB, as make_answer in bench/load/wire.h has it."""
    front = (
        b'{"id":"bench","object":"chat.completion","created":1795000000,"model":"bench","choices":[{"index":0,'
        b'"finish_reason":"stop","message":{"role":"assistant","content":"%d bytes, sum %d '
    )
    back = b'"}}],"usage":{"prompt_tokens":7,"completion_tokens":3,"total_tokens":10}}'
    return (front % (len(body), sum(body))).ljust(1024 - len(back), b"x") + back


def with_head(body: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)


async def serve(port: int, handler: Handler) -> None:
    server = web.Server(handler, access_log=None)
    await asyncio.get_running_loop().create_server(server, "127.0.0.1", port, backlog=4096)
    await asyncio.Event().wait()


def main() -> None:
    try:
        from uvloop import new_event_loop
    except ImportError:
        new_event_loop = asyncio.new_event_loop  # which costs more
    handler = passing_on(int(sys.argv[2])) if len(sys.argv) > 2 else answering()
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        runner.run(serve(int(sys.argv[1]), handler))


if __name__ == "__main__":
    main()
