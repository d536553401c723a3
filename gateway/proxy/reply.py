"""One Reply per caller owns everything that this caller hears, and in which order.

    open ──► committed (200 text/event-stream, comments) ──► piping (the engine's bytes) ──► ended
      └──── a complete answer at once ─────────────────────────────────────────────────┘

Whoever carries the request only says what happened; the Reply decides between a status line, a heartbeat, bytes, an
error event and a cut. So there is never a second status line in a body, never a cut stream that looks whole.

It writes the head and the chunk framing itself: a chunked answer ends with `0\\r\\n\\r\\n`, and a stream that failed
must end without it. To aiohttp's server it is the response object (`status`, `keep_alive`, `prepare`, `write_eof`).
"""

import asyncio
import enum
import fcntl
import re
import struct
import termios
import time
from collections.abc import Collection, Iterable
from email.utils import formatdate
from http import HTTPStatus

from aiohttp import web
from aiohttp.http import HttpVersion11

from gateway.errors import Refusal, to_json
from gateway.proxy.dialects import Dialect
from gateway.proxy.loading_text import LoadingText
from gateway.proxy.usage import Usage

EVENT_STREAM = "text/event-stream; charset=utf-8"
STREAM_HEADERS = (("Cache-Control", "no-cache"), ("X-Accel-Buffering", "no"))
BODILESS = frozenset({204, 304})
"""Statuses of answers that have no body and no word about its length (RFC 9110, 8.6; RFC 9112, 6.3)."""
LOOKS = 4
"""Times within WRITE_TIMEOUT that we look whether a caller who is behind has taken something since."""
_ENDS_A_LINE = re.compile(r"[\r\n\0]")


class CallerLeft(ConnectionError):
    """The caller is gone. Nothing more can be said to it."""


class ReadsNothing(CallerLeft):
    """It did not take what was said for WRITE_TIMEOUT, and was let go."""


class Phase(enum.Enum):
    OPEN = "open"
    COMMITTED = "committed"
    PIPING = "piping"
    ENDED = "ended"


