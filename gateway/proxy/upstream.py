"""Speaks to the engine: one request out, its answer into a Reply, behind one call: `pipe(call, reply)`.

What stands behind the call is aiohttp's client for now; the callers of `pipe` do not know. Its defaults are overridden
where they are wrong for a proxy: no redirects, no cookies, no retries, no decompression, no total time limit, and a
fresh connection for each request, because engines close connections that they promised to keep (llama-server after
every streamed answer) and a POST that may have run is never sent twice.

Every failure leaves as a `Refused`, typed by whose fault it is, so that nothing of aiohttp is known outside this file.
"""

import asyncio
import errno
import json
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field

import aiohttp
from yarl import URL

from gateway.errors import Refused, refuse
from gateway.providers.base import Endpoint
from gateway.proxy.dialects import StreamWatch, lost_in
from gateway.proxy.framing import EventCutter
from gateway.proxy.headers import answer_headers, error_from_engine
from gateway.proxy.reply import CallerLeft, Reply
from gateway.proxy.usage import UsageWatch, usage_in

GATHER = 64 * 1024
"""Bytes of an answer that is not a stream that are gathered before its head goes out: one that breaks off earlier is a
clean 502, and most answers leave in one write."""

TAIL = 4096
"""Bytes at the end of a long answer in which an engine that is going down says so."""

ERROR_BODY_MAX = 64 * 1024


class Unreached(Exception):
    """Nothing of the request can have been read by the engine: it may be sent again."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Seconds, each for one wait."""

    connect: float
    first_byte: float
    """From the request until a stream's first event."""
    answer: float
    """The whole of an answer that does not stream."""
    gap: float
    """Between two reads of a stream."""
    heartbeat: float
    """How long a stream's caller hears nothing."""


@dataclass(slots=True)
class Call:
    """One request as it will be sent: checked, and built rather than copied."""

    method: str
    path: str
    headers: list[tuple[str, str]]
    body: Sequence[bytes] | AsyncIterator[bytes] = field(default=(), repr=False)
    length: int | None = None
    """Content-Length; None with an iterator of unknown length."""
    choices: int = 1
    """How many answers were asked for: a stream has ended properly when each has."""


