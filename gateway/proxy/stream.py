"""The way of a chunk: from the engine's read to the caller's connection, in one call and without a pause.

    read ──► whole events (`EventCutter`) ──► may they pass? (`StreamWatch`) ──► tokens? (`UsageWatch`) ──► written

`EventStream.take` is called by the upstream connection for each read and writes what may pass at once. What arrives as
one whole chunk is written as it came, framing included. When the caller's buffer is full the engine is asked to wait,
and the task that carries the request is woken to wait for the caller. Nothing here waits, and nothing is parsed.
"""

import asyncio
import re
from typing import Final

from gateway.errors import Refused, refuse
from gateway.proxy.connection import Connection
from gateway.proxy.dialects import StreamWatch, lost_in
from gateway.proxy.framing import EventCutter
from gateway.proxy.gathered import Gathered
from gateway.proxy.loading_text import LoadingText
from gateway.proxy.outgoing import renamed_events
from gateway.proxy.reply import Reply
from gateway.proxy.usage import UsageWatch, usage_in

_SAYS: Final = re.compile(
    rb'"(?:content|reasoning_content|reasoning|text|refusal|arguments|partial_json|delta|thinking)"\s*:\s*"[^"]'
)
"""A token in an event of any dialect: the first ones say a role, or nothing."""


class EventStream:
    """One answer's events on their way. Made when the engine's head has come."""

    __slots__ = (
        "_clock",
        "_connection",
        "_cutter",
        "_reply",
        "_usage",
        "_watch",
        "first_event",
        "last_event",
        "longest_gap",
    )

    def __init__(self, connection: Connection, reply: Reply, *, choices: int, hides_usage: bool = False) -> None:
        """`hides_usage`: only the gateway asked for the count of tokens, so its caller does not see it."""
        self._connection = connection
        self._reply = reply
        self._cutter = EventCutter()
        self._watch = StreamWatch(reply.dialect, choices=choices)
        self._usage = UsageWatch(strip=hides_usage)
        self._clock = asyncio.get_running_loop().time
        self.first_event: float | None = None
        """Loop time."""
        self.last_event: float | None = None
        self.longest_gap = 0.0
        """Seconds between two reads."""

    def __repr__(self) -> str:
        return f"<EventStream {self._cutter!r} {self._watch!r}>"

    def take(self, body: bytes, read: bytes | None) -> None:
        """What came of the engine's body; `read`: the read itself where it may be passed on as it is.

        Raises Refused when the engine failed in it, and CallerLeft.
        """
        now = self._clock()
        if self.last_event is None:
            self.first_event = now
        elif now - self.last_event > self.longest_gap:
            self.longest_gap = now - self.last_event
        self.last_event = now
        events = self._watch.feed(self._cutter.feed(body))
        self._pass(events, read if events is body else None)
        if self._watch.failure is not None:
            raise Refused(self._watch.failure)

    def _pass(self, events: bytes, framed: bytes | None = None) -> None:
        if not events:
            return
        reply = self._reply
        if reply.first_token_at is None and _SAYS.search(events):
            reply.first_token_at = self._clock()
        reply.events += events.count(b"data:")
        shown = self._usage.feed(events)
        if not reply.pass_now(shown, framed if shown is events else None):
            self._connection.pause()
            self._connection.wake()

    def resume(self) -> None:
        """The caller reads again. The time in which the engine had to wait is no gap of its own."""
        self.last_event = self._clock()
        self._connection.resume()

    def end(self) -> None:
        """The engine closed its answer: what it left unfinished passes if it ends the answer. Raises Refused."""
        self._pass(self._watch.end(self._cutter.rest()))
        if self._watch.failure is not None:
            raise Refused(self._watch.failure)
        if not self._watch.ended_properly:
            raise refuse("backend_lost", "The engine's stream ended before the answer did.")

    @property
    def has_ended(self) -> bool:
        """Whether the engine has said that this was all."""
        return self._watch.has_ended

    @property
    def may_be_interrupted(self) -> bool:
        """Whether something of ours may follow what was passed."""
        return not self._cutter.cut_only

    def settle(self) -> None:
        """Whatever the end: tell the reply what was seen, and what is left for it to say."""
        self._reply.usage = self._usage.usage
        self._reply.longest_gap = self.longest_gap
        self._reply.next_sequence = self._watch.sequence


JOINED_MAX: Final = 1024 * 1024
"""Bytes of an event that are held until it is whole, where its chunk has to go on from what was shown. An event that
is longer passes as it came."""


