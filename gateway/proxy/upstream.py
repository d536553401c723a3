"""Speaks to the engine: one request out, its answer into a Reply, behind one call: `pipe(call, reply)`.

    take or open a connection ──► ask, and keep a stream's caller company ──► the head: what kind of answer is it?
      ├─ an event stream: `EventStream` passes each read on as it comes; here only time is kept
      ├─ anything else: complete before its head goes out, or, when it is long, passed on as it comes
      └─ an error: read, put into our shape, told

Every failure leaves as a `Refused`, typed by whose fault it is and saying which limit it was, so that nothing of the
connection is known outside this room. A POST that may have run is never sent twice (`Connection.was_unread`).
"""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from math import inf
from typing import Final, cast

from yarl import URL

from gateway.errors import Refused, refuse
from gateway.providers.base import Endpoint
from gateway.proxy.connection import HELD, Connection, Lost
from gateway.proxy.dialects import lost_in
from gateway.proxy.headers import answer_headers, error_from_engine
from gateway.proxy.http1 import Head, Malformed
from gateway.proxy.outgoing import answer_in, error_status, may_begin
from gateway.proxy.pool import Pool
from gateway.proxy.reply import Reply
from gateway.proxy.stream import (
    EventStream,
    GatheredStream,
    LongAnswer,
    RenamedStream,
    stream_into,
    too_long,
)
from gateway.proxy.usage import usage_in

ERROR_BODY_MAX: Final = 64 * 1024
ERROR_WITHIN: Final = 2.0
"""Seconds in which the body of an engine's error comes, or is done without: its status says the most."""
END_WITHIN: Final = 5.0
"""Seconds for the end of its HTTP, after an engine has said that its stream is over."""
AWAY_MAX: Final = 8 * 1024 * 1024
"""What MAX_RESPONSE_SIZE is for an answer in one piece that is somebody else's, where nobody set it. Bytes."""
JOINED: Final = 64 * 1024
"""Bytes of a body that go out in one write with their head; more is sent by and by, as fast as the engine reads."""


class Unreached(Exception):
    """Nothing of the request can have been read by the engine: it may be sent again."""

    def __init__(self, why: str, *, limit: str = "") -> None:
        """`limit`: the one that was exceeded, in words for the caller; `why` may name what is none of its business."""
        super().__init__(why)
        self.limit = limit


class Declined(Exception):
    """Somebody else was asked (`Call.away`), and gave no answer. Its caller has heard nothing of that."""

    def __init__(
        self, status: int, body: bytes = b"", retry_after: str | None = None, *, was_read: bool = False
    ) -> None:
        """`was_read`: it did something, if not what was asked: that may be paid for."""
        super().__init__(f"status {status}")
        self.status = status
        self.body = body
        self.retry_after = retry_after
        self.was_read = was_read


@dataclass(frozen=True, slots=True)
class Away:
    """For a call that goes to somebody else, not to our engine: what is no answer is raised as `Declined`, and of the
    answer's headers the type alone passes: the others are about an account of the operator's."""

    model: str | None
    """What its answers' model is called here; None: as they call it."""
    on_answer: Callable[[bool], None] = field(default=lambda streams: None, repr=False)
    """Called before anything of an answer is passed on: with True for a stream, whose first event has come, with False
    for any other, which has come whole."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Seconds, each for one wait; and bytes."""

    connect: float
    first_byte: float
    """From the request until a stream's first event."""
    answer: float
    """The whole of an answer that does not stream."""
    gap: float
    """Between two reads of a stream."""
    heartbeat: float
    """How long a stream's caller hears nothing."""
    size: int | None = None
    """Bytes of an answer that does not stream."""


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
    pulse: float = inf
    """Seconds for which its caller can hear nothing of a stream, where that is less than for others."""
    hides_usage: bool = False
    """Only the gateway asked for the count of tokens in this stream."""
    gathered: str | None = None
    """What the whole answer is called, where the engine streams it and the caller asked for no stream."""

    away: Away | None = None
    """None: it is our engine that is asked."""
    on_heard: Callable[[], None] = field(default=lambda: None, repr=False)
    """Called when the engine answers: nothing of this will be sent again."""

    def was_heard(self) -> None:
        self.body, self.headers = (), []
        self.on_heard()

    @property
    def passes_by(self) -> bool:
        """Whether its body comes while it is sent, so that it can be sent once only."""
        return hasattr(self.body, "__anext__")

    def head(self, start: bytes) -> bytes:
        """As it goes out behind `start`, the lines that every request of its path has."""
        lines = [f"{name}: {value}\r\n" for name, value in self.headers]
        if self.length is not None:
            lines.append(f"Content-Length: {self.length}\r\n")
        elif self.method == "POST":
            lines.append("Transfer-Encoding: chunked\r\n")
        lines.append("\r\n")
        return start + "".join(lines).encode("latin-1")


