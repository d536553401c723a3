"""Takes in what callers send: JSON whole, within its limits and checked; multipart as a stream that is never held.

The body clock is ours, because aiohttp has none: a body that stops for `gap` seconds, or that after `grace` seconds
came slower than `rate` on average, is 408. Time in which we do not ask for more (the engine reads slowly) does not
count.

What the server's parser tells us about a body, tried with raw sockets on aiohttp 3.14.5 (asyncio and uvloop alike):

1. complete: the stream ends; Content-Length is then exactly met, trailers are gone.
2. FIN or RST before the end: the handler's task is cancelled (`handler_cancellation=True`). Nothing can be answered,
   the transport is closed already; nothing was forwarded, because nothing is before the end.
3. broken chunk framing in the first read with the head: never reaches a handler, aiohttp answers 400.
4. broken chunk framing in a later read: **nothing at all is told to the handler**. aiohttp queues an error as if it
   were the next request, and the body never ends. `_is_broken` looks at that queue while it waits.
5. `Expect: 100-continue`: the low-level server sends no 100 by itself. `Arrival` does, when it first has to wait for
   the body: by then everything that can be refused without it was not refused, and an upload has its engine.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

from aiohttp import web
from aiohttp.http import HttpVersion11
from aiohttp.http_exceptions import HttpProcessingError, PayloadEncodingError

from gateway.errors import Refused, refuse
from gateway.proxy.checker import Body, Checker, Spool, spooled
from gateway.proxy.checks import boundary_of, check_type
from gateway.proxy.media import MediaFetcher
from gateway.proxy.reply import CallerLeft
from gateway.proxy.sieve import Sieve

SMALL = 64 * 1024
"""Bytes of a body that is checked in one piece."""
LOOK = 0.25
"""Seconds between two looks for a body whose framing broke while it came."""


@dataclass(frozen=True, slots=True)
class BodyLimits:
    """Bytes and seconds."""

    size: int
    gap: float = 10.0
    grace: float = 30.0
    rate: int = 64 * 1024
    """Bytes per second on average, once `grace` is over."""


class Arrival(AsyncIterator[bytes]):
    """One body as it comes, under the clock and the size limit. Not restarted: go through it once."""

    def __init__(self, request: web.BaseRequest, limits: BodyLimits) -> None:
        self._request = request
        self._content = request.content
        self._limits = limits
        self._declared = request.content_length if "Content-Length" in request.headers else None
        self._clock = asyncio.get_running_loop().time
        self._began = self._last = self._gave = self._clock()
        self._is_held_back = "Expect" in request.headers and request.version >= HttpVersion11
        """The caller sends no body before it is asked to (RFC 9110, 10.1.1)."""
        self._peeked: bytes | None = None
        self.size = 0

    def __repr__(self) -> str:
        return f"<Arrival {self.size} of {self._declared or 'unknown'} bytes>"

    async def __anext__(self) -> bytes:
        chunk = await self.next()
        if not chunk:
            raise StopAsyncIteration
        return chunk

    async def next(self) -> bytes:
        """The next bytes; b"" after the last. Raises Refused or CallerLeft."""
        if self._peeked is not None:
            chunk, self._peeked = self._peeked, None
            return chunk
        try:
            chunk = b"" if self._content.is_eof() and self._content.at_eof() else await self._wait()
        except (PayloadEncodingError, HttpProcessingError) as error:
            raise _broken() from error
        except OSError as error:
            raise CallerLeft("in the middle of the body") from error
        self.size += len(chunk)
        if self.size > self._limits.size:
            raise too_large(self._limits.size)
        if not chunk and self._declared is not None and self.size != self._declared:
            raise CallerLeft("before the end of the body")
        self._last = self._gave = self._clock()
        return chunk

    async def peek(self) -> bytes:
        """The first bytes, before anybody wants them: `next` gives them again. Raises what that raises."""
        self._peeked = await self.next()
        return self._peeked

    async def _wait(self) -> bytes:
        held_back = self._clock() - self._gave
        self._began += held_back
        self._last += held_back
        while self._content.total_bytes <= self.size:  # all that came was taken
            self._ask()
            now = self._clock()
            if now >= self._deadline():
                raise refuse(
                    "body_timeout", f"The body came too slowly: {self.size} bytes in {now - self._began:.0f} s."
                )
            if _is_broken(self._request):
                raise _broken()
            try:
                async with asyncio.timeout(min(LOOK, self._deadline() - now)):
                    return await self._take()
            except TimeoutError:
                continue
        return await self._take()

    async def _take(self) -> bytes:
        """One read as it came, where the parser keeps them apart: three of them joined are a copy of each byte. With
        chunks it would give one after the other, however small they are."""
        return await self._content.readany() if self._declared is None else (await self._content.readchunk())[0]

    def _ask(self) -> None:
        transport = self._request.transport
        if self._is_held_back and transport is not None and not transport.is_closing():
            self._is_held_back = False
            transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def _deadline(self) -> float:
        """When patience ends if nothing more comes: a gap too long, or an average too low."""
        limits = self._limits
        return min(self._last + limits.gap, self._began + max(limits.grace, self.size / limits.rate))


def _is_broken(request: web.BaseRequest) -> bool:
    """Whether the parser gave up in this body. While a body is incomplete nothing can be parsed behind it, so what
    stands in the connection's queue is an error (aiohttp 3.14; a test states it)."""
    return not request.content.is_eof() and bool(getattr(request.protocol, "_messages", None))