class Upstream:
    """One endpoint. Close it when its instance is gone."""

    def __init__(self, endpoint: Endpoint, limits: Limits) -> None:
        self._endpoint = endpoint
        self._limits = limits
        self._base = endpoint.url + endpoint.prefix
        connector: aiohttp.BaseConnector
        if endpoint.socket is not None:
            connector = aiohttp.UnixConnector(endpoint.socket, force_close=True, limit=0)
        else:
            # TLS is verified, with a context that aiohttp made when it was imported: to make one takes 25 ms.
            connector = aiohttp.TCPConnector(force_close=True, limit=0, ssl=True)
        self._session = aiohttp.ClientSession(
            connector=connector,
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=limits.connect),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            trust_env=False,
            skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding", "Content-Type"),
            max_line_size=8190,
            max_field_size=8190,
        )
        self._session._retry_connection = False  # it has no public name; aiohttp's own test client sets it, too

    def __repr__(self) -> str:
        return f"<Upstream {self._endpoint.socket or self._base}>"

    async def close(self) -> None:
        await self._session.close()

    async def pipe(self, call: Call, reply: Reply) -> None:
        """Send the call and carry its answer into the reply until one of the two ends.

        Raises Unreached when the engine can have seen nothing of it, Refused for every other failure; the reply is
        then in whatever phase it reached, and takes the refusal. Cancelled (the caller left): the connection to the
        engine is closed, which is how every engine learns to stop working.
        """
        clock = asyncio.get_running_loop().time
        sent_at = clock()
        response = await self._answer_head(call, reply)
        _tell_of_its_end(response)
        try:
            reply.timings["prefill"] = clock() - sent_at
            if not 200 <= response.status < 300:
                await self._pass_error(response, reply)
            elif not _is_plain(response):
                raise refuse("backend_protocol_error", "The engine's answer is coded in a way that nobody asked for.")
            elif response.content_type == "text/event-stream":
                await self._pass_stream(response, reply, StreamWatch(reply.dialect, choices=call.choices), sent_at)
            elif not reply.is_open:
                raise refuse("backend_protocol_error", "The engine answered a stream with something else.")
            else:
                await self._pass_whole(response, reply, sent_at)
        finally:
            response.close()

    async def page(self, path: str, *, within: float, at_most: int) -> tuple[str, bytes]:
        """(content type, body) of a small page of the engine's own, such as its metrics. Raises Refused."""
        call = Call("GET", path, [])
        try:
            async with asyncio.timeout(within):
                response = await self._send(call)
                try:
                    body = bytearray()
                    while len(body) <= at_most and (data := await _read(response)):
                        body += data
                finally:
                    response.close()
        except TimeoutError as error:
            raise refuse("backend_timeout", f"The engine did not show {path} within {within:g} s.") from error
        except (Unreached, aiohttp.ClientError) as error:
            raise refuse("backend_unavailable", f"The engine did not show {path}.") from error
        if response.status != 200 or not _is_plain(response):
            raise refuse("route_not_supported", f"This engine shows nothing at {path} (it answers {response.status}).")
        if len(body) > at_most:
            raise refuse("backend_protocol_error", f"The engine's {path} is longer than {at_most} bytes.")
        return response.headers.get("Content-Type", "text/plain"), bytes(body)

    # -- the request ---------------------------------------------------------------------------

    async def _answer_head(self, call: Call, reply: Reply) -> aiohttp.ClientResponse:
        """Send it, keep the caller company, and come back with the head of the answer."""
        sending = asyncio.ensure_future(self._send(call))
        limit = self._limits.first_byte if reply.streams else self._limits.answer
        clock = asyncio.get_running_loop().time
        deadline = clock() + limit
        try:
            while True:
                wait = min(self._limits.heartbeat, deadline - clock()) if reply.streams else deadline - clock()
                done, _ = await asyncio.wait({sending}, timeout=max(0, wait))
                if done:
                    return sending.result()
                if clock() >= deadline:
                    raise refuse("backend_timeout", f"The engine did not begin to answer within {limit:g} s.")
                await reply.heartbeat("working on the prompt")
        except BaseException:
            await _put_down(sending)
            raise

    async def _send(self, call: Call) -> aiohttp.ClientResponse:
        headers = [*call.headers, ("Accept-Encoding", "identity")]
        if self._endpoint.key is not None:
            headers.append(("Authorization", f"Bearer {self._endpoint.key}"))
        if call.length is not None:
            headers.append(("Content-Length", str(call.length)))
        body = call.body if isinstance(call.body, AsyncIterator) else _each(call.body)
        carries = call.method == "POST"
        try:
            return await self._session.request(
                call.method,
                URL(self._base + call.path, encoded=True),
                headers=headers,
                data=body if carries else None,
                allow_redirects=False,
            )
        except aiohttp.ClientConnectorError as error:
            raise Unreached(str(error)) from error
        except TimeoutError as error:  # sock_connect is the only timer that aiohttp has here
            raise Unreached("no connection in time") from error
        except aiohttp.ClientResponseError as error:
            raise _protocol_error() from error
        except aiohttp.ClientPayloadError as error:
            raise _protocol_error() from error
        except (aiohttp.ClientError, OSError) as error:
            if isinstance(error.__cause__, Refused | CallerLeft):  # an upload that went wrong on its way to us
                raise error.__cause__ from None
            if self._was_never_read(call, error):
                raise Unreached("the engine ended before it read this") from error
            # The connection broke before an answer: the engine may have begun, so this is never sent again.
            raise refuse("backend_lost", "The engine closed the connection before it answered.") from error
        except ValueError as error:
            raise _protocol_error() from error

    def _was_never_read(self, call: Call, error: Exception) -> bool:
        """Whether a broken connection proves that the engine cannot have begun.

        An engine that dies closes the door after its connections, so that whoever comes in that moment gets in and is
        reset. On a unix socket a reset says more than on TCP: the other end closed with bytes unread, or before it
        accepted (Linux, unix_release_sock). It then had no whole request, and what it never had it cannot have run.
        """
        return (
            self._endpoint.socket is not None
            and not isinstance(call.body, AsyncIterator)
            and isinstance(error, OSError)
            and error.errno in (errno.ECONNRESET, errno.EPIPE)
        )

    # -- the answer ----------------------------------------------------------------------------

    async def _pass_stream(
        self, response: aiohttp.ClientResponse, reply: Reply, watch: StreamWatch, sent_at: float
    ) -> None:
        """Whole events as they come, until the engine has said everything. An unfinished event is kept, so that an
        error event can always follow; only after one that was too long to keep is a cut all that is left to say."""
        cutter, usage = EventCutter(), UsageWatch()
        await reply.begin(response.status, answer_headers(response.headers.items()), length=None)
        try:
            await self._pass_events(response, reply, cutter, watch, usage, sent_at)
        except Refused:
            if cutter.cut_only:
                reply.cut()
            reply.next_sequence = watch.sequence
            raise
        finally:
            reply.usage = usage.usage
        await reply.finish()

    async def _pass_events(
        self,
        response: aiohttp.ClientResponse,
        reply: Reply,
        cutter: EventCutter,
        watch: StreamWatch,
        usage: UsageWatch,
        sent_at: float,
    ) -> None:
        clock = asyncio.get_running_loop().time
        last_read, seen_any = clock(), False
        while True:
            limit = self._limits.gap if seen_any else self._limits.first_byte
            try:
                async with asyncio.timeout(self._limits.heartbeat):
                    data = await _read(response)
            except TimeoutError:
                if clock() - last_read >= limit:
                    code = "backend_stalled" if seen_any else "backend_timeout"
                    raise refuse(code, f"The engine sent nothing for {limit:g} s.") from None
                if not cutter.cut_only:
                    await reply.heartbeat("waiting for the engine" if seen_any else "working on the prompt")
                continue
            except (aiohttp.ClientError, OSError) as error:
                raise refuse("backend_lost", "The engine ended in the middle of this answer.") from error
            if not data:
                break
            if not seen_any:
                seen_any = True
                reply.timings.setdefault("first_event", clock() - sent_at)
            last_read = clock()
            events = watch.feed(cutter.feed(data))
            usage.feed(events)
            reply.events += events.count(b"data:")
            await reply.pass_on(events)
            if watch.failure is not None:
                raise Refused(watch.failure)
        events = watch.end(cutter.rest())
        usage.feed(events)
        await reply.pass_on(events)
        if watch.failure is not None:
            raise Refused(watch.failure)
        if not watch.ended_properly:
            raise refuse("backend_lost", "The engine's stream ended before the answer did.")

    async def _pass_whole(self, response: aiohttp.ClientResponse, reply: Reply, sent_at: float) -> None:
        """An answer in one piece: small ones are complete before their head goes out."""
        headers = list(answer_headers(response.headers.items()))
        gathered = bytearray()
        clock = asyncio.get_running_loop().time
        deadline = sent_at + self._limits.answer
        content_type = response.headers.get("Content-Type", "application/octet-stream")
        try:
            async with asyncio.timeout_at(deadline):
                while len(gathered) < GATHER:
                    data = await _read(response)
                    if not data:
                        lost = lost_in(bytes(gathered))
                        if lost is not None:
                            raise Refused(lost)
                        if _is_cut(response, gathered):
                            raise refuse("backend_lost", "The engine ended in the middle of this answer.")
                        reply.usage = usage_in(bytes(gathered))
                        rest = [(name, value) for name, value in headers if name.lower() != "content-type"]
                        await reply.answer(response.status, bytes(gathered), rest, content_type=content_type)
                        return
                    gathered += data
                await reply.begin(response.status, headers, length=response.content_length)
                await reply.pass_on(bytes(gathered))
                tail = b""
                while data := await _read(response):
                    await reply.pass_on(data)
                    tail = (tail + data)[-TAIL:]
                reply.usage = usage_in(tail, bytes(gathered[:TAIL]))
                if lost := lost_in(tail):
                    raise Refused(lost)
        except TimeoutError as error:
            waited = clock() - sent_at
            raise refuse("backend_timeout", f"The engine's answer was not complete after {waited:.0f} s.") from error
        except aiohttp.ClientError as error:
            raise refuse("backend_lost", "The engine ended in the middle of this answer.") from error
        await reply.finish()

    async def _pass_error(self, response: aiohttp.ClientResponse, reply: Reply) -> None:
        """The engine's own error, in our shape; to a caller who already hears a stream, as an event."""
        body = bytearray()
        try:
            async with asyncio.timeout(self._limits.connect):
                while len(body) < ERROR_BODY_MAX and (data := await _read(response)):
                    body += data
        except (TimeoutError, aiohttp.ClientError):
            pass  # what came of the body is enough: the status already says that it failed
        said = bytes(body) if _is_plain(response) else b""
        answer = error_from_engine(response.status, response.headers.get("Content-Type", ""), said)
        if reply.is_open:
            headers = [(n, v) for n, v in answer_headers(response.headers.items()) if n.lower() != "content-type"]
            await reply.answer(answer.status, answer.body, headers)
        else:
            raise Refused(answer.refusal)