class Upstream:
    """One endpoint. Close it when its instance is gone."""

    def __init__(self, endpoint: Endpoint, limits: Limits) -> None:
        self._endpoint = endpoint
        self._limits = limits
        self._pool = Pool(endpoint, connect=limits.connect)
        self._clock = asyncio.get_running_loop().time
        self._starts: dict[tuple[str, str], bytes] = {}

    def __repr__(self) -> str:
        return f"<Upstream {self._endpoint.socket or self._endpoint.url + self._endpoint.prefix}>"

    def close(self) -> None:
        """Nothing more will be asked here: idle connections end now, those at work with their answer."""
        self._pool.close()

    async def pipe(self, call: Call, reply: Reply) -> None:
        """Send the call and carry its answer into the reply until one of the two ends.

        Raises Unreached when the engine can have seen nothing of it, Refused for every other failure; the reply is
        then in whatever phase it reached, and takes the refusal. Cancelled (the caller left): the connection to the
        engine is closed, which is how every engine learns to stop working.
        """
        connection = None if call.passes_by else self._pool.take()
        if connection is not None:
            try:
                await self._exchange(connection, call, reply)
                return
            except Unreached:
                pass  # the engine had closed this one: a new connection loses nothing
        await self._exchange(await self._open(), call, reply)

    async def page(self, path: str, *, within: float, at_most: int) -> tuple[str, bytes]:
        """(content type, body) of a small page of the engine's own, such as its metrics. Raises Refused."""
        try:
            async with asyncio.timeout(within):
                head, body = await self._look_at(path, at_most)
        except TimeoutError as error:
            raise refuse("backend_timeout", f"The engine did not show {path} within {within:g} s.") from error
        except Unreached as error:
            raise refuse("backend_unavailable", f"The engine did not show {path}.") from error
        if head.status != 200 or not _is_plain(head):
            raise refuse("route_not_supported", f"This engine shows nothing at {path} (it answers {head.status}).")
        if len(body) > at_most:
            raise refuse("backend_protocol_error", f"The engine's {path} is longer than {at_most} bytes.")
        return head.get("content-type") or "text/plain", body

    async def _look_at(self, path: str, at_most: int) -> tuple[Head, bytes]:
        call, body = Call("GET", path, []), bytearray()
        connection = await self._open()
        try:
            connection.ask("GET", call.head(self._start(call)))
            while connection.head is None or not (connection.is_over or len(body) > at_most):
                if connection.failure is not None:
                    break
                await connection.news(self._limits.answer)
                body += connection.release()
            if connection.failure is not None or connection.head is None:
                raise self._why(connection, call)
            return connection.head, bytes(body)
        finally:
            self._pool.give_back(connection, streamed=False)

    # -- the request ---------------------------------------------------------------------------

    async def _open(self) -> Connection:
        try:
            return await self._pool.open()
        except TimeoutError as error:
            limit = f"CONNECT_TIMEOUT ({self._limits.connect:g} s)"
            raise Unreached(f"no connection within {limit}", limit=limit) from error
        except OSError as error:  # also TLS that is not right
            raise Unreached(str(error) or type(error).__name__) from error

    async def _exchange(self, connection: Connection, call: Call, reply: Reply) -> None:
        sent_at = self._clock()
        streamed, feeding = False, None
        try:
            feeding = self._ask(connection, call)
            head = await self._until_head(connection, call, reply)
            reply.timings["prefill"] = self._clock() - sent_at
            if call.away is not None:
                await self._let_decline(connection, call, head, reply, sent_at)
                if reply.streams:
                    call.away.on_answer(True)
            if feeding is None or feeding.done():
                call.was_heard()
            else:
                feeding.add_done_callback(lambda _: call.was_heard())  # it still reads what would be let go
            if not 200 <= head.status < 300:
                await self._pass_error(connection, head, reply)
            elif not _is_plain(head):
                raise refuse("backend_protocol_error", "The engine compressed its answer, and was asked not to.")
            elif _media_type(head) == "text/event-stream":
                streamed = True
                if call.gathered is None:
                    await self._pass_stream(connection, head, reply, call, sent_at)
                else:
                    await self._pass_gathered(connection, head, reply, call, sent_at)
            elif not reply.is_open:
                raise refuse("backend_protocol_error", "The engine was asked for a stream and answered otherwise.")
            elif call.away is not None:
                await self._pass_renamed(connection, head, reply, call, sent_at)
            else:
                await self._pass_whole(connection, head, reply, call, sent_at)
        finally:
            try:
                if feeding is not None:
                    await _put_down(feeding)
            finally:
                self._pool.give_back(connection, streamed=streamed)

    def _ask(self, connection: Connection, call: Call) -> asyncio.Future[None] | None:
        """Send it; what is too long for one write by a task, which may still have some when the answer begins."""
        start, body = call.head(self._start(call)), call.body
        if (call.length or 0) <= JOINED and not call.passes_by:
            connection.ask(call.method, b"".join((start, *cast("Sequence[bytes]", body))))
            return None
        connection.ask(call.method, start, more=True)
        return asyncio.ensure_future(_feed(connection, body, chunked=call.length is None))

    async def _until_head(self, connection: Connection, call: Call, reply: Reply) -> Head:
        """Keep the caller company until the head of the answer has come."""
        limit = self._limits.first_byte if reply.streams else self._limits.answer
        beats = reply.streams and call.away is None  # whoever asks elsewhere keeps its caller company itself
        now = self._clock()
        pulse = min(self._limits.heartbeat, call.pulse)
        deadline, beat = now + limit, now + pulse
        while (head := connection.head) is None:
            if connection.failure is not None:
                raise self._why(connection, call)
            now = self._clock()
            if now >= deadline:
                name = "FIRST_BYTE_TIMEOUT" if reply.streams else "ANSWER_TIMEOUT"
                raise refuse("backend_timeout", f"The engine did not begin to answer within {name} ({limit:g} s).")
            if beats and now >= beat:
                await reply.heartbeat("working on the prompt")
                beat = self._clock() + pulse
                continue
            await connection.news((min(deadline, beat) if beats else deadline) - now)
        return head

    async def _let_decline(self, connection: Connection, call: Call, head: Head, reply: Reply, sent_at: float) -> None:
        """Raises Declined unless what comes is an answer of the kind that was asked for: by its head, and by the first
        event of a stream, because some vendors say their errors there. Raises Refused when no first event comes."""
        kind = _media_type(head)
        if not 200 <= head.status < 300 or not _is_plain(head) or kind not in _ANSWERS:
            raise Declined(head.status, await self._what_it_says(connection, head), head.get("retry-after"))
        if (kind == "text/event-stream") is not reply.streams:
            said = await self._what_it_says(connection, head)
            status = error_status(said)
            raise Declined(status or head.status, said, was_read=not status)
        if not reply.streams:
            return
        deadline = sent_at + self._limits.first_byte
        while (event := _FIRST_EVENT.search(connection.peek())) is None and connection.held < HELD:
            if connection.is_done:
                raise refuse("backend_lost", "The stream ended before anything was said in it.")
            if connection.failure is not None:
                raise self._why(connection, call)
            now = self._clock()
            if now >= deadline:
                raise self._silent(self._limits.first_byte, has_begun=False)
            await connection.news(deadline - now)
        if event is not None and (status := error_status(event[1])):
            raise Declined(status, event[1])
        if event is not None and not may_begin(event[1]):
            raise Declined(head.status, was_read=True)

    def _start(self, call: Call) -> bytes:
        """The lines that each request of this path begins with."""
        known = self._starts.get((call.method, call.path))
        if known is None:
            url = URL(self._endpoint.url + self._endpoint.prefix + call.path, encoded=True)
            lines = [f"{call.method} {url.raw_path_qs} HTTP/1.1", f"Host: {url.host_port_subcomponent}"]
            lines.append("Accept-Encoding: identity")
            if self._endpoint.key is not None:
                lines.append(f"Authorization: Bearer {self._endpoint.key}")
            if any(_BREAKS.search(line) for line in lines):
                raise refuse("backend_unavailable", "The engine's address or key holds a line end.")
            known = self._starts[call.method, call.path] = "".join(f"{line}\r\n" for line in lines).encode()
        return known

    def _why(self, connection: Connection, call: Call) -> Exception:
        """What the failure of this connection means for its request."""
        failure = connection.failure
        if isinstance(failure, Malformed):
            return refuse("backend_protocol_error", f"The engine's answer was not proper HTTP. {failure}")
        if not isinstance(failure, Lost):  # of who sent the body or took the answer: Refused, CallerLeft, or our fault
            return failure or Lost("nothing came")
        if connection.head is not None:
            return refuse("backend_lost", "The engine ended in the middle of this answer.")
        if connection.was_unread and not call.passes_by:
            return Unreached("the engine ended before it read this")
        # The connection broke before an answer: the engine may have begun, so this is never sent again.
        return refuse("backend_lost", "The engine closed the connection before it answered.")

    # -- the answer ----------------------------------------------------------------------------

    async def _pass_stream(self, connection: Connection, head: Head, reply: Reply, call: Call, sent_at: float) -> None:
        """Whole events as they come, until the engine has said everything. An unfinished event is kept, so that an
        error event can always follow; only after one that was too long to keep is a cut all that is left to say."""
        stream = stream_into(connection, reply, choices=call.choices, hides_usage=call.hides_usage)
        reply.begin_now(head.status, _passing(head, call), length=None)
        head.let_go()
        away = call.away
        renamed = RenamedStream(stream, away.model) if away is not None and away.model is not None else None
        try:
            connection.flow_to(stream.take if renamed is None else renamed.take)
            await reply.flush()
            await self._keep_time(connection, stream, reply, sent_at, pulse=call.pulse)
            if stream.first_event is not None:
                reply.timings["first_event"] = stream.first_event - sent_at
            if renamed is not None:
                renamed.end()
            self._end(connection, stream, call)
        except BaseException:  # a drain and MAX_REQUEST_SECONDS cancel it, and have something to say, too
            if not stream.may_be_interrupted:
                reply.cut()
            raise
        finally:
            stream.settle()
        await reply.finish()

    async def _pass_gathered(
        self, connection: Connection, head: Head, reply: Reply, call: Call, sent_at: float
    ) -> None:
        """A stream that its caller did not ask for, as the one answer that it would have been."""
        stream = GatheredStream(
            connection, reply, kind=call.gathered or "", choices=call.choices, most=self._limits.size
        )
        try:
            connection.flow_to(stream.take)
            await self._keep_time(connection, stream, reply, sent_at, deadline=sent_at + self._limits.answer)
            self._end(connection, stream, call)
            body = stream.answer()
        finally:
            stream.settle()
        headers = _but_its_type(answer_headers(head.headers))
        await reply.answer(head.status, body, headers)

    async def _keep_time(
        self,
        connection: Connection,
        stream: EventStream,
        reply: Reply,
        sent_at: float,
        *,
        pulse: float = inf,
        deadline: float = inf,
    ) -> None:
        """Until the engine has said everything, or failed: wait for a caller who reads slowly, and say so when the
        engine is silent for too long. While events flow there is nothing to do here."""
        limits, beat = self._limits, self._clock()
        pulse = min(limits.heartbeat, pulse)
        while not connection.is_over:
            if self._clock() >= deadline:
                raise self._too_late()
            if connection.is_paused:  # not: is the caller behind? It may have caught up before we came to look
                await reply.drain()
                stream.resume()
                continue
            now = self._clock()
            since = stream.last_event or sent_at
            limit = limits.gap if stream.last_event else limits.first_byte
            if stream.has_ended:
                limit = min(limit, END_WITHIN)
            if now - since >= limit:
                if stream.has_ended:
                    return  # all that is missing is the end of its HTTP
                raise self._silent(limit, has_begun=stream.last_event is not None)
            beat = max(beat, since)
            if now - beat >= pulse:
                if stream.may_be_interrupted and not stream.has_ended:
                    await reply.heartbeat("waiting for the engine" if stream.last_event else "working on the prompt")
                beat = self._clock()
                continue
            await connection.news(min(since + limit, beat + pulse, deadline) - now)

    def _end(self, connection: Connection, stream: EventStream, call: Call) -> None:
        """Raises what ended it early. When the engine has said that this was all, the end of its connection takes
        nothing away, however rude: it is the last thing of an engine that goes."""
        if connection.failure is not None and not (isinstance(connection.failure, Lost) and stream.has_ended):
            raise self._why(connection, call)
        stream.end()

    async def _pass_whole(self, connection: Connection, head: Head, reply: Reply, call: Call, sent_at: float) -> None:
        """An answer in one piece: small ones are complete before their head goes out."""
        size = self._limits.size
        if size is not None and head.length is not None and head.length > size:
            raise too_long(size)
        deadline = sent_at + self._limits.answer
        while not connection.is_over and connection.held < HELD:
            await self._more(connection, deadline)
        if connection.failure is not None:
            raise self._why(connection, call)
        if size is not None and connection.held > size:
            raise too_long(size)
        if connection.is_done:
            await self._answer(connection.release(), head, reply, answer_headers(head.headers))
            return
        closes = (b"}", b"]") if _only_its_end_ends(head) else ()
        answer = LongAnswer(connection, reply, closes=closes, most=size)
        reply.begin_now(head.status, answer_headers(head.headers), length=head.length)
        connection.flow_to(answer.take)
        await reply.flush()
        while not connection.is_over:
            if connection.is_paused:
                await reply.drain()
                connection.resume()
            else:
                await self._more(connection, deadline)
        if connection.failure is not None:
            raise self._why(connection, call)
        answer.end()
        await reply.finish()

    async def _pass_renamed(self, connection: Connection, head: Head, reply: Reply, call: Call, sent_at: float) -> None:
        """An answer of somebody else's in one piece: whole before a word of it is said, so that it may still fail."""
        body = bytearray()
        most = self._limits.size or AWAY_MAX

        def take(data: bytes, read: bytes | None) -> None:
            body.extend(data)
            if len(body) > most:
                raise too_long(most)

        connection.flow_to(take)
        while not connection.is_over:
            await self._more(connection, sent_at + self._limits.answer)
        if connection.failure is not None:
            raise self._why(connection, call)
        away, said = call.away, bytes(body)
        if not said.strip():
            raise refuse("backend_error", "What came is no answer.")
        if status := error_status(said):  # some vendors say their errors with a 200
            raise Declined(status, said)
        whole = answer_in(said, away.model if away is not None else None)
        if whole is None:
            raise Declined(head.status, was_read=True)
        if away is not None:
            away.on_answer(False)
        await self._answer(whole, head, reply, _passing(head, call))

    async def _more(self, connection: Connection, deadline: float) -> None:
        now = self._clock()
        if now >= deadline:
            raise self._too_late()
        await connection.news(deadline - now)

    def _too_late(self) -> Refused:
        said = f"The engine's answer was not complete within ANSWER_TIMEOUT ({self._limits.answer:g} s)."
        return refuse("backend_timeout", said)

    def _silent(self, limit: float, *, has_begun: bool) -> Refused:
        if has_begun:
            return refuse("backend_stalled", f"The engine sent nothing for STREAM_IDLE_TIMEOUT ({limit:g} s).")
        return refuse("backend_timeout", f"The engine's stream did not begin within FIRST_BYTE_TIMEOUT ({limit:g} s).")

    async def _answer(self, body: bytes, head: Head, reply: Reply, headers: list[tuple[str, str]]) -> None:
        lost = lost_in(body)
        if lost is not None:
            raise Refused(lost)
        if _is_cut(head, body):
            raise refuse("backend_lost", "The engine ended in the middle of this answer.")
        reply.usage = usage_in(body)
        rest = _but_its_type(headers)
        content_type = head.get("content-type") or "application/octet-stream"
        await reply.answer(head.status, body, rest, content_type=content_type)

    async def _pass_error(self, connection: Connection, head: Head, reply: Reply) -> None:
        """The engine's own error, in our shape; to a caller who already hears a stream, as an event."""
        if self._endpoint.proxied and head.status in PAGES and _media_type(head) != "application/json":
            if head.status == 524:
                raise refuse("backend_timeout", "The vendor's proxy ended a silence of 100 s.")
            raise refuse("backend_unavailable", "The vendor's proxy says that nothing answers behind it.")
        said = await self._what_it_says(connection, head)
        if head.status == 503 and (code := _CODE_OF_A_WAKEGATE.search(said)) is not None:
            raise Unreached(f"the WakeGate behind it says {code[1].decode()}")
        answer = error_from_engine(head.status, head.get("content-type") or "", said)
        if reply.is_open:
            headers = _but_its_type(answer_headers(head.headers))
            await reply.answer(answer.status, answer.body, headers)
        else:
            raise Refused(answer.refusal)

    async def _what_it_says(self, connection: Connection, head: Head) -> bytes:
        """The body of an error, as far as it comes soon: the status already says that it failed."""
        deadline = self._clock() + ERROR_WITHIN
        while not connection.is_over and connection.held < ERROR_BODY_MAX and (now := self._clock()) < deadline:
            await connection.news(deadline - now)
        return connection.release()[:ERROR_BODY_MAX] if _is_plain(head) else b""


