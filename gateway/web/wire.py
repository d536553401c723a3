"""The connection: what aiohttp's server leaves open is closed here.

aiohttp's parser (the compiled one, 3.14.5 or newer) refuses most of what is wrong with a request's framing. This file
adds what it has no setting for (tried, 3.14.5): a clock on the head of a request (its keep-alive time is the only
bound), a limit on connections, an end for those whose callers never read what was sent last, JSON instead of HTML for
parser errors, a log that a scanner cannot fill, and a look at callers whose bodies wait: no loop tells of an end on a
connection that is not read from.
"""

import asyncio
import logging
import os
import re
import select
import time
from collections.abc import Awaitable, Callable
from typing import Any, cast

from aiohttp import http_parser, web
from aiohttp.http import HttpVersion, HttpVersion10, HttpVersion11
from aiohttp.http_exceptions import LineTooLong
from aiohttp.web_protocol import RequestHandler
from multidict import CIMultiDictProxy

from gateway.errors import Refusal, Refused, refuse, to_json
from gateway.proxy.reply import Answer, head_bytes

log = logging.getLogger("gateway.wire")

HEAD_TIMEOUT = 10.0
"""Seconds from the first byte of a request to the end of its head."""
IDLE_TIMEOUT = 75.0
"""Seconds that a kept-alive connection may say nothing; longer than a front proxy keeps its own (nginx: 60)."""
LINGER = 2.0
"""Seconds in which the rest of a refused body is read and dropped, so that the refusal is not lost to a reset."""
SWEEP = 0.5
"""Seconds between two looks at all connections."""

_HOST = re.compile(r"(?:[A-Za-z0-9._~-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?")
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")


def new_request_id() -> str:
    """Ours, on every answer: the same in our log, the engine's request and the error that a caller reports.

    A UUID (version 4, RFC 9562), because llama-cpp-python's own server refuses anything else: 400 with an empty body.
    """
    digits = os.urandom(16).hex()
    variant = "89ab"[int(digits[16], 16) & 3]
    return f"{digits[:8]}-{digits[8:12]}-4{digits[13:16]}-{variant}{digits[17:20]}-{digits[20:]}"


AIOHTTP_FLOOR: tuple[int, ...] = (3, 14, 5)
"""Older ones have known holes (GHSA-h4cc-hm5h-fmm9 and others)."""


def parser_is_compiled() -> bool:
    """The pure-Python parser lets through framing that the compiled one refuses: the gateway does not run with it."""
    return http_parser.HttpRequestParser is not http_parser.HttpRequestParserPy


def check_head(request: web.BaseRequest) -> None:
    """What the parser accepts and this gateway does not. Raises Refused, each time with the connection closed."""
    version = request.version
    if version not in (HttpVersion10, HttpVersion11):
        raise refuse("invalid_request", "This is an HTTP/1.1 server.", status=505, close=True)
    headers = request.headers
    if "Transfer-Encoding" in headers:
        _check_coding(headers, version)
    hosts = headers.getall("Host", ())
    if len(hosts) > 1 or (version == HttpVersion11 and not hosts):
        raise refuse("invalid_request", "One Host header, please.", close=True)
    if hosts and not _HOST.fullmatch(hosts[0]):
        raise refuse("invalid_request", "The Host header is not a host.", close=True)
    if "Upgrade" in headers:
        raise refuse("invalid_request", "This server upgrades to nothing.", close=True)
    if not request.raw_path.startswith("/"):
        raise refuse("invalid_request", "The request target must be a path.", close=True)
    if "Expect" in headers and [part.strip().lower() for part in headers.getall("Expect")] != ["100-continue"]:
        raise refuse("invalid_request", "Only Expect: 100-continue.", status=417, close=True)


def _check_coding(headers: CIMultiDictProxy[str], version: HttpVersion) -> None:
    if version == HttpVersion10:
        raise refuse("invalid_request", "HTTP/1.0 has no Transfer-Encoding.", close=True)
    if "Content-Length" in headers:
        raise refuse("invalid_request", "Transfer-Encoding and Content-Length together.", close=True)
    if [part.strip().lower() for part in headers.getall("Transfer-Encoding")] != ["chunked"]:
        raise refuse("invalid_request", "Only Transfer-Encoding: chunked.", status=501, close=True)


def wire_refusal(exc: BaseException | None) -> Refusal:
    """What a parser error is called. Its text is not passed on: it quotes what the client sent."""
    if isinstance(exc, LineTooLong) or "Too many headers" in str(exc):
        return refuse(
            "head_too_large", "The request line or the headers are too long (8 KiB a line, 128 headers)."
        ).refusal
    return refuse("invalid_request", "This is not a well-formed HTTP/1.1 request.", close=True).refusal