class Upstreams:
    """The connections to each endpoint that answers now; one that is gone is closed."""

    def __init__(self, make: Callable[[Endpoint], Upstream]) -> None:
        self._make = make
        self._open: dict[str, tuple[Endpoint, Upstream]] = {}
        self._closing: set[asyncio.Task[None]] = set()

    def to(self, name: str, endpoint: Endpoint) -> Upstream:
        known = self._open.get(name)
        if known is not None and known[0] == endpoint:
            return known[1]
        if known is not None:
            self._let_go(known[1])
        upstream = self._make(endpoint)
        self._open[name] = (endpoint, upstream)
        return upstream

    def _let_go(self, upstream: Upstream) -> None:
        task = asyncio.get_running_loop().create_task(upstream.close())
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    async def close(self) -> None:
        for _, upstream in self._open.values():
            self._let_go(upstream)
        self._open.clear()
        await asyncio.gather(*self._closing)


def _tell_of_its_end(response: aiohttp.ClientResponse) -> None:
    """See to it that a reader hears of a connection that ended early.

    When chunks break in a later read, aiohttp closes the connection and tells nobody: whoever reads would wait until
    its own clock is over (3.14.5; a test states it).
    """
    content, connection = response.content, response.connection
    closed = connection.protocol.closed if connection is not None and connection.protocol is not None else None

    def tell(closed: "asyncio.Future[None]") -> None:
        closed.exception()  # taken, so that it is not reported as lost
        if not content.is_eof() and content.exception() is None:
            content.set_exception(aiohttp.ClientPayloadError("the connection ended before the answer"))

    if closed is not None:
        closed.add_done_callback(tell)