_CODE_OF_A_WAKEGATE: Final = re.compile(rb'"code":"(loading|draining|queue_timeout)"')
"""Of a refusal of ours (errors.py), as we write it: nothing of the request went to the engine behind it."""
PAGES: Final = frozenset({404, 502, 503, 504, 524})
"""What a vendor's proxy answers with itself, in HTML, where nothing is behind it (Cloudflare's and RunPod's)."""


class Upstreams:
    """The connections to each endpoint that answers now; those to one that is gone are closed."""

    def __init__(self, make: Callable[[Endpoint], Upstream]) -> None:
        self._make = make
        self._open: dict[str, tuple[Endpoint, Upstream]] = {}

    def to(self, name: str, endpoint: Endpoint) -> Upstream:
        known = self._open.get(name)
        if known is not None:
            if known[0] is endpoint or known[0] == endpoint:
                return known[1]
            known[1].close()
        upstream = self._make(endpoint)
        self._open[name] = (endpoint, upstream)
        return upstream

    def close(self) -> None:
        for _, upstream in self._open.values():
            upstream.close()
        self._open.clear()


_BREAKS: Final = re.compile(r"[\r\n\0]")


async def _feed(connection: Connection, body: Sequence[bytes] | AsyncIterator[bytes], *, chunked: bool) -> None:
    """A body piece by piece, as fast as the engine reads. What it raises (Refused, CallerLeft) ends the answer."""
    try:
        if isinstance(body, Sequence):
            for piece in body:
                connection.send(piece)
                await connection.drained()
        else:
            async for piece in body:
                connection.send(b"%x\r\n%b\r\n" % (len(piece), piece) if chunked else piece)
                await connection.drained()
            if chunked:
                connection.send(b"0\r\n\r\n")
    except Exception as error:  # whatever it is, the task that carries this request has to hear of it
        connection.fail(error)
    else:
        connection.sent_all()