class CallerConnection(RequestHandler):
    """One caller's connection."""

    __slots__ = ("busy", "closing_since", "head_began")

    def __init__(self, server: "Server", **kwargs: Any) -> None:
        super().__init__(server, **kwargs)
        self.busy = False
        self.head_began: float | None = None
        self.closing_since: float | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        server = self._manager
        if isinstance(server, Server) and server.is_full:
            server.turn_away(cast("asyncio.Transport", transport))  # uvloop's is one, and no subclass

    def data_received(self, data: bytes) -> None:
        if not self.busy and self.head_began is None and data:
            self.head_began = self._loop.time()
        super().data_received(data)
        if self._messages:
            self.head_began = None

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """A request that could not be parsed, or a fault of ours: JSON either way, one log line a second at most."""
        if status >= 500:
            self.log_exception("a fault of the gateway's own", exc_info=exc or True)
            refusal = refuse("backend_error", "The gateway failed; the reason is in its log.", status=500).refusal
        else:
            refusal = wire_refusal(exc)
        if isinstance(self._manager, Server):
            self._manager.rejected(refusal)
        if request.writer.output_size > 0 or request.transport is None:
            raise ConnectionError("an answer has begun already")
        return refusal_answer(request, refusal)  # type: ignore[return-value]

    def log_exception(self, *args: Any, **kwargs: Any) -> None:
        if isinstance(self._manager, Server):
            self._manager.quietly(*args, **kwargs)


def refusal_answer(request: web.BaseRequest, refusal: Refusal) -> Answer:
    head = [*refusal.head(), ("X-Request-Id", new_request_id())]
    return Answer(request, refusal.status, to_json(refusal.body()), head, close=True)


def has_gone(transport: asyncio.Transport) -> bool:
    """Whether the other side has ended this connection, or its half of it. Asks the kernel."""
    poller = select.poll()
    poller.register(transport.get_extra_info("socket").fileno(), select.POLLRDHUP)
    return bool(poller.poll(0))


class Server(web.Server):
    """aiohttp's low-level server, with the defaults that a proxy for strangers needs."""

    def __init__(
        self,
        door: Callable[[web.BaseRequest], Awaitable[Any]],
        *,
        max_connections: int,
        on_reject: Callable[[Refusal], None] = lambda refusal: None,
        head_timeout: float = HEAD_TIMEOUT,
        idle_timeout: float = IDLE_TIMEOUT,
        linger: float = LINGER,
    ) -> None:
        super().__init__(
            self._enter,
            handler_cancellation=True,  # a caller who leaves ends the engine's work
            keepalive_timeout=idle_timeout,
            lingering_time=linger,
            auto_decompress=False,  # compressed bodies are refused, never inflated
            access_log=None,
            max_line_size=8190,
            max_field_size=8190,
            max_headers=128,
        )
        self._door = door
        self._max_connections = max_connections
        self._on_reject = on_reject
        self._head_timeout = head_timeout
        self._idle_timeout = idle_timeout
        self._last_log = 0.0
        self._suppressed = 0
        self._sweeper = self._loop.create_task(self._sweep())

    def __call__(self) -> RequestHandler:
        return CallerConnection(self, loop=self._loop, **self._kwargs)

    @property
    def is_full(self) -> bool:
        return len(self._connections) > self._max_connections

    def turn_away(self, transport: asyncio.Transport) -> None:
        refusal = refuse(
            "overloaded", f"MAX_CONNECTIONS ({self._max_connections}) are open already.", retry_after=5
        ).refusal
        self.rejected(refusal)
        body = to_json(refusal.body())
        head = [
            ("Content-Type", "application/json"),
            *refusal.head(),
            ("X-Request-Id", new_request_id()),
            ("Connection", "close"),
            ("Content-Length", str(len(body))),
        ]
        transport.write(head_bytes(refusal.status, head) + body)
        transport.close()

    def rejected(self, refusal: Refusal) -> None:
        self._on_reject(refusal)

    def quietly(self, *args: Any, **kwargs: Any) -> None:
        """At most one line a second, however many broken requests come; the next one says how many were left out."""
        now = time.monotonic()
        if now - self._last_log < 1.0:
            self._suppressed += 1
            return
        left_out = f" ({self._suppressed} more were not logged)" if self._suppressed else ""
        self._last_log, self._suppressed = now, 0
        message = str(args[0]) % args[1:] if args else "error"
        log.error("%s%s", message, left_out, exc_info=kwargs.get("exc_info"))

    async def _enter(self, request: web.BaseRequest) -> Any:
        connection = request.protocol
        if isinstance(connection, CallerConnection):
            connection.busy, connection.head_began = True, None
        try:
            return await self._door(request)
        except Refused as refused:  # from outside the door's own handling: nothing was sent
            return refusal_answer(request, refused.refusal)
        finally:
            if isinstance(connection, CallerConnection):
                connection.busy = False
                connection.head_began = None

    async def _sweep(self) -> None:
        """Now and then one look at all connections, instead of a timer for each."""
        while True:
            await asyncio.sleep(SWEEP)
            now = self._loop.time()
            for connection, transport in list(self._connections.items()):
                if isinstance(connection, CallerConnection):
                    try:
                        self._look_at(connection, transport, now)
                    except Exception as error:  # one odd connection must not end the look at all others
                        self.quietly("a look at a connection failed", exc_info=error)

    def _look_at(self, connection: CallerConnection, transport: asyncio.Transport, now: float) -> None:
        if transport.is_closing():
            # It waits until the caller has read the last bytes, which may be never.
            if connection.closing_since is None:
                connection.closing_since = now
            elif now - connection.closing_since > self._idle_timeout:
                transport.abort()
        elif connection.busy:
            if not transport.is_reading() and has_gone(transport):
                transport.abort()  # which cancels its handler
        elif now - (connection.head_began or now) > self._head_timeout - SWEEP:
            connection.force_close()

    async def close(self) -> None:
        self._sweeper.cancel()
        try:
            await self._sweeper
        except asyncio.CancelledError:
            pass  # as asked