class JoinedStream(EventStream):
    """The events of an answer whose caller was shown a text meanwhile: they go on from it, as chunks of one stream."""

    __slots__ = ("_held", "_text")

    def __init__(
        self, connection: Connection, reply: Reply, text: LoadingText, *, choices: int, hides_usage: bool = False
    ) -> None:
        super().__init__(connection, reply, choices=choices, hides_usage=hides_usage)
        self._text = text
        self._held = b""
        """Of one event, too long for the cutter to keep."""

    def _pass(self, events: bytes, framed: bytes | None = None) -> None:
        if self._held:
            events, self._held = self._held + events, b""
        if self._cutter.cut_only and len(events) <= JOINED_MAX:
            self._held = events
        else:
            super()._pass(self._text.joined(events))

    def end(self) -> None:
        held, self._held = self._held, b""
        super()._pass(self._text.joined(held))
        super().end()


def stream_into(connection: Connection, reply: Reply, *, choices: int, hides_usage: bool = False) -> EventStream:
    """The way of this answer's events."""
    text = reply.loading_text
    if text is not None and text.has_begun:
        return JoinedStream(connection, reply, text, choices=choices, hides_usage=hides_usage)
    return EventStream(connection, reply, choices=choices, hides_usage=hides_usage)


GATHERED_MAX: Final = 64 * 1024 * 1024
"""What MAX_RESPONSE_SIZE is for an answer that is put together here, where nobody set it. Bytes."""


class GatheredStream(EventStream):
    """The events of an answer whose caller asked for no stream: put together, and said at their end."""

    __slots__ = ("_gathered", "_most")

    def __init__(self, connection: Connection, reply: Reply, *, kind: str, choices: int, most: int | None) -> None:
        """`kind`: what the whole answer is called. `most`: bytes that it may have."""
        super().__init__(connection, reply, choices=choices)
        self._gathered = Gathered(kind, choices=choices)
        self._most = most or GATHERED_MAX

    def _pass(self, events: bytes, framed: bytes | None = None) -> None:
        if events:
            self._reply.events += events.count(b"data:")
            self._gathered.feed(events)
            if self._gathered.size > self._most:
                raise too_long(self._most)

    def answer(self) -> bytes:
        """The JSON of the whole answer. Raises Refused when it is not whole."""
        return self._gathered.answer()

    def settle(self) -> None:
        self._reply.usage = self._gathered.usage
        self._reply.longest_gap = self.longest_gap


class RenamedStream:
    """Before a stream that is somebody else's: in each event the model is called as its caller called it."""

    __slots__ = ("_cutter", "_model", "_stream")

    def __init__(self, stream: EventStream, model: str) -> None:
        self._stream = stream
        self._cutter = EventCutter()
        self._model = model

    def __repr__(self) -> str:
        return f"<RenamedStream {self._model!r} {self._stream!r}>"

    def take(self, body: bytes, read: bytes | None) -> None:
        self._stream.take(renamed_events(self._cutter.feed(body), self._model), None)

    def end(self) -> None:
        """What is left is no whole event; the stream judges it."""
        if rest := self._cutter.rest():
            self._stream.take(rest, None)


TAIL: Final = 4096
"""Bytes at the end of a long answer in which an engine that is going down says so."""


class LongAnswer:
    """An answer in one piece that is too long to be held: it passes as it comes, and its ends are looked at."""

    __slots__ = ("_beginning", "_closes", "_connection", "_most", "_reply", "_size", "_tail")

    def __init__(self, connection: Connection, reply: Reply, *, closes: tuple[bytes, ...], most: int | None) -> None:
        """`closes`: what its last byte is one of, where nothing else tells its end from a cut; empty: something does.
        `most`: bytes that it may have."""
        self._closes = closes
        self._connection = connection
        self._reply = reply
        self._most = most
        self._size = 0
        self._beginning = b""
        self._tail = b""

    def __repr__(self) -> str:
        return f"<LongAnswer {self._size} bytes>"

    def take(self, body: bytes, read: bytes | None) -> None:
        """Raises Refused when it gets longer than it may, and CallerLeft."""
        self._size += len(body)
        if self._most is not None and self._size > self._most:
            raise too_long(self._most)
        if not self._beginning:
            self._beginning = body[:TAIL]
        self._tail = body[-TAIL:] if len(body) >= TAIL else (self._tail + body)[-TAIL:]
        if not self._reply.pass_now(body, read):
            self._connection.pause()
            self._connection.wake()

    def end(self) -> None:
        """All of it came. Raises Refused when the engine says in it that it gave up."""
        self._reply.usage = usage_in(self._tail, self._beginning)
        if (lost := lost_in(self._tail)) is not None:
            raise Refused(lost)
        if self._closes and not self._tail.rstrip().endswith(self._closes):
            raise refuse("backend_lost", "The engine ended in the middle of this answer.")


def too_long(most: int) -> Refused:
    return refuse("backend_protocol_error", f"The engine's answer is longer than MAX_RESPONSE_SIZE ({most} bytes).")