_STATUS_LINES = {status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n" for status in HTTPStatus}


def _status_line(status: int) -> str:
    return _STATUS_LINES.get(status) or f"HTTP/1.1 {status} Unknown\r\n"


def head_bytes(status: int, headers: Collection[tuple[str, str]]) -> bytes:
    """A status line and headers. The reason phrase is ours: a backend's never passes (header splitting)."""
    lines = [f"{name}: {value}\r\n" for name, value in headers]
    text = "".join(lines)
    if not (text.count("\r") == text.count("\n") == len(lines)) or "\0" in text:
        # A header that would end the head early is not worth its value.
        text = "".join(f"{name}: {value}\r\n" for name, value in headers if not _ENDS_A_LINE.search(f"{name}{value}"))
    return f"{_status_line(status)}{text}\r\n".encode("utf-8", "replace")


class Answer:
    """A complete answer, in the shape that aiohttp's server asks for: one head, one body, one write."""

    def __init__(
        self,
        request: web.BaseRequest,
        status: int,
        body: bytes,
        headers: Iterable[tuple[str, str]] = (),
        *,
        content_type: str = "application/json",
        close: bool = False,
    ) -> None:
        self.status = status
        self.keep_alive = bool(request.keep_alive) and not close
        self._transport = request.transport
        head = [("Content-Type", content_type), *headers, *common_headers(self.keep_alive, request)]
        if status not in BODILESS:
            head.append(("Content-Length", str(len(body))))
        self._bytes = head_bytes(status, head)
        if status not in BODILESS and request.method != "HEAD":
            self._bytes += body

    async def prepare(self, request: web.BaseRequest) -> None:
        if self._transport is None or self._transport.is_closing():
            raise CallerLeft
        self._transport.write(self._bytes)  # small, and the last on its connection: nobody waits until it is read

    async def write_eof(self, data: bytes = b"") -> None:
        """Everything was written by `prepare`."""


_date = (0, "")


def http_date() -> str:
    """The Date header (RFC 9110, 6.6.1), made once a second."""
    global _date
    now = int(time.time())
    if _date[0] != now:
        _date = (now, formatdate(now, usegmt=True))
    return _date[1]


def common_headers(keep_alive: bool, request: web.BaseRequest) -> list[tuple[str, str]]:
    headers = [("Date", http_date())]
    if not keep_alive:
        headers.append(("Connection", "close"))
    elif request.version != HttpVersion11:
        headers.append(("Connection", "keep-alive"))
    return headers


def _untaken(transport: asyncio.Transport | None) -> int:
    """Bytes that were said and have not reached the caller's machine: ours, and what the kernel still has of them."""
    if transport is None:
        return 0
    ours, in_kernel, wire = transport.get_write_buffer_size(), 0, transport.get_extra_info("socket")
    if wire is not None:
        try:
            (in_kernel,) = struct.unpack("i", fcntl.ioctl(wire.fileno(), termios.TIOCOUTQ, bytes(4)))
        except (OSError, ValueError):
            pass  # it is closed, as whoever waits for it hears
    return ours + int(in_kernel)


class Reply:
    """What one caller hears. Made when its head was read, ended exactly once."""

    __slots__ = (
        "_bodiless",
        "_chunked",
        "_clock",
        "_declared",
        "_frames",
        "_is_event_stream",
        "_phase",
        "_protocol",
        "_request",
        "_transport",
        "_unsent",
        "_write_timeout",
        "bytes_sent",
        "dialect",
        "events",
        "extra",
        "first_byte_at",
        "first_token_at",
        "goes_on",
        "keep_alive",
        "loading_text",
        "longest_gap",
        "next_sequence",
        "refused",
        "request_id",
        "status",
        "streams",
        "timings",
        "usage",
    )

    def __init__(self, request: web.BaseRequest, dialect: Dialect, *, request_id: str, write_timeout: float) -> None:
        self.request_id = request_id
        self.dialect = dialect
        self.keep_alive = bool(request.keep_alive)
        self.timings: dict[str, float] = {}
        """Seconds by phase (line, wake, prefill), told to the caller in Server-Timing."""
        self._request = request
        self._transport = request.transport  # aiohttp forgets its own when the caller leaves
        self._protocol = request.protocol
        self._chunked = request.version >= HttpVersion11
        self._bodiless = request.method == "HEAD"
        self._write_timeout = write_timeout
        self.streams = False
        """Whether the caller asked for an event stream: only then may it be committed before the engine answers."""
        self.status = 0
        self.bytes_sent = 0
        """Of the body, heartbeats and events of our own included; without the framing."""
        self.first_byte_at: float | None = None
        """Loop time of the answer's first byte; the company that a waiting stream is kept is none."""
        self.first_token_at: float | None = None
        """Loop time of the first event that says something."""
        self.longest_gap = 0.0
        """Seconds between two reads of a stream."""
        self.events = 0
        """Of the engine's, passed on: about as many as tokens, where it does not count them itself."""
        self.goes_on = False
        """Whether the engine's answer goes on after its caller left, to nobody (CANCEL_ON_DISCONNECT=false)."""
        self.loading_text: LoadingText | None = None
        """Shown while it is held, where chat pages show such a thing (LOADING_TEXT); None: comments say it."""
        self.refused: Refusal | None = None
        self.next_sequence = 0
        """The number of an event of our own after what was passed on (`/v1/responses` counts its events)."""
        self.extra: tuple[tuple[str, str], ...] = ()
        """Headers of every answer to this caller, errors included: what a browser asks for, what is left of a limit."""
        self.usage: Usage | None = None
        """Tokens that the engine says it read and wrote for this answer."""
        self._phase = Phase.OPEN
        self._is_event_stream = False
        self._frames = False
        """Whether what is said is put into chunks: decided with the head."""
        self._declared: int | None = None
        self._unsent = b""
        """The head of an answer whose first bytes may go with it."""
        self._clock = asyncio.get_running_loop().time

    def __repr__(self) -> str:
        return f"<Reply {self.request_id} {self._phase.value} {self.status or '-'} {self.bytes_sent} B>"

    # -- what aiohttp's server asks of a response ----------------------------------------------

    async def prepare(self, request: web.BaseRequest) -> None:
        """The head went out with the first thing that was said."""

    async def write_eof(self, data: bytes = b"") -> None:
        if self._phase is not Phase.ENDED:  # a handler that returned without an ending: never let it look complete
            self.cut()

    # -- what may be said ----------------------------------------------------------------------

    @property
    def is_open(self) -> bool:
        """Nothing was said yet: a status line is still possible."""
        return self._phase is Phase.OPEN

    @property
    def may_begin(self) -> bool:
        """Nothing of an answer was said yet, at most company: whose answer it will be is open."""
        return self._phase in (Phase.OPEN, Phase.COMMITTED)

    @property
    def is_over(self) -> bool:
        return self._phase is Phase.ENDED

    @property
    def is_left(self) -> bool:
        """Nobody is there to hear it."""
        return self._transport is None or self._transport.is_closing()

    async def answer(
        self,
        status: int,
        body: bytes,
        headers: Iterable[tuple[str, str]] = (),
        *,
        content_type: str = "application/json",
    ) -> None:
        """A complete answer: head and body in one write."""
        self._expect(Phase.OPEN)
        self._declared = len(body)
        head = self._head(status, content_type, headers)
        self._phase = Phase.ENDED
        self._send(head + self._framed(body))
        self.first_byte_at = self._clock()
        if self._protocol.writing_paused:
            await self.drain()

    async def refuse(self, refusal: Refusal) -> None:
        """The bad news, as this phase and this route's dialect can still say it; lost on who has left already."""
        if self._phase is Phase.ENDED:
            return
        self.refused = refusal
        try:
            await self._refuse(refusal)
        except CallerLeft:
            self.cut()

    async def _refuse(self, refusal: Refusal) -> None:
        if self._phase is Phase.OPEN:
            if refusal.closes or not self._request.content.is_eof():
                self.keep_alive = False  # an unread body must never be read as the next request
            await self.answer(refusal.status, to_json(self.dialect.error_body(refusal)), refusal.head())
        elif self._is_event_stream:
            await self._last_words(self.dialect.error_event(refusal, sequence=self.next_sequence))
        else:
            self.cut()

    def show_loading(self, model: str) -> None:
        """From here on what keeps it company is also shown, as chunks of the model that the caller named."""
        self.loading_text = LoadingText(f"chatcmpl-{self.request_id}", model=model, created=int(time.time()))

    async def heartbeat(self, text: str) -> None:
        """What keeps a waiting stream alive: a comment, or what chat pages show when it has changed. Commits an open
        stream; says nothing to who asked for none."""
        if self._phase is Phase.OPEN and self.streams:
            self._unsent = self._stream_head(200, ())
            self._phase = Phase.COMMITTED
        elif not self._is_event_stream or self._phase is Phase.ENDED:
            return
        shown = self.loading_text
        event = shown.event(text) if shown is not None and self._phase is Phase.COMMITTED else None
        await self._write(self._framed(event or self.dialect.heartbeat(text)))

    def begin_now(self, status: int, headers: Iterable[tuple[str, str]], *, length: int | None) -> None:
        """The engine's head, kept until there are bytes to go with it, or until `flush`. `length` is its
        Content-Length, None when it has none."""
        content_type = next((value for name, value in headers if name.lower() == "content-type"), "")
        rest = [(name, value) for name, value in headers if name.lower() != "content-type"]
        if content_type.partition(";")[0].strip().lower() != "text/event-stream":
            self._expect(Phase.OPEN)
            self._declared = length
            self._unsent = self._head(status, content_type or "application/octet-stream", rest)
        elif self._phase is Phase.OPEN:
            self._unsent = self._stream_head(status, rest, content_type)
        else:
            self._expect(Phase.COMMITTED)
            if self.loading_text is not None and self.loading_text.has_begun:
                self._unsent += self._framed(self.loading_text.ready())
        self._phase = Phase.PIPING

    def pass_now(self, data: bytes, framed: bytes | None = None) -> bool:
        """The engine's bytes: for a stream whole events, so that an event of our own may always follow. Returns
        whether the caller keeps up; if not, `drain` before there is more.

        `framed`: the same bytes as one chunk, where the engine framed them as we would. Raises CallerLeft.
        """
        if self._phase is not Phase.PIPING:
            self._expect(Phase.PIPING)
        if data:
            if self.first_byte_at is None:
                self.first_byte_at = self._clock()
            if framed is None or not self._frames:
                framed = self._framed(data)
            else:
                self.bytes_sent += len(data)
            self._send(framed)
        return not self._protocol.writing_paused or (self.goes_on and self.is_left)

    async def flush(self) -> None:
        """See to it that the head is out, and that what was said is on its way."""
        if self._unsent:
            self._send(b"")
        if self._protocol.writing_paused:
            await self.drain()

    async def drain(self) -> None:
        """Until the caller has read enough for more. Raises CallerLeft; ReadsNothing, which a slow one is not: there is
        room again only when a good part of the kernel's buffer was read, megabytes that may take it minutes."""
        try:
            await self._drain()
        except CallerLeft:
            if not self.goes_on:
                raise

    async def _drain(self) -> None:
        loop, step = asyncio.get_running_loop(), self._write_timeout / LOOKS
        untaken, in_vain = _untaken(self._transport), 0
        next_look: asyncio.TimerHandle

        def look() -> None:
            nonlocal untaken, in_vain, next_look
            before, untaken = untaken, _untaken(self._transport)
            in_vain = 0 if untaken < before else in_vain + 1
            if in_vain < LOOKS:
                next_look = loop.call_later(step, look)
            else:
                patience.reschedule(self._clock())

        try:
            async with asyncio.timeout(None) as patience:
                next_look = loop.call_later(step, look)
                try:
                    await self._request.writer.drain()
                finally:
                    next_look.cancel()
        except TimeoutError as error:
            if self.goes_on and self._transport is not None:
                self._transport.abort()
            else:
                self.cut()
            raise ReadsNothing(f"read nothing for {self._write_timeout:g} s") from error
        except (ConnectionError, RuntimeError) as error:  # RuntimeError: uvloop's, after the connection was lost
            raise CallerLeft from error

    async def finish(self) -> None:
        """The engine said everything."""
        self._expect(Phase.PIPING)
        self._phase = Phase.ENDED
        if self._frames:
            await self._write(b"0\r\n\r\n")
        else:
            await self.flush()

    def cut(self) -> None:
        """End the connection so that nobody takes what was sent for complete."""
        self._phase = Phase.ENDED
        self.keep_alive = False
        if self._transport is not None:
            self._transport.abort()

    # -- how it is said ------------------------------------------------------------------------

    def _expect(self, phase: Phase) -> None:
        if self._phase is not phase:
            raise RuntimeError(f"{self!r} cannot go on from here: expected {phase.value}")

    def _head(self, status: int, content_type: str, headers: Iterable[tuple[str, str]]) -> bytes:
        self.status = status
        has_length = status not in BODILESS  # the answer to HEAD has one, although no body follows
        self._bodiless = self._bodiless or not has_length
        head = [("Content-Type", content_type)] if has_length else []
        head += headers
        head += self.extra
        head.append(("X-Request-Id", self.request_id))
        if self.timings:
            marks = [f"{name};dur={seconds * 1000:.1f}" for name, seconds in self.timings.items()]
            head.append(("Server-Timing", ", ".join(marks)))
        if has_length and self._declared is not None:
            head.append(("Content-Length", str(self._declared)))
        elif has_length and self._chunked:
            self._frames = not self._bodiless
            head.append(("Transfer-Encoding", "chunked"))
        elif has_length:
            self.keep_alive = False  # HTTP/1.0 without a length: the end of the connection is the end of the body
        head += common_headers(self.keep_alive, self._request)
        return head_bytes(status, head)

    def _stream_head(self, status: int, headers: Iterable[tuple[str, str]], content_type: str = EVENT_STREAM) -> bytes:
        self._is_event_stream = True
        self._declared = None
        return self._head(status, content_type, [*headers, *STREAM_HEADERS])

    async def _last_words(self, event: bytes) -> None:
        """An error event, then the end of the connection without the last chunk: SDKs take a clean end for success."""
        self._phase = Phase.ENDED
        self.keep_alive = False
        await self._write(self._framed(event))
        if self._transport is not None:
            self._transport.close()  # not abort: the event must still arrive

    def _framed(self, data: bytes) -> bytes:
        if self._bodiless:
            return b""
        self.bytes_sent += len(data)
        return b"%x\r\n%b\r\n" % (len(data), data) if self._frames else data

    async def _write(self, data: bytes) -> None:
        self._send(data)
        if self._protocol.writing_paused:
            await self.drain()

    def _send(self, data: bytes) -> None:
        transport = self._transport
        if transport is None or transport.is_closing():
            if self.goes_on:
                return
            raise CallerLeft
        if self._unsent:
            data, self._unsent = self._unsent + data, b""
        try:
            transport.write(data)
        except (ConnectionError, RuntimeError) as error:  # RuntimeError: uvloop's, after the connection was lost
            raise CallerLeft from error