async def _read(response: aiohttp.ClientResponse) -> bytes:
    """The next bytes of the answer, b"" at its end. Raises ClientError."""
    try:
        return await response.content.readany()
    except RuntimeError as error:  # aiohttp's word for a connection that is gone, until `_tell_of_its_end` has told
        raise aiohttp.ClientPayloadError("the connection ended before the answer") from error


def _is_plain(response: aiohttp.ClientResponse) -> bool:
    """Whether the body is in no coding but chunks: a compressed one, which was not asked for, would pass unlabelled."""
    codings = response.headers.getall("Content-Encoding", ()), response.headers.getall("Transfer-Encoding", ())
    content, transfer = ({value.strip().lower() for value in values} for values in codings)
    return content <= {"", "identity"} and transfer <= {"chunked"}


def _is_cut(response: aiohttp.ClientResponse, body: bytearray) -> bool:
    """Whether an answer that only the end of its connection ends (RFC 9112, 6.3) stops in the middle of its JSON."""
    has_end = response.status == 204 or not {"Content-Length", "Transfer-Encoding"}.isdisjoint(response.headers)
    if has_end or response.content_type != "application/json":
        return False
    try:
        json.loads(body)
    except (ValueError, RecursionError):
        return True
    return False


def _protocol_error() -> Refused:
    return refuse("backend_protocol_error", "The engine's answer was not proper HTTP.")


async def _each(chunks: Sequence[bytes]) -> AsyncIterator[bytes]:
    for chunk in chunks:
        yield chunk


async def _put_down(task: "asyncio.Future[aiohttp.ClientResponse]") -> None:
    """End a request that nobody waits for any more; if its answer came in this very moment, close that."""
    task.cancel()
    try:
        (await task).close()
    except (asyncio.CancelledError, Unreached, Refused):
        pass  # ended, as asked