async def _put_down(task: asyncio.Future[None]) -> None:
    """End it if it still runs."""
    if not task.done():
        task.cancel()
        await asyncio.wait({task})


def _passing(head: Head, call: Call) -> list[tuple[str, str]]:
    """What passes of the headers of an answer to this call."""
    headers = answer_headers(head.headers)
    return (
        headers if call.away is None else [(name, value) for name, value in headers if name.lower() == "content-type"]
    )


def _but_its_type(headers: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """Where the Reply is told of the type apart."""
    return [(name, value) for name, value in headers if name.lower() != "content-type"]


_FIRST_EVENT: Final = re.compile(rb"(?:^|[\r\n])data:[ ]?([^\r\n]+)[\r\n]")
_ANSWERS: Final = frozenset({"application/json", "text/event-stream"})
"""What an API answers with. A page with a 200 is what comes of a wrong address."""


def _media_type(head: Head) -> str:
    return (head.get("content-type") or "").partition(";")[0].strip().lower()


def _is_plain(head: Head) -> bool:
    """Whether the body is in no coding but chunks: a compressed one, which was not asked for, would pass unlabelled."""
    for name, plain in _CODINGS:
        if head.get(name) is not None and not {value.strip().lower() for value in head.all(name)} <= plain:
            return False
    return True


_CODINGS: Final = (("content-encoding", {"", "identity"}), ("transfer-encoding", {"chunked"}))


def _only_its_end_ends(head: Head) -> bool:
    """Whether it is JSON that only the end of its connection ends (RFC 9112, 6.3), as a cut would."""
    return head.length is None and not head.chunked and _media_type(head) == "application/json"


def _is_cut(head: Head, body: bytes) -> bool:
    """Whether such an answer stops in the middle of its JSON."""
    if not _only_its_end_ends(head):
        return False
    try:
        json.loads(body)
    except (ValueError, RecursionError):
        return True
    return False
