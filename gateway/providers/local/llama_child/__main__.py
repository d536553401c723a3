"""`python -m gateway.providers.local.llama_child`: the socket first, then everything else; and the end.

The socket takes connections before aiohttp is imported (their bytes wait in the kernel), so that whoever starts us
never sees a refused connection.
"""

import os
import signal
import socket
import sys
from pathlib import Path

from .arguments import Options, parse

GRACE = 2.0
"""What a running answer gets to end by itself after SIGTERM: the gateway has drained before."""
TELLING = 0.5
"""For the last error events to leave."""


def main(words: list[str]) -> int:
    options = parse(words)
    try:
        listening = listen(options.socket)
    except OSError as error:
        print(f"Cannot listen on {options.socket}: {error.strerror or error}", file=sys.stderr)
        return 2
    mine = options.socket.stat()
    try:
        import asyncio

        return asyncio.run(serve(options, listening))
    finally:
        listening.close()
        remove(options.socket, mine)


def listen(path: Path) -> socket.socket:
    """For the owner only, and listening, from the moment that the file has its name. One that an earlier engine left
    behind is replaced."""
    beside = path.with_name(path.name[:-1] + "~")  # no longer than the name itself: the kernel takes 107 bytes
    beside.unlink(missing_ok=True)
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(0o177)
    try:
        listening.bind(str(beside))
    finally:
        os.umask(before)
    listening.listen(128)
    listening.setblocking(False)
    beside.replace(path)
    return listening


def remove(path: Path, mine: os.stat_result) -> None:
    """Only our own: a successor may listen under the same name already."""
    try:
        now = path.stat()
        if (now.st_ino, now.st_dev) == (mine.st_ino, mine.st_dev):
            path.unlink()
    except OSError:
        return  # gone already


async def serve(options: Options, listening: socket.socket) -> int:
    """Until SIGTERM or SIGINT (0), or a model that does not load (1)."""
    import asyncio

    from aiohttp import web

    from . import loading
    from .engine import Engine
    from .news import Board
    from .server import Server

    loop = asyncio.get_running_loop()
    ended: asyncio.Future[int] = loop.create_future()

    def end(code: int) -> None:
        if not ended.done():
            ended.set_result(code)

    board = Board(options.news_fd)

    def no_model() -> None:
        loop.call_soon_threadsafe(end, 1)

    engine = Engine(lambda brake: loading.load(options, board, brake), no_model)
    server = Server(engine, board, options.names)
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, end, 0)
    runner = web.AppRunner(
        server.application(), handler_cancellation=True, access_log=None, shutdown_timeout=TELLING, handle_signals=False
    )
    await runner.setup()
    await web.SockSite(runner, listening, backlog=128).start()
    engine.start()

    code = await ended
    if code:
        print(f"The model did not load: {board.reason} ({board.detail})", file=sys.stderr)
        return code
    server.stop()
    if board.ready:
        await asyncio.to_thread(engine.join, GRACE)
    engine.cut()
    await asyncio.to_thread(engine.join, TELLING)
    await runner.cleanup()
    return 0


if __name__ == "__main__":
    code = main(sys.argv[1:])
    sys.stderr.flush()
    # Without Python's own tidying up: the engine's thread may be deep in native code. The kernel takes everything back.
    os._exit(code)