def _broken() -> Refused:
    return refuse("invalid_request", "The framing of the body is broken.", close=True)


def too_large(limit: int) -> Refused:
    return refuse("body_too_large", f"The body is larger than MAX_REQUEST_BODY_SIZE ({limit} bytes).")


class Bodies:
    """The room's front: what the door calls."""

    def __init__(
        self,
        limits: BodyLimits,
        checker: Checker,
        *,
        media: MediaFetcher | None = None,
        on_repair: Callable[[int], None] = lambda count: None,
    ) -> None:
        """`media` is needed when the checker's rules have `media_fetch`; `on_repair` hears of each body in which lone
        surrogates became U+FFFD, and how many."""
        self._limits = limits
        self._checker = checker
        self._media = media
        self._on_repair = on_repair

    def check_head(self, request: web.BaseRequest, *, json: bool) -> None:
        """415 and 413 before a byte of the body is read or a 100 is sent."""
        headers = request.headers
        check_type(headers.getall("Content-Type", ()), headers.getall("Content-Encoding", ()), multipart=not json)
        length = request.content_length if "Content-Length" in headers else None
        if length is not None and length > self._limits.size:
            raise too_large(self._limits.size)

    async def read(self, request: web.BaseRequest, route: str) -> Body:
        """The whole JSON body, checked. Nothing larger than a small body becomes one object on the way."""
        if (whole := self._here(request)) is not None:
            return await self._check(whole, route)
        arrival = Arrival(request, self._limits)
        parts: list[bytes] = []
        while arrival.size <= SMALL:
            chunk = await arrival.next()
            if not chunk:
                return await self._check(b"".join(parts), route)
            parts.append(chunk)
        sieve = self._checker.sieve()
        for part in parts:
            sieve.take(part)
        parts.clear()
        while not sieve.has_given_up:
            chunk = await arrival.next()
            if not chunk:
                sieve.finish()
                return await self._check(sieve, route)
            sieve.take(chunk)
        spool = spooled(sieve.pieces())
        del sieve  # a spool that is not checked closes with its last reference
        while chunk := await arrival.next():
            spool.write(chunk)
        return await self._check(spool, route)

    def _here(self, request: web.BaseRequest) -> bytes | None:
        """A small body that came with its head, as most do: no clock and no wait is needed for it."""
        content, declared = request.content, request.headers.get("Content-Length")
        if not content.is_eof() or content.exception() is not None or declared is None:
            return None
        size = int(declared)
        if size > SMALL or size > self._limits.size:
            return None
        whole = content.read_nowait()
        if len(whole) != size:
            raise CallerLeft("before the end of the body")
        return whole

    async def _check(self, raw: bytes | Sieve | Spool, route: str) -> Body:
        body = await self._checker.check(raw, route)
        if body.facts.repaired:
            self._on_repair(body.facts.repaired)
        return body

    async def with_images(self, body: Body) -> Body:
        """The body with what it wants to have fetched; nearly always the same. Only after key and limits were checked:
        it makes the gateway knock at a stranger's door. Raises Refused. Takes the body over: it is closed unless one
        comes of it."""
        if not body.wanted:
            return body
        try:
            if self._media is None:
                raise RuntimeError("images are wanted, and nobody is there to fetch them")
            return body.filled(await self._media.fetch(body.wanted, room=self._limits.size - body.size))
        except BaseException:
            body.close()
            raise

    def stream(self, request: web.BaseRequest) -> Arrival:
        """A body that passes through as it comes, under the same clock and limit; nothing of it is held."""
        return Arrival(request, self._limits)

    async def stream_begun(self, request: web.BaseRequest) -> Arrival:
        """The same, once it is seen that it begins as one of its type does: what does not wakes no engine. Nobody sends
        the preamble that RFC 2046 allows."""
        arrival = self.stream(request)
        begin = b"--" + boundary_of(request.headers.get("Content-Type", ""))
        first = await arrival.peek()
        if not first or not begin.startswith(first.lstrip(b"\r\n")[: len(begin)]):
            said = "The body does not begin with the boundary that Content-Type names."
            raise refuse("invalid_request", said, close=True)
        return arrival

    async def close(self) -> None:
        await self._checker.close()
        if self._media is not None:
            await self._media.close()
